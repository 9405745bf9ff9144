"""Files in IDX, the format in which MNIST is published."""

import gzip
import pathlib
import struct
from collections.abc import Callable
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


def read_idx(name: str, directory: pathlib.Path) -> Dataset | None:
    """Reads the four IDX files of a data set.

    Args:
        name: the name of the data set.
        directory: the folder that is searched, with its subfolders `name` and `name`/raw.

    Returns:
        The data set, or None if no folder contains all four files.

    Raises:
        DataError: if a file is damaged.
    """
    for folder in (directory / name, directory / name / "raw", directory):
        paths = []
        for file in IDX_FILES:
            candidates = [folder / file, folder / f"{file}.gz"]
            paths += [path for path in candidates if path.is_file()][:1]
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
    """Reads one IDX file of unsigned bytes: 0, 0, type 8, rank, sizes (big-endian), data."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
        zero, kind, rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        require(zero == 0 and kind == 8, "not an IDX file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a complete IDX file: {error}") from error
