"""Image data sets as NumPy arrays.

`load` reads, in this order: the decoded arrays it cached last time; a directory prepared by
tensorflow-datasets (array_record; TensorFlow is not imported); raw IDX files, gzipped or not;
else it downloads and verifies the IDX files. `mnist_subset` and `license_text` (`texts`) are
part of the package.
"""

import gzip
import hashlib
import pathlib
import struct
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from farsign_jax import cache as cache_lib
from farsign_jax import texts
from farsign_jax.base import lookup, require
from farsign_jax.results import atomic_write

EMBEDDED = pathlib.Path(__file__).parent / "data" / "mnist_subset.npz"


class Dataset(NamedTuple):
    """Images u8[N, height, width, channels] and labels i32[N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def num_classes(self) -> int:
        return int(self.train_labels.max()) + 1


class IdxSource(NamedTuple):
    """Where the four IDX files come from, and the MD5 sums of the gzipped files."""

    url: str
    md5: tuple[str, str, str, str]
    says: str = ""


class Other(NamedTuple):
    """What has no IDX files: it is part of the package, or prepared by tensorflow-datasets."""

    says: str


_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

DATASETS: dict[str, IdxSource | Other] = {
    "mnist": IdxSource(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        "60,000 handwritten digits, and 10,000 for testing",
    ),
    "fashion_mnist": IdxSource(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        "60,000 pieces of clothing, and 10,000 for testing",
    ),
    "kmnist": IdxSource(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        "60,000 Japanese characters, and 10,000 for testing",
    ),
    "cifar10": Other(
        "50,000 colour photographs, and 10,000; to be prepared by tensorflow-datasets"
    ),
    "mnist_subset": Other("10,000 digits of mnist, and 2,000 for testing; part of the package"),
    "license_text": Other("The next character of the Apache License; part of the package"),
}


class DataError(Exception):
    """The data set cannot be had; the message says what was tried and what to do."""


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: one of `DATASETS`.
        data_dir: where prepared or raw files lie, as given to tensorflow-datasets or a
            folder of IDX files. Default: ~/tensorflow_datasets.
        cache_dir: where the decoded arrays are kept, one file per data set and data_dir.
            Default: `cache.folder`.

    Raises:
        InvalidConfig: on an unknown name.
        DataError: where the files are neither here nor to be had, or damaged.
    """
    lookup("dataset", name, DATASETS)
    if name == "license_text":
        return Dataset(*texts.license_text())
    if name == "mnist_subset":
        dataset = _read_npz(EMBEDDED)
        if dataset is None:
            raise DataError(f"{EMBEDDED} is damaged: reinstall the package")
        return dataset
    directory = pathlib.Path(data_dir or "~/tensorflow_datasets").expanduser()
    if data_dir and not directory.is_dir():
        raise DataError(f"--data_dir {directory} is not a directory")
    cache = pathlib.Path(cache_dir).expanduser() if cache_dir else cache_lib.folder()
    origin = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]
    cached = cache / f"{name}-{origin}.npz"

    dataset = _read_npz(cached)
    if dataset is None:
        dataset = _read_prepared(name, directory)
        if dataset is None:
            dataset = _read_idx(name, directory)
        if dataset is None:
            dataset = _download(name, cache / name)
        try:
            _check(dataset)
        except ValueError as error:
            raise DataError(f"what was read as {name} cannot be it: {error}") from error
        atomic_write(cached, lambda file: np.savez(file, **dataset._asdict()))
    return dataset


def _read_npz(path: pathlib.Path) -> Dataset | None:
    """The cached arrays; None where there are none, or damaged ones (said, then rebuilt)."""
    if not path.exists():
        return None
    try:
        # numpy checks the CRC of every array, but leaves files that are no archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            dataset = Dataset(**{field: arrays[field] for field in Dataset._fields})
        _check(dataset)
        return dataset
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s is damaged and will be rebuilt: %s", path, error)
        return None


def _check(dataset: Dataset) -> None:
    for images, labels in (dataset[:2], dataset[2:]):
        require(images.ndim == 4 and images.dtype == np.uint8, f"not images: {images.shape}")
        require(len(images) == len(labels) > 0, f"{len(images)} images, {len(labels)} labels")


def _read_prepared(name: str, directory: pathlib.Path) -> Dataset | None:
    """Reads what tensorflow-datasets prepared as array_record; None where there is nothing."""
    if not (directory / name).is_dir() or not any(
        (directory / name).rglob("dataset_info.json")
    ):
        return None
    import tensorflow_datasets as tfds  # slow to import, and only needed once per data set

    logging.info(
        "decoding %s from %s, once: later runs read the cached arrays", name, directory
    )
    splits = []
    try:
        sources = tfds.data_source(
            name, split=["train", "test"], data_dir=directory, download=False
        )
        for source in sources:
            examples: Any = [source[i] for i in range(len(source))]
            splits.append(np.stack([example["image"] for example in examples]))
            labels = np.asarray([example["label"] for example in examples], np.int32)
            splits.append(labels)
    except Exception as error:  # tfds raises many kinds; the file is what is at fault
        raise DataError(
            f"{directory / name} could not be read by tensorflow-datasets "
            f"(array_record is needed: tfds build {name} --file_format=array_record): {error}"
        ) from error
    return Dataset(*splits)


def _read_idx(name: str, directory: pathlib.Path) -> Dataset | None:
    """Reads four IDX files from `directory`/`name` or `directory`; None where not all are."""
    for folder in (directory / name, directory / name / "raw", directory):
        paths = []
        for file in _IDX_FILES:
            here = [folder / file, folder / f"{file}.gz"]
            paths += [path for path in here if path.is_file()][:1]
        if len(paths) == 4:
            images, labels, test_images, test_labels = map(_idx_array, paths)
            return Dataset(
                images[..., None],
                labels.astype(np.int32),
                test_images[..., None],
                test_labels.astype(np.int32),
            )
    return None


def _idx_array(path: pathlib.Path) -> np.ndarray:
    """One IDX file of unsigned bytes: 0, 0, type 8, rank, sizes (big-endian), data."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
        zero, kind, rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        require(zero == 0 and kind == 8, "not an IDX file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a whole IDX file: {error}") from error


def _download(name: str, folder: pathlib.Path) -> Dataset:
    """Downloads and verifies the IDX files."""
    source = DATASETS[name]
    if not isinstance(source, IdxSource):
        raise DataError(
            f"{name} must be prepared first: pip install tensorflow && "
            f"tfds build {name} --file_format=array_record, then --data_dir if not the default"
        )
    for file, md5 in zip(_IDX_FILES, source.md5, strict=True):
        path = folder / f"{file}.gz"
        if path.exists():
            continue
        url = f"{source.url}{file}.gz"
        logging.info("downloading %s", url)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise DataError(
                f"{name} is not here and {url} cannot be reached ({error}): give --data_dir "
                "with prepared or IDX files, or use --dataset mnist_subset, which is built in"
            ) from error
        if hashlib.md5(content).hexdigest() != md5:
            raise DataError(f"{url} is not the file expected: MD5 differs from {md5}")
        atomic_write(path, lambda file, content=content: file.write(content))
    dataset = _read_idx(name, folder)
    assert dataset is not None  # all four files were just written
    return dataset
