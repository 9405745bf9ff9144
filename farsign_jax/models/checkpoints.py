"""Parameters of a model in a file, by their paths, as in "blocks/query/kernel"."""

import os
from collections.abc import Mapping

import numpy as np

from farsign_jax.io import files
from farsign_jax.validation import DataError, InvalidConfig


def save(path: str | os.PathLike, leaves: Mapping[str, np.ndarray]) -> None:
    """Writes parameters, at once or not at all."""
    files.save_arrays(path, {name: np.asarray(leaf) for name, leaf in leaves.items()})


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `save` wrote.

    Raises:
        DataError: if there is no such file, or it is damaged.
    """
    try:
        return files.load_arrays(path)
    except (InvalidConfig, OSError) as error:
        raise DataError(f"the parameters of a model: {error}") from error
