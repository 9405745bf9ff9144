"""How anything is timed here: warm, in turns, several times.

Every benchmark says the median of --repeats timings with their range; compiling, and the first
call after it, are before the clock.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("repeats", 5, "Timings per figure.", lower_bound=1)
flags.DEFINE_integer("timed_events", 300, "Events per timing, at most.", lower_bound=1)


def take_turns(calls: Sequence[Callable[[], Any]], per: int) -> list[list[float]]:
    """Microseconds per unit of work, one list of repeats for each call, after a warm-up.

    The calls take turns, so that a drift of the machine's speed hits all of them.
    """
    for call in calls:
        jax.block_until_ready(call())
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(FLAGS.repeats):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(1e6 * (time.perf_counter() - start) / per)
    return taken
