"""Damaged data, and data of another kind or name: one error, and nothing is kept of them."""

import numpy as np
import pytest

from farsign_jax.data import dataset as dataset_lib
from farsign_jax.data import datasets, idx
from farsign_jax.data.dataset import Contents, Dataset, LocalSource
from farsign_jax.io import files
from farsign_jax.validation import DataError
from tests.data.test_datasets import assert_equal, idx_bytes, write_idx


def small(seed=0, size=5, labels=(0, 1, 2, 1, 0, 2)):
    rng, labels = np.random.default_rng(seed), np.asarray(labels, np.int32)
    images = rng.integers(0, 256, (2, len(labels), size, size, 1), dtype=np.uint8)
    return Dataset(images[0], labels, images[1], labels[::-1].copy())


def contents(data, digest=""):
    counts = (tuple(np.bincount(labels).tolist()) for labels in (data[1], data[3]))
    brightness = float(data.train_images.mean() / 255)
    return Contents(data.train_images.shape[1:], *counts, brightness, digest)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads "mine", which may be any data set, or another name, from tmp_path / "data"."""
    monkeypatch.setitem(datasets.DATASETS, "mine", LocalSource("any data"))

    def load(name="mine"):
        return datasets.load(name, str(tmp_path / "data"), str(tmp_path / "cache"))

    yield load
    for kept in tmp_path.glob("cache/*"):  # nothing but what could be loaded
        with np.load(kept) as arrays:
            dataset_lib.check_data(Dataset(*(arrays[name] for name in dataset_lib.IMAGES)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("number", range(4))
def test_a_file_with_any_wrong_byte_is_refused_or_reads_the_same(tmp_path, zipped, number):
    """Without a checksum, wrong bytes of pixels and labels are other pixels and labels."""
    write_idx(tmp_path, small(), zipped)
    paths = idx.find_idx("mine", tmp_path)
    whole, refused = paths[number].read_bytes(), 0
    header = 16 if number % 2 == 0 else 8
    flipped = [
        whole[:i] + bytes([whole[i] ^ bits]) + whole[i + 1 :]
        for i in range(len(whole) if zipped else header)
        for bits in (1, 0x55, 0xFF)
    ]
    cut = [whole[:i] for i in range(len(whole))]
    for content in (*flipped, *cut, b"", whole + b"more"):
        paths[number].write_bytes(content)
        try:
            assert_equal(idx.read_idx(paths), small())
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= len(flipped) / 2 + len(cut)


@pytest.mark.slow
def test_an_embedded_file_with_any_wrong_byte_is_refused_or_reads_the_same(
    tmp_path, monkeypatch
):
    path, data = tmp_path / "small.npz", small()
    monkeypatch.setattr(datasets, "EMBEDDED", path)
    files.atomic_write(path, lambda file: np.savez_compressed(file, **data.images()))
    whole = path.read_bytes()
    for i in range(len(whole)):
        for content in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :]):
            path.write_bytes(content)
            try:
                assert_equal(datasets.load("mnist_subset"), data)
            except DataError as error:
                assert "is damaged: reinstall the package" in str(error)
    path.unlink()
    with pytest.raises(DataError, match=r"small\.npz"):
        datasets.load("mnist_subset")


def test_files_of_another_kind_are_refused(tmp_path, load):
    write_idx(tmp_path / "data", small(), False)
    names = dict(zip(dataset_lib.IMAGES, idx.IDX_FILES, strict=True))
    content = {name: (tmp_path / "data" / file).read_bytes() for name, file in names.items()}
    smaller = idx_bytes(small(size=4).test_images[..., 0])
    for name, other, message in (
        (
            "train_labels",
            content["train_images"],
            r"holds no labels .*: its shape is \[6, 5",
        ),
        ("test_images", content["test_labels"], r"holds no images .*: its shape is \[6\]"),
        ("test_images", smaller, "one size: got 5 × 5 × 1 for training, 4 × 4 × 1 for testing"),
        ("train_labels", idx_bytes(np.full(6, 1)), r"labels are the classes 0, .*: got 1\.\.1"),
        ("train_labels", idx_bytes(np.zeros(6)), r"at least two of them .*: got 0\.\.0"),
        ("test_labels", idx_bytes(np.full(6, 3)), r"got 3\.\.3 in the test set, 0\.\.2 in"),
        ("test_labels", idx_bytes(np.zeros(5)), "6 test images, 5 test labels"),
        ("train_images", idx_bytes(np.zeros((0, 5, 5))), r"training images are bytes \[N"),
    ):
        (tmp_path / "data" / names[name]).write_bytes(other)
        with pytest.raises(DataError, match=message):
            load()
        (tmp_path / "data" / names[name]).write_bytes(content[name])
    assert not list(tmp_path.glob("cache/*"))
    assert_equal(load(), small())


def test_labels_from_one_are_explained(tmp_path, load):
    """As in EMNIST's letters."""
    write_idx(tmp_path / "data", small(labels=(1, 2, 3, 1, 2, 3)), True)
    rule = r"mine in .*: labels are the classes 0, 1, \.\.\., C - 1.*: got 1\.\.3"
    with pytest.raises(DataError, match=rule):
        load()


def test_known_data_sets_are_told_from_each_other(tmp_path, load, monkeypatch):
    first, second = small(), small(seed=1)
    bright = first._replace(train_images=first.train_images // 2 + 128)
    known = {"first": first, "second": second, "bright": bright}
    for name, data in known.items():
        digest = "" if name == "bright" else dataset_lib.digest(data)
        source = LocalSource(name, contents(data, digest))
        monkeypatch.setitem(datasets.DATASETS, name, source)
    for name, data in known.items():
        write_idx(tmp_path / "data", data, False)
        for other in known:
            if other == name:
                assert_equal(load(name), data)
                continue
            rule = f"are those of {name}, not of {other}: --dataset {name}, or another --data"
            with pytest.raises(DataError, match=rule):
                load(other)


def test_what_differs_from_a_known_data_set_is_named(tmp_path, load, monkeypatch):
    data = small()
    known = LocalSource("known", contents(data, dataset_lib.digest(data)))
    monkeypatch.setitem(datasets.DATASETS, "known", known)
    one = data.train_images.copy()
    one[0, 0, 0, 0] ^= 1
    labels = data.train_labels[[1, 0, 2, 2, 0, 2]]
    for other, message in (
        (small(size=4), "images are 4 × 4 × 1 instead of 5 × 5 × 1"),
        (
            data._replace(train_labels=labels),
            r"training examples per class are \[2, 1, 3\]",
        ),
        (data._replace(train_images=one // 2), "the mean of its pixels is 0.2"),
        (data._replace(train_images=one), "some of its bytes are others"),
    ):
        write_idx(tmp_path / "data", other, True)
        with pytest.raises(DataError, match=f"are not those of known: {message}"):
            load("known")
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = data._replace(train_images=data[0][order], train_labels=data[1][order])
    write_idx(tmp_path / "data", shuffled, True)
    assert_equal(load("known"), shuffled)


def test_files_as_they_are_published_are_recognised_by_md5(tmp_path, load, monkeypatch):
    write_idx(tmp_path / "data", small(), True)
    sums = tuple(
        dataset_lib.hashlib.md5((tmp_path / "data" / f"{name}.gz").read_bytes()).hexdigest()
        for name in idx.IDX_FILES
    )
    other = contents(small(size=4))
    source = dataset_lib.IdxSource("http://example.invalid/", sums, "published", other)
    monkeypatch.setitem(datasets.DATASETS, "published", source)
    monkeypatch.setitem(datasets.DATASETS, "other", LocalSource("other", other))
    assert_equal(load("published"), small())
    with pytest.raises(DataError, match="those of published, not of other"):
        load("other")


def test_known_contents_are_those_that_are_published():
    counts = {name: source.contents for name, source in datasets.DATASETS.items()}
    for name, train in (("mnist", 60_000), ("fashion_mnist", 60_000), ("kmnist", 60_000)):
        assert sum(counts[name].train) == train and sum(counts[name].test) == 10_000
    assert sum(counts["cifar10"].train) == 50_000 and counts["cifar10"].image == (32, 32, 3)
    means = sorted(counts[name].brightness for name in ("mnist", "fashion_mnist", "kmnist"))
    assert min(np.diff(means)) > 2 * dataset_lib._BRIGHTNESS - 1e-9
