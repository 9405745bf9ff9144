"""Files in IDX, the format in which MNIST is published."""

import gzip
import pathlib
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from farsign_jax.data.dataset import Dataset
from farsign_jax.validation import DataError, require

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find_idx(name: str, directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the four IDX files of a data set, gzipped or not; none if they are not there.

    Args:
        name: the name of the data set.
        directory: the folder that is searched, with its subfolders `name` and `name`/raw.
    """
    for folder in (directory / name, directory / name / "raw", directory):
        paths = []
        for file in IDX_FILES:
            candidates = [folder / file, folder / f"{file}.gz"]
            paths += [path for path in candidates if path.is_file()][:1]
        if len(paths) == 4:
            return paths
    return []


def read_idx(paths: Sequence[pathlib.Path]) -> Dataset:
    """Reads the four IDX files of a data set, in the order of `IDX_FILES`.

    Raises:
        DataError: if a file is damaged, or has not the shape that its name says.
    """
    images, labels, test_images, test_labels = map(_idx_array, paths)
    for path, array, rank in zip(
        paths, (images, labels, test_images, test_labels), (3, 1, 3, 1), strict=True
    ):
        if array.ndim != rank:
            kind = "images [N, height, width]" if rank == 3 else "labels [N]"
            raise DataError(f"{path} holds no {kind}: its shape is {list(array.shape)}")
    return Dataset(
        images[..., None],
        labels.astype(np.int32),
        test_images[..., None],
        test_labels.astype(np.int32),
    )


def _idx_array(path: pathlib.Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes: 0, 0, type 8, rank, sizes (big-endian), data."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
        zero, kind, rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        require(zero == 0 and kind == 8, "not an IDX file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is not a complete IDX file: {error}") from error
