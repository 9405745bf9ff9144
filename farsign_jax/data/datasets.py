"""Data sets by name, as NumPy arrays.

`load` tries these sources in turn: a directory prepared by tensorflow-datasets (in array_record
format; TensorFlow is not imported); raw IDX files, gzipped or not; and, if no folder is named,
a download of the IDX files, which it verifies. It keeps the decoded arrays for the next time.
Known data sets are recognised by their contents, whatever their folder is called.
`mnist_subset` and `license_text` are part of the package.
"""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from typing import Any

import numpy as np
from absl import logging

from farsign_jax import specs
from farsign_jax.data import license_text, sources, texts, user_files
from farsign_jax.data.dataset import (
    IMAGES,
    Contents,
    Dataset,
    IdxSource,
    LocalSource,
    check_data,
)
from farsign_jax.io import cache as cache_lib
from farsign_jax.io import files
from farsign_jax.validation import DataError, InvalidConfig, lookup, require

EMBEDDED = pathlib.Path(__file__).parent / "mnist_subset.npz"

_BALANCED = (6000,) * 10, (1000,) * 10  # of each class, for training and for testing

DATASETS: dict[str, IdxSource | LocalSource] = {
    "mnist": IdxSource(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        "60,000 handwritten digits, and 10,000 for testing",
        Contents(
            (28, 28, 1),
            (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            0.1307,
            "f771933d03a86cc5f6899b91d168d95717c342a985562a4a2b5d8d2517a4cb24",
        ),
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
        Contents((28, 28, 1), *_BALANCED, 0.286),
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
        Contents((28, 28, 1), *_BALANCED, 0.192),
    ),
    "cifar10": LocalSource(
        "50,000 colour photographs, and 10,000 for testing; prepared by tensorflow-datasets",
        Contents((32, 32, 3), (5000,) * 10, (1000,) * 10, 0.473),
    ),
    "mnist_subset": LocalSource(
        "10,000 digits of mnist, and 2,000 for testing; part of the package"
    ),
    "mnist_subset_7x7": LocalSource(
        "the same, averaged over squares of 4 x 4 pixels; part of the package"
    ),
    "license_text": LocalSource(
        "the next character of the Apache License; part of the package"
    ),
    "plays": LocalSource("plays by role, plays:path=FOLDER of .txt files"),
    "leaf": LocalSource("users in the JSON format of LEAF, leaf:path=FOLDER"),
    "tsv": LocalSource("a table of text, label and user, tsv:path=FILE,tokenizer=FOLDER"),
    "license_users": LocalSource(
        "is the next character of a paragraph a vowel, a consonant or neither; part of the "
        "package"
    ),
}


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a data set and its options; those in files of users have some.

    Raises:
        InvalidConfig: on an unknown name or option, or without the path of such files.
    """
    name, texts_of_options = specs.parse(text)
    lookup("dataset", name, DATASETS)
    loader = user_files.LOADERS.get(name)
    known = {} if loader is None else specs.parameters(loader)
    options = specs.typed(name, texts_of_options, known)
    require(loader is None or "path" in options, f"{name} needs a path: {name}:path=PATH")
    return name, options


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: one of `DATASETS`, with options as in plays:path=FOLDER.
        data_dir: the folder of prepared or raw files, either as given to tensorflow-datasets
            or a folder of IDX files. Default: ~/tensorflow_datasets, or else a download.
        cache_dir: the folder for decoded arrays, one file per data set and folder, which is
            written anew when the files change. Default: `cache.folder`.

    Returns:
        The images and labels.

    Raises:
        InvalidConfig: if the name is unknown.
        DataError: if the files are damaged or those of another data set, if `data_dir` does not
            contain them, or if they can neither be found nor downloaded.
    """
    name, options = parse(name)
    if name in user_files.LOADERS:
        return user_files.LOADERS[name](**options)
    source = DATASETS[name]
    if name == "license_text":
        return Dataset(*license_text.license_text())
    if name == "license_users":
        return texts.license_users()
    if name == "mnist_subset":
        return _embedded()
    if name == "mnist_subset_7x7":
        return _smaller(_embedded())
    cache = cache_lib.folder(cache_dir)
    found = _find(name, data_dir)
    if found is None and data_dir:
        raise sources.missing(name, files.expanded(data_dir))
    with contextlib.ExitStack() as until_read:
        if found is None:
            temporary = tempfile.TemporaryDirectory
            folder = cache or pathlib.Path(until_read.enter_context(temporary()))
            found = sources.download(name, source, folder / name)
        origin = hashlib.sha256(os.fsencode(found.directory.resolve())).hexdigest()[:12]
        cached, key = cache / f"{name}-{origin}.npz" if cache else None, found.key()
        dataset = _read_cached(cached, key) if cached else None
        if dataset is None:
            dataset = found.read()
            sources.recognise(found, dataset, DATASETS)
            if cached:
                _keep(cached, key, dataset)
    return dataset


def _find(name: str, data_dir: str | None) -> sources.Found | None:
    if data_dir:
        directory = files.expanded(data_dir)
        if not directory.is_dir():
            raise DataError(f"--data_dir {directory} is not a directory")
        return sources.find(name, directory)
    with contextlib.suppress(InvalidConfig):  # there may be no home folder
        return sources.find(name, files.expanded("~/tensorflow_datasets"))
    return None


def _smaller(dataset: Dataset) -> Dataset:
    """The images averaged over squares of 4 x 4 pixels."""

    def pooled(images: np.ndarray) -> np.ndarray:
        count, height, width, channels = images.shape
        squares = images.reshape(count, height // 4, 4, width // 4, 4, channels)
        return squares.mean(axis=(2, 4)).round().astype(images.dtype)

    return dataset._replace(
        train_images=pooled(dataset.train_images), test_images=pooled(dataset.test_images)
    )


def _embedded() -> Dataset:
    try:
        with files.opened(EMBEDDED, "is damaged: reinstall the package") as arrays:
            dataset = Dataset(*(arrays[name] for name in IMAGES))
        check_data(dataset)
        return dataset
    except (InvalidConfig, OSError) as error:
        raise DataError(str(error)) from error


def _read_cached(path: pathlib.Path, key: str) -> Dataset | None:
    """Returns the arrays that `_keep` wrote under this key, or None."""
    try:
        with files.opened(path, "is damaged and will be rebuilt") as arrays:
            if "key" not in arrays or str(arrays["key"]) != key:
                return None
            return Dataset(*(arrays[name] for name in IMAGES))
    except FileNotFoundError:
        return None
    except (InvalidConfig, OSError) as error:
        logging.warning("%s", error)
        return None


def _keep(path: pathlib.Path, key: str, dataset: Dataset) -> None:
    try:
        files.save_arrays(path, {"key": np.asarray(key), **dataset.images()})
    except OSError as error:  # such as a full disk: the arrays are here already
        cache_lib.warn(error)
