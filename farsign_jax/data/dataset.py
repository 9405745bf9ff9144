"""The type of a data set, and the descriptions of where data sets come from."""

from typing import NamedTuple

import numpy as np

from farsign_jax.validation import require


class Dataset(NamedTuple):
    """Images and labels, for training and for testing.

    Attributes:
        train_images: u8[N, height, width, channels].
        train_labels: i32[N].
        test_images: u8[N', height, width, channels].
        test_labels: i32[N'].
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def num_classes(self) -> int:
        """The number of classes, labelled from 0."""
        return int(self.train_labels.max()) + 1


class IdxSource(NamedTuple):
    """A data set that can be downloaded as four IDX files.

    Attributes:
        url: the address of the folder of the files.
        md5: the MD5 sums of the gzipped files, in the order of `idx.IDX_FILES`.
        description: a description for help texts.
    """

    url: str
    md5: tuple[str, str, str, str]
    description: str = ""


class LocalSource(NamedTuple):
    """A data set without IDX files: part of the package, or prepared by tensorflow-datasets.

    Attributes:
        description: a description for help texts.
    """

    description: str


def check_data(dataset: Dataset) -> None:
    """Raises `InvalidConfig` unless there are images of bytes and one label for each."""
    for images, labels in (dataset[:2], dataset[2:]):
        require(images.ndim == 4 and images.dtype == np.uint8, f"not images: {images.shape}")
        require(len(images) == len(labels) > 0, f"{len(images)} images, {len(labels)} labels")
