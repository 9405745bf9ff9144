"""Data sets by name, as NumPy arrays.

`load` tries these sources in turn: the decoded arrays that it cached last time; a directory
prepared by tensorflow-datasets (in array_record format; TensorFlow is not imported); raw IDX
files, gzipped or not; and a download of the IDX files, which it verifies. `mnist_subset` and
`license_text` are part of the package.
"""

import hashlib
import pathlib

import numpy as np

from farsign_jax.data import license_text
from farsign_jax.data.dataset import Dataset, IdxSource, LocalSource, check_data
from farsign_jax.data.idx import read_idx
from farsign_jax.data.sources import EMBEDDED, download, read_npz, read_prepared
from farsign_jax.io import cache as cache_lib
from farsign_jax.io.files import atomic_write
from farsign_jax.validation import DataError, lookup

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
    "cifar10": LocalSource(
        "50,000 colour photographs, and 10,000 for testing; prepared by tensorflow-datasets"
    ),
    "mnist_subset": LocalSource(
        "10,000 digits of mnist, and 2,000 for testing; part of the package"
    ),
    "license_text": LocalSource(
        "the next character of the Apache License; part of the package"
    ),
}


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: one of `DATASETS`.
        data_dir: the folder of prepared or raw files, either as given to tensorflow-datasets
            or a folder of IDX files. Default: ~/tensorflow_datasets.
        cache_dir: the folder for decoded arrays, one file per data set and data_dir.
            Default: `cache.folder`.

    Returns:
        The images and labels.

    Raises:
        InvalidConfig: if the name is unknown.
        DataError: if the files are damaged, or are neither found nor can be downloaded.
    """
    lookup("dataset", name, DATASETS)
    if name == "license_text":
        return Dataset(*license_text.license_text())
    if name == "mnist_subset":
        dataset = read_npz(EMBEDDED)
        if dataset is None:
            raise DataError(f"{EMBEDDED} is damaged: reinstall the package")
        return dataset
    directory = pathlib.Path(data_dir or "~/tensorflow_datasets").expanduser()
    if data_dir and not directory.is_dir():
        raise DataError(f"--data_dir {directory} is not a directory")
    cache = pathlib.Path(cache_dir).expanduser() if cache_dir else cache_lib.folder()
    origin = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]
    cached = cache / f"{name}-{origin}.npz"

    dataset = read_npz(cached)
    if dataset is None:
        dataset = read_prepared(name, directory)
        if dataset is None:
            dataset = read_idx(name, directory)
        if dataset is None:
            dataset = download(name, DATASETS[name], cache / name)
        try:
            check_data(dataset)
        except ValueError as error:
            raise DataError(f"the files of {name} contain another data set: {error}") from error
        atomic_write(cached, lambda file: np.savez(file, **dataset._asdict()))
    return dataset
