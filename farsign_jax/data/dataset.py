"""The type of a data set, and the descriptions of where data sets come from."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from farsign_jax.validation import DataError


class Dataset(NamedTuple):
    """Images, or texts, and labels, for training and for testing.

    Attributes:
        train_images: u8[N, height, width, channels]; of texts, tokens i32[N, t].
        train_labels: i32[N]; of texts whose next tokens are predicted, i32[N, t].
        test_images: u8[N', height, width, channels], or i32[N', t].
        test_labels: i32[N'], or i32[N', t].
        train_users: i32[N], whose example each is, 0, 1, ...; None where nobody is named.
        test_users: i32[N'], likewise.
        classes: the number of classes, where not all of them are among the labels.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    train_users: np.ndarray | None = None
    test_users: np.ndarray | None = None
    classes: int | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes, labelled from 0."""
        return self.classes or int(self.train_labels.max()) + 1

    def images(self) -> dict[str, Any]:
        """The arrays of a data set of images by name."""
        return {name: getattr(self, name) for name in IMAGES}


IMAGES = ("train_images", "train_labels", "test_images", "test_labels")


class Contents(NamedTuple):
    """What is known of a data set, by which its files are told from those of another one.

    Attributes:
        image: height, width and channels.
        train: the number of training examples of each class.
        test: the number of test examples of each class.
        brightness: the mean of the training images, bytes as 0..1.
        digest: the `digest` of the examples, or "" if it is not known.
    """

    image: tuple[int, int, int]
    train: tuple[int, ...]
    test: tuple[int, ...]
    brightness: float
    digest: str = ""

    def difference(self, dataset: Dataset) -> str:
        """Says how a data set that `check_data` accepts differs from this one, else ""."""
        image = dataset.train_images.shape[1:]
        if image != self.image:
            return f"images are {_sizes(image)} instead of {_sizes(self.image)}"
        parts = (
            ("training", dataset.train_labels, self.train),
            ("test", dataset.test_labels, self.test),
        )
        for part, labels, known in parts:
            counts = np.bincount(labels).tolist()
            if counts != list(known):
                return f"{part} examples per class are {counts} instead of {list(known)}"
        brightness = dataset.train_images.mean() / 255
        if abs(brightness - self.brightness) > _BRIGHTNESS:
            return f"the mean of its pixels is {brightness:.3f} instead of {self.brightness}"
        return "" if self.digest in ("", digest(dataset)) else "some of its bytes are others"


_BRIGHTNESS = 0.03  # the means of known data sets of equal counts differ by twice as much


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def digest(dataset: Dataset) -> str:
    """Returns a digest of the examples; their order does not matter."""
    total = hashlib.sha256()
    for images, labels in (dataset[:2], dataset[2:4]):
        pairs = zip(images, labels.tolist(), strict=True)
        sums = [hashlib.sha256(image.tobytes() + bytes([label])) for image, label in pairs]
        total.update(b"".join(sorted(each.digest() for each in sums)))
    return total.hexdigest()


class IdxSource(NamedTuple):
    """A data set that can be downloaded as four IDX files.

    Attributes:
        url: the address of the folder of the files.
        md5: the MD5 sums of the gzipped files, in the order of `idx.IDX_FILES`.
        description: a description for help texts.
        contents: what is known of it; None accepts any data set.
    """

    url: str
    md5: tuple[str, str, str, str]
    description: str = ""
    contents: Contents | None = None


class LocalSource(NamedTuple):
    """A data set that is not downloaded: part of the package, or in the folder --data_dir.

    Attributes:
        description: a description for help texts.
        contents: what is known of it; None accepts any data set.
    """

    description: str
    contents: Contents | None = None


def check_data(dataset: Dataset) -> None:
    """Raises `DataError` unless the arrays are those of a classification problem."""
    train, test = dataset.train_images, dataset.test_images
    for part, images, labels in (("training", *dataset[:2]), ("test", *dataset[2:4])):
        if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
            found = f"{images.dtype}[{', '.join(map(str, images.shape))}]"
            raise DataError(
                f"{part} images are bytes [N, height, width, channels]: got {found}"
            )
        if labels.ndim != 1 or labels.dtype != np.int32:
            found = f"{labels.dtype}[{', '.join(map(str, labels.shape))}]"
            raise DataError(f"{part} labels are int32[N]: got {found}")
        if len(images) != len(labels):
            raise DataError(f"{len(images)} {part} images, {len(labels)} {part} labels")
    if train.shape[1:] != test.shape[1:]:
        sizes = f"{_sizes(train.shape[1:])} for training, {_sizes(test.shape[1:])} for testing"
        raise DataError(f"all images have one size: got {sizes}")
    low, high = int(dataset.train_labels.min()), int(dataset.train_labels.max())
    rule = "labels are the classes 0, 1, ..., C - 1, at least two of them in the training set"
    if low != 0 or high == 0:
        raise DataError(f"{rule}: got {low}..{high}")
    low, last = int(dataset.test_labels.min()), int(dataset.test_labels.max())
    if low < 0 or last > high:
        raise DataError(f"{rule}: got {low}..{last} in the test set, 0..{high} in training")
