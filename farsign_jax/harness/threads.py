"""Independent parts of a command side by side, one on each core."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax

from farsign_jax.harness import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 8  # threads: tracing holds the lock of the interpreter


def cores() -> int:
    """Returns the number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _threads() -> int:
    """One for each core, up to a limit; a single one where a sweep has several devices, which
    it keeps busy itself, and which several processes have to call in the same order."""
    return min(cores(), _MOST) if jax.device_count() == 1 else 1


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Calls a function with each item, with as many of them at a time as there are cores.

    Compiling and running a program leave the interpreter to other threads, and small programs
    use one core each, so that two of them take little longer than one.

    Args:
        function: has to be safe to call from several threads.
        items: what it is called with.

    Yields:
        The results in the order of the items.

    Raises:
        BaseException: that of the first item whose call fails, when those before it are done.
            The other calls end at their next segment.
    """
    pool = ThreadPoolExecutor(_threads())
    futures = [pool.submit(function, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            progress.interrupt_all()  # those that have begun since, too
            time.sleep(0.05)
        progress.close_all()
        raise
    pool.shutdown()
