"""Compiled programs are released before a process holds too many of them.

XLA maps several pieces of memory for every program that it compiles for a CPU, and Linux
allows a process 65,530 maps (`vm.max_map_count`). JAX keeps every program for as long as the
process lives, so a long series of runs of different structure would end in a crash of XLA.
Everything here that is about to compile a run calls `release_if_many` first.
"""

import gc
import pathlib

import jax

MAX_MAPS = 10_000  # more than that are released; far below the limit of the kernel

_MAPS = pathlib.Path("/proc/self/maps")
_kept = 0  # maps that remained after the last release


def count_maps() -> int:
    """Returns the number of memory maps of this process, or 0 if the system does not tell."""
    try:
        with _MAPS.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def release_if_many() -> bool:
    """Drops all programs that JAX keeps if the process holds more than `MAX_MAPS` maps.

    A program that is in use stays until it is done with, and one that is needed again is
    compiled again; no result depends on it. Maps that remain after a release, because they are
    not maps of programs, do not count the next time: every call would release everything.

    Returns:
        Whether programs were dropped.
    """
    global _kept
    if count_maps() <= _kept + MAX_MAPS:
        return False
    jax.clear_caches()
    gc.collect()  # programs hang in cycles of Python objects
    _kept = max(count_maps() - MAX_MAPS // 2, 0)
    return True
