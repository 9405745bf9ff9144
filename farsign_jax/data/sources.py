"""Sources of data sets: .npz files, directories of tensorflow-datasets, and downloads."""

import hashlib
import pathlib
import urllib.error
import urllib.request
import zipfile
from typing import Any

import numpy as np
from absl import logging

from farsign_jax.data.dataset import Dataset, IdxSource, LocalSource, check_data
from farsign_jax.data.idx import IDX_FILES, read_idx
from farsign_jax.io.files import atomic_write
from farsign_jax.validation import DataError

EMBEDDED = pathlib.Path(__file__).parent / "mnist_subset.npz"


def read_npz(path: pathlib.Path) -> Dataset | None:
    """Reads a data set from an .npz file.

    Returns:
        The data set; None if there is no such file, or if it is damaged, which is logged.
    """
    if not path.exists():
        return None
    try:
        # NumPy checks the CRC of every array, but does not close a file that is not an archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            dataset = Dataset(**{field: arrays[field] for field in Dataset._fields})
        check_data(dataset)
        return dataset
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s is damaged and will be rebuilt: %s", path, error)
        return None


def read_prepared(name: str, directory: pathlib.Path) -> Dataset | None:
    """Reads a data set that tensorflow-datasets prepared in array_record format.

    Args:
        name: the name of the data set.
        directory: the data_dir of tensorflow-datasets.

    Returns:
        The data set, or None if it was not prepared.

    Raises:
        DataError: if tensorflow-datasets cannot read it.
    """
    if not (directory / name).is_dir() or not any(
        (directory / name).rglob("dataset_info.json")
    ):
        return None
    import tensorflow_datasets as tfds  # slow to import, and only needed once per data set

    logging.info("decoding %s from %s; later runs read the cached arrays", name, directory)
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
    except Exception as error:  # the exceptions of tfds for damaged files are of many types
        raise DataError(
            f"{directory / name} could not be read by tensorflow-datasets "
            f"(array_record is needed: tfds build {name} --file_format=array_record): {error}"
        ) from error
    return Dataset(*splits)


def download(name: str, source: IdxSource | LocalSource, folder: pathlib.Path) -> Dataset:
    """Downloads the IDX files of a data set and verifies their MD5 sums.

    Args:
        name: the name of the data set.
        source: where it comes from.
        folder: where the files are kept.

    Raises:
        DataError: if there are no IDX files, or one cannot be downloaded or is not as expected.
    """
    if not isinstance(source, IdxSource):
        raise DataError(
            f"{name} must be prepared first: pip install tensorflow && "
            f"tfds build {name} --file_format=array_record, then --data_dir if not the default"
        )
    for file, md5 in zip(IDX_FILES, source.md5, strict=True):
        path = folder / f"{file}.gz"
        if path.exists():
            continue
        url = f"{source.url}{file}.gz"
        logging.info("downloading %s", url)
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read()
        except (urllib.error.URLError, OSError) as error:
            raise DataError(
                f"{name} was not found and {url} cannot be reached ({error}): give --data_dir "
                "with prepared or IDX files, or use --dataset mnist_subset, which is embedded"
            ) from error
        if hashlib.md5(content).hexdigest() != md5:
            raise DataError(f"{url} is not the expected file: its MD5 sum is not {md5}")
        atomic_write(path, lambda file, content=content: file.write(content))
    dataset = read_idx(name, folder)
    assert dataset is not None  # all four files were just written
    return dataset
