"""One run from the first event to the last, with a record every so many events."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import arrivals, attacks, programs
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Problem, System
from farsign_jax.simulation.conversation import Run, check_batch, depth, output
from farsign_jax.simulation.loop import advance, python_loop, start
from farsign_jax.validation import require

_start = jax.jit(start, static_argnames=("system", "delivery"))


_advance = jax.jit(advance, static_argnames=("system", "delivery"), donate_argnames="run")


def bits_per_answer(system: System, problem: Problem) -> int:
    """Bits of the numbers in one answer."""
    if system.worker.bits is not None:
        return system.worker.bits
    keys = keys_lib.split(0)
    waiting = jax.eval_shape(lambda: start(system, problem, keys, "outstanding")).inbox.value
    leaves = jax.tree.leaves(waiting)  # [m, 1, ...]
    return sum(8 * a.size * a.dtype.itemsize for a in leaves) // problem.num_workers


def chunks(schedule: np.ndarray, every: int, begin: int = 0, axis: int = 0) -> list[np.ndarray]:
    """One piece of the schedule of each length that `drive` will meet: one or two."""
    left = schedule.shape[axis] - begin
    lengths = {min(every, left), left % every} - {0}
    return [np.take(schedule, range(length), axis) for length in sorted(lengths)]


def drive(
    step: Callable, run: Run, schedule: np.ndarray, every: int, begin: int = 0, axis: int = 0
) -> Iterator[tuple[int, Run, dict[str, Array], float]]:
    """Runs `step(run, chunk)` over chunks of `every` events, from event `begin` on.

    Yields (events done, run, info, seconds the chunk took). What happens between two
    chunks, metrics, progress, checkpoints, is the caller's, and is not in the seconds.
    """
    total = schedule.shape[axis]
    while begin < total:
        end = min(begin + every, total)
        chunk = schedule[begin:end] if axis == 0 else schedule[:, begin:end]
        clock = time.perf_counter()
        run, info = jax.block_until_ready(step(run, chunk))
        yield end, run, info, time.perf_counter() - clock
        begin = end


def run(
    problem: Problem,
    system: System,
    schedule: Any,
    *,
    seed: int = 0,
    byzantine: Any = 0,
    delivery: str = "fresh",
    every: int | None = None,
    measure: Callable[[Array], dict[str, Array]] | None = None,
    debug: bool = False,
) -> tuple[Run, list[dict[str, float]]]:
    """One run, from the first event to the last.

    Args:
        problem: what is minimised, by whose data.
        system: server, worker and attack. The same object compiles once.
        schedule: `arrivals.Schedule`, or who arrives alone, i32[T] or i32[T, s].
        seed: everything random that happens within the loop.
        byzantine: how many workers lie (the first ones), or a mask bool[m]; or bool[P, m], who
            lies at events 0 .. P - 1, and from the beginning again.
        delivery: "fresh", "outstanding" or "outstanding:L", see above.
        every: events between two records; default: one record at the end.
        measure: `params f32[d] -> {name: number}`, evaluated for each record, of `output`.
        debug: speak the lines one by one in a Python loop instead of `lax.scan`.

    Returns:
        The final `Run`, with the `Staleness` of each worker, and one record per `every` events:
        `event`, `seconds` (of the loop, compilation and measuring apart), `virtual_seconds`
        (where the schedule has times), `staleness` (the largest so far) and the measures.

    Raises:
        InvalidConfig: before the loop starts, on anything that cannot run as asked.
    """
    programs.release_if_many()
    depth(delivery)  # refuses what is none
    schedule, times = arrivals.check_schedule(schedule, problem.num_workers)
    check_batch(system, problem.sizes)
    lies = jnp.asarray(attacks.byzantine_mask(problem.num_workers, byzantine))
    keys = keys_lib.split(seed)
    every = max(len(schedule), 1) if every is None else every
    require(every > 0, f"need every > 0 events between records: got {every}")

    state = begin = _start(system, problem, keys, delivery)
    if debug:
        step = functools.partial(python_loop, system, problem, lies, keys, delivery)
    else:
        step = functools.partial(_advance, system, problem, lies, keys, delivery)
        for chunk in chunks(schedule, every):  # compile before the clock runs
            _advance.lower(system, problem, lies, keys, delivery, begin, chunk).compile()

    records, seconds, staleness = [], 0.0, 0
    for events, state, info, took in drive(step, begin, schedule, every):
        seconds += took
        staleness = max(staleness, int(info["staleness"].max()))
        record = {"event": events, "seconds": seconds, "staleness": staleness}
        if times is not None:
            record["virtual_seconds"] = float(times[events - 1])
        measured = measure(output(state)) if measure else {}
        records.append(record | {name: float(value) for name, value in measured.items()})
    return state, records
