"""The cache that commands have in common: decoded data sets and compiled programs.

Without a folder that can be written, commands do without a cache, and say so once.
"""

import functools
import logging
import os
import pathlib
import sys
import warnings

import jax

from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig


def folder(path: str | os.PathLike | None = None) -> pathlib.Path | None:
    """Returns the folder of the cache, which exists.

    Args:
        path: the folder; by default $FARSIGN_CACHE, else ~/.cache/farsign_jax.

    Returns:
        None if the folder cannot be made or written to, which is printed once.
    """
    return _usable(str(path or os.environ.get("FARSIGN_CACHE") or "~/.cache/farsign_jax"))


@functools.cache
def _usable(path: str) -> pathlib.Path | None:
    try:
        found = files.expanded(path)
        files.check_writable(found, "FARSIGN_CACHE")
        found.mkdir(parents=True, exist_ok=True)
        return found
    except (InvalidConfig, OSError) as error:
        warn(error)
        return None


def warn(reason: Exception) -> None:
    """Says in one line why something is not kept in the cache."""
    said = " ".join(str(reason).split())
    print(f"warning: nothing is kept in the cache: {said}", file=sys.stderr)


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the cache, so that the next command finds them."""
    where = folder()
    jax.config.update("jax_compilation_cache_dir", str(where / "xla") if where else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # JAX does not write programs atomically. A process that reads one that another process is
    # writing warns, and compiles it.
    unreadable = "Error reading persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=unreadable, category=UserWarning)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it reports missing TPUs
