"""Rebuilds the embedded subset of MNIST, bit by bit.

    python -m farsign_jax.data.build_mnist_subset --data_dir DIR --check
    python -m farsign_jax.data.build_mnist_subset --data_dir DIR

The subset contains, from each split and class, the images with the smallest SHA-256 sums:
1,000 per class for training and 200 for testing, in the order of the sums. The choice depends
on the images alone, not on the order or the format in which they come. The command writes
mnist_subset.npz in the package.
"""

import argparse
import hashlib
import sys

import numpy as np

from farsign_jax.data import dataset, datasets
from farsign_jax.io import endings
from farsign_jax.io.files import atomic_write


def select(images: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """Selects images of every class by their SHA-256 sums.

    Args:
        images: u8[N, ...].
        labels: i32[N].
        per_class: the number of images of each class.

    Returns:
        The rows of the selected images, i64[classes * per_class].
    """
    sums = np.asarray([hashlib.sha256(image.tobytes()).hexdigest() for image in images])
    order = np.argsort(sums, kind="stable")
    chosen = [order[labels[order] == label][:per_class] for label in np.unique(labels)]
    rows = np.concatenate(chosen)
    return rows[np.argsort(sums[rows], kind="stable")]


def build(mnist: dataset.Dataset) -> dataset.Dataset:
    """The subset of the full data set."""
    train = select(mnist.train_images, mnist.train_labels, 1000)
    test = select(mnist.test_images, mnist.test_labels, 200)
    return dataset.Dataset(
        mnist.train_images[train],
        mnist.train_labels[train].astype(np.int32),
        mnist.test_images[test],
        mnist.test_labels[test].astype(np.int32),
    )


def main() -> None:
    """Writes the subset, or compares it with the embedded file."""
    # This package cannot use the command line of `farsign_jax.cli`, which depends on it.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "The folder of MNIST, prepared by tensorflow-datasets or with IDX files."
    parser.add_argument("--data_dir", help=text)
    text = "Compare with the embedded file instead of writing it."
    parser.add_argument("--check", action="store_true", help=text)
    arguments = parser.parse_args()
    subset = build(datasets.load("mnist", arguments.data_dir))
    if not arguments.check:
        atomic_write(
            datasets.EMBEDDED, lambda file: np.savez_compressed(file, **subset.images())
        )
        print(f"wrote {datasets.EMBEDDED}")
        return
    embedded = datasets.load("mnist_subset")
    for name, built in subset.images().items():
        kept = getattr(embedded, name)
        if built.dtype != kept.dtype or not np.array_equal(built, kept):
            sys.exit(f"{name} differs")
    print("the embedded subset is what this script builds")


if __name__ == "__main__":
    with endings.in_one_line():
        main()
