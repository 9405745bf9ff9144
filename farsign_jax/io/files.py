"""Files that are written completely or not at all."""

import contextlib
import errno
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import jax
import numpy as np

from farsign_jax.validation import InvalidConfig

# Errors of the user's disk, as opposed to errors of a programmer.
DENIED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


class ConfigMismatch(InvalidConfig):
    """A path is not a folder, or a folder contains results of another configuration."""


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces a file in one step by one that `write(file)` has filled.

    Readers see the old file or the new one, even if the process is killed at any moment.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(new, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:  # that of a full disk does not name the file
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
    finally:
        new.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces a file by this text, in one step."""
    atomic_write(path, lambda file: file.write(text.encode()))


def save_state(path: str | os.PathLike, state: Any) -> None:
    """Writes the arrays of a pytree as .npz, one by one, without a second copy in memory."""
    leaves: Any = {str(i): np.asarray(a) for i, a in enumerate(jax.tree.leaves(state))}
    atomic_write(path, lambda file: np.savez(file, **leaves))


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as .npz, one by one."""
    atomic_write(path, lambda file: np.savez(file, **dict(arrays)))  # pyright: ignore


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidConfig(f"{path} is damaged ({error}): delete it to start anew") from error


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote.

    Raises:
        InvalidConfig: if the file is damaged.
    """
    with _opened(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load_leaf(path: str | os.PathLike, number: int) -> np.ndarray:
    """Reads one leaf of what `save_state` wrote, and nothing else.

    Raises:
        InvalidConfig: if the file is damaged.
    """
    with _opened(path) as arrays:
        return arrays[str(number)]


def load_state(path: str | os.PathLike, like: Any) -> Any:
    """Reads what `save_state` wrote into the structure of `like`.

    Raises:
        InvalidConfig: if it is damaged, or leaves are missing or of another shape or type.
    """
    leaves, tree = jax.tree.flatten(like)
    with _opened(path) as arrays:
        loaded = [arrays[name] for name in arrays.files]
    if len(loaded) != len(leaves):
        raise InvalidConfig(f"{path} holds {len(loaded)} arrays where {len(leaves)} are needed")
    for i, (got, want) in enumerate(zip(loaded, leaves, strict=True)):
        if got.shape != np.shape(want) or got.dtype != want.dtype:
            raise InvalidConfig(
                f"{path}: array {i} is {got.dtype}{list(got.shape)} where "
                f"{want.dtype}{list(np.shape(want))} is needed"
            )
    return jax.tree.unflatten(tree, loaded)


def check_writable(path: str | os.PathLike, flag: str = "--out") -> None:
    """Checks that a folder exists or can be made, and that one may write to it.

    Raises:
        ConfigMismatch: if a file is in its place.
        InvalidConfig: if it cannot be made or written to.
    """
    if not str(path):
        raise InvalidConfig(f"{flag} names a folder: got ''")
    path = pathlib.Path(path).expanduser()
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ConfigMismatch(f"{there} is a file: {flag} names a folder, got {path}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InvalidConfig(f"no permission to write in {there}: {flag} is {path}")
