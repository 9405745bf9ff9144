"""Data of users: texts, plays, LEAF and tables, each with whose example it is."""

import json

import numpy as np
import pytest

from farsign_jax.data import datasets, texts
from farsign_jax.validation import DataError, InvalidConfig


def test_windows_of_a_text_predict_every_next_character():
    codes = texts.encode("aé\n~")
    assert [texts.ALPHABET[c] for c in codes] == ["a", "\0", "\n", "~"]
    rows = texts.windows("abcdefghi", 4)
    assert ["".join(texts.ALPHABET[c] for c in row) for row in rows] == ["abcde", "efghi"]


def test_users_of_the_license_hold_a_paragraph_each_and_each_is_tested():
    data = datasets.load("license_users")
    assert data.num_classes == 3 and len(texts.ALPHABET) == 97
    users = np.unique(data.train_users)
    assert len(users) >= 25 and set(users) == set(np.unique(data.test_users))
    # Windows begin two characters apart: the label is the kind of a character of the next one.
    same = np.flatnonzero(np.diff(data.train_users) == 0)
    following = data.train_images[same + 1, -2]
    kinds = {"e": 0, "t": 1, " ": 2, ".": 2}
    for letter, kind in kinds.items():
        here = following == texts.ALPHABET.index(letter)
        assert here.any() and (data.train_labels[same][here] == kind).all()
    counts = np.bincount(data.train_users)
    assert counts.max() > 3 * counts.min() > 24  # unbalanced, as the paragraphs are


PLAY = """A PLAY

FIRST WITCH
When shall we three meet again? {0}

SECOND WITCH.
When the hurlyburly's done. {0}

A NOBODY
Yes.
"""


def test_plays_by_role(tmp_path):
    (tmp_path / "one.txt").write_text(PLAY.format("Where the place upon the heath? " * 9))
    data = datasets.load(f"plays:path={tmp_path}")
    assert data.num_classes == 97 and set(data.train_users) == {0, 1}
    (tmp_path / "two.txt").write_bytes(b"FIRST WITCH\n\xff\n")
    with pytest.raises(DataError, match=r"two\.txt is not UTF-8: .* at byte 12"):
        datasets.load(f"plays:path={tmp_path}")


def leaf(folder, part, users):
    (folder / part).mkdir(exist_ok=True)
    names = list(users)
    found = {"users": names, "num_samples": [len(users[n]["y"]) for n in names]}
    (folder / part / "all.json").write_text(json.dumps(found | {"user_data": users}))


def test_leaf_of_numbers_and_of_texts(tmp_path):
    numbers = {"b": {"x": [[0.0, 0.5], [1, 0]], "y": [2, 0]}, "a": {"x": [[1, 1]], "y": [1]}}
    leaf(tmp_path, "train", numbers)
    leaf(tmp_path, "test", {"a": {"x": [[0, 0]], "y": [1]}})
    data = datasets.load(f"leaf:path={tmp_path}")
    assert data.train_users.tolist() == [1, 1, 0] and data.test_users.tolist() == [0]
    assert data.train_images.dtype == np.float32 and data.num_classes == 3
    leaf(tmp_path, "train", {"a": {"x": ["abc", "bcd"], "y": ["d", "e"]}})
    leaf(tmp_path, "test", {"a": {"x": ["xyz"], "y": ["z"]}})
    data = datasets.load(f"leaf:path={tmp_path}")
    assert data.train_images.shape == (2, 3) and data.num_classes == 97


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"a": {"x": [], "y": []}}, "user 'a' has no examples"),
        ({"a": {"x": [[1], [1, 2]], "y": [0, 0]}}, "examples of LEAF differ in shape or type"),
        ({"b": {"x": [[1]], "y": [0]}}, "user 'a' of LEAF is tested and has no examples"),
        ({"a": {"y": [0]}}, "is not in the format of LEAF: KeyError"),
    ],
)
def test_wrong_leaf_is_refused_in_one_line(tmp_path, train, message):
    leaf(tmp_path, "test", {"a": {"x": [[0]], "y": [1]}})
    if "y" in train.get("a", {}) and "x" not in train["a"]:
        train["a"].setdefault("z", 0)
    leaf(tmp_path, "train", train)
    with pytest.raises(DataError, match=message) as error:
        datasets.load(f"leaf:path={tmp_path}")
    assert "\n" not in str(error.value)


def test_a_table_of_texts(tmp_path):
    rows = [("good film", "yes", "u1"), ("bad", "no", "u1"), ("fine", "yes", "u2")]
    rows += [("dull, long", "no", "u2")]
    lines = ["text\tlabel\tuser", *("\t".join(row) for row in rows)]
    file = tmp_path / "a.tsv"
    file.write_text("\n".join(lines) + "\n")
    data = datasets.load(f"tsv:path={file},length=5")
    assert data.train_images.shape == (2, 5) and data.num_classes == 2
    assert data.train_labels.tolist() == [1, 1] and data.test_labels.tolist() == [0, 0]
    assert data.train_images[1].tolist() == [*texts.encode("fine"), 0]
    file.write_text("\n".join([*lines, "x\tyes\tu3"]) + "\n")
    data = datasets.load(f"tsv:path={file}")  # a single text of a user is not for testing
    assert data.train_users.tolist() == [0, 1, 2] and data.test_users.tolist() == [0, 1]
    for wrong, message in (
        ([*lines, "x\t\tu1"], "line 6: no label"),
        ([lines[0], "x\tyes\tu3", "y\tyes\tu4"], "no user has two texts, one of which is"),
        (lines[:1], "has no rows"),
    ):
        file.write_text("\n".join(wrong) + "\n")
        with pytest.raises(DataError, match=message):
            datasets.load(f"tsv:path={file}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tsv", "tsv needs a path: tsv:path=PATH"),
        ("plays:pat=x", "unknown option of plays 'pat': did you mean 'path'"),
        ("mnist:path=x", "mnist takes no options: got 'path'"),
        ("tsvv", "unknown dataset 'tsvv': did you mean 'tsv'"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(InvalidConfig, match=message):
        datasets.load(name)
    with pytest.raises(DataError, match="no files"):
        datasets.load("leaf:path=/nowhere/at/all")
