"""Files that are written completely or not at all."""

import contextlib
import errno
import json
import math
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import jax
import numpy as np

from farsign_jax.validation import InvalidConfig


class ConfigMismatch(InvalidConfig):
    """A path is not a folder, or a folder contains results of another configuration."""


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path with the home folder in the place of ~.

    Raises:
        InvalidConfig: if the home folder is not known.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        rule = "the home folder is unknown: need a path without ~"
        raise InvalidConfig(f"{path}: {rule}") from None


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Lets errors of the system name this file: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces a file in one step by one that `write(file)` has filled.

    Readers see the old file or the new one, even if the process is killed or the power fails at
    any moment. No link that someone has put into the folder is followed.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with naming(path):
            with open(os.open(new, exclusive, 0o666), "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        synchronise_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # of a folder that has vanished
            new.unlink(missing_ok=True)


def synchronise_folder(path: pathlib.Path) -> None:
    """Lets the names in a folder survive a loss of power, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces a file by this text, in one step; what UTF-8 cannot encode becomes a "?"."""
    atomic_write(path, lambda file: file.write(text.encode(errors="replace")))


def json_text(value: Any, **layout: Any) -> str:
    """Returns JSON, in which NaN and infinity, which JSON does not have, are null.

    Args:
        value: dicts, lists, texts and numbers.
        **layout: of `json.dumps`, such as `indent`.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Replaces a file by the `json_text` of a value, in one step."""
    write_text(path, json_text(value, indent=indent) + "\n")


def save_state(path: str | os.PathLike, state: Any) -> None:
    """Writes the arrays of a pytree as .npz, one by one, without a second copy in memory."""
    leaves: Any = {str(i): np.asarray(a) for i, a in enumerate(jax.tree.leaves(state))}
    atomic_write(path, lambda file: np.savez(file, **leaves))


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as .npz, one by one."""
    atomic_write(path, lambda file: np.savez(file, **dict(arrays)))  # pyright: ignore


@contextlib.contextmanager
def opened(
    path: str | os.PathLike, otherwise: str = "is damaged: delete it to start anew"
) -> Iterator[Any]:
    """Opens an .npz file, as `np.load`.

    Args:
        path: the file.
        otherwise: what is said of it if it, or an array that is read of it, is damaged.

    Raises:
        InvalidConfig: if it is damaged.
    """
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
        except MemoryError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise many types on damaged files
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # of the disk
            reason = f"{type(error).__name__}: {error}"
            raise InvalidConfig(f"{path} {otherwise} ({reason})") from error


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote.

    Raises:
        InvalidConfig: if the file is damaged.
    """
    with opened(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load_leaf(path: str | os.PathLike, number: int) -> np.ndarray:
    """Reads one leaf of what `save_state` wrote, and nothing else.

    Raises:
        InvalidConfig: if the file is damaged.
    """
    with opened(path) as arrays:
        return arrays[str(number)]


def load_state(path: str | os.PathLike, like: Any) -> Any:
    """Reads what `save_state` wrote into the structure of `like`.

    Raises:
        InvalidConfig: if it is damaged, or leaves are missing or of another shape or type.
    """
    leaves, tree = jax.tree.flatten(like)
    with opened(path) as arrays:
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
    path = expanded(path)
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ConfigMismatch(f"{there} is a file: {flag} names a folder, got {path}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        rule = f"cannot write in {there} ({error.strerror})"
        raise InvalidConfig(f"{rule}: {flag} is {path}") from None
