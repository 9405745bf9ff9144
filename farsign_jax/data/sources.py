"""Sources of data sets: directories of tensorflow-datasets, IDX files, and downloads."""

import hashlib
import pathlib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from farsign_jax.data.dataset import Dataset, IdxSource, LocalSource, check_data
from farsign_jax.data.idx import IDX_FILES, find_idx, read_idx
from farsign_jax.io.files import atomic_write
from farsign_jax.validation import DataError

Source = IdxSource | LocalSource


class Found(NamedTuple):
    """The files of a data set.

    Attributes:
        name: the name of the data set.
        directory: the folder in which they were found.
        paths: the files.
        is_prepared: whether tensorflow-datasets prepared them; otherwise they are IDX files.
    """

    name: str
    directory: pathlib.Path
    paths: Sequence[pathlib.Path]
    is_prepared: bool

    def key(self) -> str:
        """Returns a digest of names, sizes and times of the files, which changes with them."""
        digest = hashlib.sha256(b"format 2")  # of what `datasets.load` keeps
        for path in self.paths:
            status = path.stat()
            times = status.st_mtime_ns, status.st_ctime_ns  # `cp -p` keeps the first one
            digest.update(
                f"{path.resolve()} {status.st_size} {times}\n".encode(errors="replace")
            )
        return digest.hexdigest()

    def read(self) -> Dataset:
        """Reads and checks the files.

        Raises:
            DataError: if they are damaged, or do not hold images and labels.
        """
        dataset = (
            read_prepared(self.name, self.directory)
            if self.is_prepared
            else read_idx(self.paths)
        )
        try:
            check_data(dataset)
        except DataError as error:
            raise DataError(f"{self.name} in {self.directory}: {error}") from None
        return dataset

    def md5(self) -> tuple[str, ...]:
        """Returns the MD5 sums of the IDX files, if all are gzipped as they are published."""
        if self.is_prepared or any(path.suffix != ".gz" for path in self.paths):
            return ()
        return tuple(_md5(path.read_bytes()) for path in self.paths)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def find(name: str, directory: pathlib.Path) -> Found | None:
    """Finds the files of a data set in a folder, or returns None."""
    prepared = directory / name
    if prepared.is_dir() and any(prepared.rglob("dataset_info.json")):
        paths = sorted(path for path in prepared.rglob("*") if path.is_file())
        return Found(name, directory, paths, True)
    paths = find_idx(name, directory)
    return Found(name, directory, paths, False) if paths else None


def missing(name: str, directory: pathlib.Path) -> DataError:
    """The error that a folder does not contain a data set."""
    folders = f"{directory / name}, {directory / name / 'raw'} or {directory}"
    return DataError(
        f"--data_dir {directory} does not contain {name}: looked for a dataset_info.json of "
        f"tensorflow-datasets below {directory / name}, and for the IDX files "
        f"{', '.join(IDX_FILES)}, or these with .gz, in {folders}"
    )


def recognise(found: Found, dataset: Dataset, known: Mapping[str, Source]) -> None:
    """Checks that files contain the data set of that name, and not another one.

    Args:
        found: the files.
        dataset: what they contain.
        known: the data sets by name.

    Raises:
        DataError: naming the data set that they contain, or how they differ.
    """
    own = known[found.name]
    sums = found.md5()
    if (
        own.contents is None
        or _is(own, sums)
        or not (reason := own.contents.difference(dataset))
    ):
        return
    for name, other in known.items():
        if other.contents and (_is(other, sums) or not other.contents.difference(dataset)):
            raise DataError(
                f"the files in {found.directory} are those of {name}, not of {found.name}: "
                f"--dataset {name}, or another --data_dir"
            )
    raise DataError(f"the files in {found.directory} are not those of {found.name}: {reason}")


def _is(source: Source, sums: tuple[str, ...]) -> bool:
    return isinstance(source, IdxSource) and source.md5 == sums


def read_prepared(name: str, directory: pathlib.Path) -> Dataset:
    """Reads a data set that tensorflow-datasets prepared in array_record format.

    Args:
        name: the name of the data set.
        directory: the data_dir of tensorflow-datasets.

    Raises:
        DataError: if tensorflow-datasets cannot read it.
    """
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


def download(name: str, source: Source, folder: pathlib.Path) -> Found:
    """Downloads the IDX files of a data set and verifies their MD5 sums.

    Args:
        name: the name of the data set.
        source: where it comes from.
        folder: where the files are kept; those that are there already are verified, too.

    Raises:
        DataError: if there are no IDX files, or one cannot be downloaded or is not as expected.
    """
    if not isinstance(source, IdxSource):
        raise DataError(
            f"{name} must be prepared first: pip install tensorflow && "
            f"tfds build {name} --file_format=array_record, then --data_dir if not the default"
        )
    paths = [folder / f"{file}.gz" for file in IDX_FILES]
    for path, md5 in zip(paths, source.md5, strict=True):
        if path.exists() and _md5(path.read_bytes()) == md5:
            continue
        url = source.url + path.name
        logging.info("downloading %s", url)
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read()
        except (urllib.error.URLError, OSError) as error:
            raise DataError(
                f"{name} was not found and {url} cannot be reached ({error}): give --data_dir "
                "with prepared or IDX files, or use --dataset mnist_subset, which is embedded"
            ) from error
        if _md5(content) != md5:
            raise DataError(f"{url} is not the expected file: its MD5 sum is not {md5}")
        atomic_write(path, lambda file, content=content: file.write(content))
    return Found(name, folder, paths, False)
