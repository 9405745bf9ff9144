"""Data of users in files: LEAF's JSON, plays by role, and tables of text, label and user.

Each loader is a function of options that returns a `Dataset` with users. The text of a file is
UTF-8, or the file is refused.
"""

import csv
import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from farsign_jax.data import texts
from farsign_jax.data.dataset import Dataset
from farsign_jax.io import files
from farsign_jax.validation import DataError, InvalidConfig, check_integer

_TEST = 5  # every fifth example of a user is for testing
_ROLE = re.compile(r"^[ \t]*([A-Z][A-Z '’]{1,30})[.:]?[ \t]*$", re.MULTILINE)


def _text(path: pathlib.Path) -> str:
    """The text of a file.

    Raises:
        DataError: if there is none, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _found(path: str, pattern: str) -> list[pathlib.Path]:
    folder = files.expanded(path)
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"no files {pattern} in {folder}")
    return paths


def plays(path: str, length: int = texts.LENGTH) -> Dataset:
    """Plays by role: a folder of .txt files, where a line in capitals says who speaks next."""
    lines: dict[str, list[str]] = defaultdict(list)
    for file in _found(path, "*.txt"):
        parts = _ROLE.split(_text(file))  # what comes before, then role and speech in turn
        for role, speech in zip(parts[1::2], parts[2::2], strict=True):
            lines[f"{file.stem}: {role}"].append(" ".join(speech.split()))
    spoken = {role: "\n".join(said) for role, said in lines.items()}
    enough = {role: text for role, text in spoken.items() if len(text) > 4 * length}
    if not enough:
        raise DataError(f"no role in {files.expanded(path)} says {4 * length} characters")
    return texts.of_users(enough, length)


def leaf(path: str) -> Dataset:
    """LEAF: folders `train` and `test` of JSON files with `users` and `user_data`.

    Examples are lists of numbers, as in FEMNIST, or texts of one length with the character that
    comes next, as in Shakespeare.
    """
    parts = [list(_leaf_examples(path, part)) for part in ("train", "test")]
    names = {user: n for n, user in enumerate(sorted({user for user, _, _ in parts[0]}))}
    strange = next((user for user, _, _ in parts[1] if user not in names), None)
    if strange is not None:
        raise DataError(f"user {strange!r} of LEAF is tested and has no examples to train on")
    is_text = isinstance(parts[0][0][1], str)
    found: list[np.ndarray] = []
    for part in parts:
        users, x, y = zip(*part, strict=True)
        try:
            inputs = np.stack([texts.encode(v) if is_text else np.float32(v) for v in x])
            labels = [int(texts.encode(v)[0]) if is_text else int(v) for v in y]
        except (ValueError, TypeError) as error:
            raise DataError(f"examples of LEAF differ in shape or type: {error}") from None
        found += [inputs, np.asarray(labels, np.int32)]
        found.append(np.asarray([names[user] for user in users], np.int32))
    x, y, users, test_x, test_y, test_users = found
    classes = len(texts.ALPHABET) if is_text else None
    return Dataset(x, y, test_x, test_y, users, test_users, classes)


def _leaf_examples(path: str, part: str) -> Iterator[tuple[str, Any, Any]]:
    for file in _found(path, f"{part}/*.json"):
        try:
            found = json.loads(_text(file))
            for user in found["users"]:
                own = found["user_data"][user]
                if not own["x"]:
                    raise DataError(f"{file}: user {user!r} has no examples")
                for x, y in zip(own["x"], own["y"], strict=True):
                    yield user, x, y
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is not in the format of LEAF: {error!r}") from None


def tsv(path: str, tokenizer: str = "", length: int = 64) -> Dataset:
    """A table of tab-separated text, label and user, with these names in its first line.

    The second of every five texts of a user is for testing, so that who has one is not tested.

    Args:
        path: of the file.
        tokenizer: a folder with `tokenizer.json`, such as that of the model; "", characters.
        length: tokens of a text; longer ones are cut, shorter ones padded with 0.
    """
    length = check_integer("tsv", "length", length, 1)
    file = files.expanded(path)
    rows = list(
        csv.DictReader(_text(file).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    for number, row in enumerate(rows, start=2):
        for name in ("text", "label", "user"):
            if not row.get(name):
                raise DataError(f"{file}, line {number}: no {name}")
    if not rows:
        raise DataError(f"{file} has no rows")
    tokens = _tokens([row["text"] for row in rows], tokenizer, length)
    labels, users = (_numbered([row[name] for row in rows]) for name in ("label", "user"))
    seen: dict[int, int] = defaultdict(int)
    test = np.zeros(len(rows), bool)
    for number, user in enumerate(users.tolist()):
        test[number] = seen[user] % _TEST == 1
        seen[user] += 1
    if not test.any():
        raise DataError(f"{file}: no user has two texts, one of which is for testing")
    of = tokens, labels, users
    x, y, own = (a[~test] for a in of)
    test_x, test_y, test_own = (a[test] for a in of)
    return Dataset(x, y, test_x, test_y, own, test_own, int(labels.max()) + 1)


def _numbered(values: list[str]) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _tokens(lines: list[str], tokenizer: str, length: int) -> np.ndarray:
    """i32[n, length], the tokens of each text."""
    if tokenizer:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            rule = "a tokenizer needs the package tokenizers: pip install farsign_jax[text]"
            raise InvalidConfig(rule) from error
        path = files.expanded(tokenizer) / "tokenizer.json"
        try:
            made = Tokenizer.from_file(str(path))
        except Exception as error:  # of a type of its own
            raise DataError(f"{path} cannot be read: {error}") from error
        made.no_padding()
        made.enable_truncation(length)
        found = [each.ids for each in made.encode_batch(lines)]
    else:
        found = [texts.encode(line)[:length].tolist() for line in lines]
    rows = np.zeros((len(lines), length), np.int32)
    for row, ids in zip(rows, found, strict=True):
        row[: len(ids)] = ids
    return rows


LOADERS: dict[str, Callable[..., Dataset]] = {"plays": plays, "leaf": leaf, "tsv": tsv}
