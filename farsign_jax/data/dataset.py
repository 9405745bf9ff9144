"""The type of a data set, and where one may come from."""

from typing import NamedTuple

import numpy as np

from farsign_jax.validation import require


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


def check_data(dataset: Dataset) -> None:
    for images, labels in (dataset[:2], dataset[2:]):
        require(images.ndim == 4 and images.dtype == np.uint8, f"not images: {images.shape}")
        require(len(images) == len(labels) > 0, f"{len(images)} images, {len(labels)} labels")
