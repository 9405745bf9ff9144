"""The cache that commands have in common: decoded data sets and compiled programs."""

import logging
import os
import pathlib

import jax


def folder() -> pathlib.Path:
    """Returns the folder of the cache: $FARSIGN_CACHE, else ~/.cache/farsign_jax."""
    return pathlib.Path(os.environ.get("FARSIGN_CACHE") or "~/.cache/farsign_jax").expanduser()


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the cache, so that the next command finds them."""
    jax.config.update("jax_compilation_cache_dir", str(folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it reports missing TPUs
