"""Texts of users as a data set: predict every next character.

Characters are printable ASCII and the line feed; 0 stands for all others. The last quarter of
each user's text is for testing; the windows to train on overlap. Users differ in what they
write and in how much of it there is.
"""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from farsign_jax.data.dataset import Dataset
from farsign_jax.validation import DataError

ALPHABET = "\0\n" + "".join(c for c in map(chr, range(32, 127)))
LENGTH = 24  # characters that are predicted from those before them
_TEST = 4  # the last part of so many is for testing
_OVERLAP = 4  # windows to train on have each character
_LICENSE = pathlib.Path(__file__).parent / "apache-license-2.0.txt"
_SHORTEST = _TEST * (LENGTH + 1)  # the text of a user

_CODES = np.zeros(128, np.int32)
_CODES[[ord(c) for c in ALPHABET]] = np.arange(len(ALPHABET))


def encode(text: str) -> np.ndarray:
    """The characters of a text as i32[n], 0 where they are not in `ALPHABET`."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return np.where(points < 128, _CODES[np.minimum(points, 127)], 0).astype(np.int32)


def windows(text: str, length: int = LENGTH, apart: int | None = None) -> np.ndarray:
    """i32[n, length + 1], stretches of a text that begin so far apart, by default `length`."""
    codes, apart = encode(text), apart or length
    starts = np.arange(0, max(len(codes) - length, 0), apart)
    return codes[starts[:, None] + np.arange(length + 1)[None]]


def of_users(
    texts: Mapping[str, str], length: int = LENGTH, apart: int | None = None
) -> Dataset:
    """The data set of texts by the names of their users.

    Args:
        texts: of each user.
        length: the characters of an input.
        apart: how far apart two windows begin; None, a quarter of their length, and those to
            test on do not overlap.

    Raises:
        DataError: if a user's text is too short to be tested.
    """
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for name, text in sorted(texts.items()):
        cut = len(text) - max(len(text) // _TEST, length + 1)
        own = apart or max(length // _OVERLAP, 1)
        train.append(windows(text[: max(cut, 0)], length, own))
        test.append(windows(text[max(cut, 0) :], length, apart))
        if not len(train[-1]) or not len(test[-1]):
            need = 2 * (length + 1)
            raise DataError(f"user {name!r} needs {need} characters: got {len(text)}")
    users = np.arange(len(texts), dtype=np.int32)
    of_train, of_test = (np.repeat(users, [len(p) for p in parts]) for parts in (train, test))
    x, y = np.concatenate(train), np.concatenate(test)
    labelled = x[:, :-1], x[:, 1:], y[:, :-1], y[:, 1:]
    return Dataset(*labelled, of_train, of_test, len(ALPHABET))


def license_paragraphs() -> dict[str, str]:
    """The paragraphs of the Apache License, short ones with those that follow them."""
    found, text = {}, ""
    for paragraph in re.split(r"\n\s*\n", _LICENSE.read_text(encoding="utf-8")):
        text = f"{text} {' '.join(paragraph.split())}".strip()
        if len(text) >= _SHORTEST:
            found[f"paragraph {len(found) + 1:02}"] = text
            text = ""
    return found


def license_text(length: int = LENGTH) -> Dataset:
    """The Apache License, to train a base model on: its paragraphs are the users."""
    return of_users(license_paragraphs(), length)


KINDS = ("aeiouy", "bcdfghjklmnpqrstvwxz")  # the last kind is all other characters


def license_users(length: int = LENGTH) -> Dataset:
    """Is the next character a vowel, a consonant or neither? Paragraphs are the users."""
    kinds = np.full(len(ALPHABET), len(KINDS), np.int32)
    for number, letters in enumerate(KINDS):
        kinds[encode(letters + letters.upper())] = number
    data = of_users(license_paragraphs(), length, apart=2)
    return data._replace(
        train_labels=kinds[data.train_labels[:, -1]],
        test_labels=kinds[data.test_labels[:, -1]],
        classes=len(KINDS) + 1,
    )
