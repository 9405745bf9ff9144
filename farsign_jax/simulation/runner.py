"""One run from the first event to the last, with a record every so many events."""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax import programs
from farsign_jax.base import Array, Diagnostics, Problem, System
from farsign_jax.simulation.checks import check_batch, check_run
from farsign_jax.simulation.loop import advance, python_loop, start
from farsign_jax.simulation.state import Run, depth, output
from farsign_jax.validation import check_integer, require

_start = jax.jit(start, static_argnames=("system", "delivery"))
_advance = jax.jit(advance, static_argnames=("system", "delivery"), donate_argnames="run")


def bits_per_answer(system: System, problem: Problem) -> int:
    """Returns the bits of the numbers in one answer of one run.

    Several runs in one system, as in `sweeps.Lockstep`, are counted by the leading axes of the
    iterate.
    """
    if system.worker.bits is not None:
        return system.worker.bits
    keys = keys_lib.split(0)

    def value_and_params() -> Any:
        run = start(system, problem, keys, "outstanding")
        return run.inbox.value, run.server.params

    value, params = jax.eval_shape(value_and_params)  # leaves [m, 1, ...], f32[..., d]
    answers = problem.num_workers * math.prod(params.shape[:-1])
    return sum(8 * a.size * a.dtype.itemsize for a in jax.tree.leaves(value)) // answers


def segments(
    schedule: np.ndarray, every: int, begin: int = 0, axis: int = 0
) -> list[np.ndarray]:
    """Returns a part of the schedule for each length that `drive` will meet: one or two."""
    left = schedule.shape[axis] - begin
    lengths = {min(every, left), left % every} - {0}
    return [np.take(schedule, range(length), axis) for length in sorted(lengths)]


def drive(
    step: Callable[[Any, np.ndarray], tuple[Any, Diagnostics]],
    run: Any,
    schedule: np.ndarray,
    every: int,
    begin: int = 0,
    axis: int = 0,
) -> Iterator[tuple[int, Any, Diagnostics, float]]:
    """Runs `step(run, segment)` over segments of `every` events, from event `begin` on.

    What the caller does between two segments, such as measuring, progress and checkpoints, is
    not part of the seconds.

    Yields:
        Events done, the new run, the diagnostics, and the seconds that the segment took.
    """
    total = schedule.shape[axis]
    while begin < total:
        end = min(begin + every, total)
        segment = schedule[begin:end] if axis == 0 else schedule[:, begin:end]
        clock = time.perf_counter()
        run, info = jax.block_until_ready(step(run, segment))
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
    """Runs a system on a problem, from the first event of a schedule to the last.

    Args:
        problem: what is minimised, and the examples of each worker.
        system: server, worker and attack. The same object compiles once.
        schedule: `arrivals.Schedule`, or the arriving workers alone, i32[T] or i32[T, s].
        seed: decides all random draws within the loop.
        byzantine: number of Byzantine workers (the first ones), or a mask bool[m]; or
            bool[P, m], the masks of events 0 .. P - 1, repeated from the beginning.
        delivery: "fresh", "outstanding:L" or "inconsistent:L", see `conversation`.
        every: events between two records; by default one record at the end.
        measure: `params f32[d] -> {name: number}`, evaluated on `output` for each record.
        debug: whether to take the steps one by one in a Python loop instead of `lax.scan`.

    Returns:
        The final `Run`, with the `Staleness` of each worker, and one record per `every` events:
        `event`, `seconds` (of the loop, without compiling and measuring), `virtual_seconds`
        (if the schedule has times), `staleness` (the largest so far) and the measures.

    Raises:
        InvalidConfig: before the loop starts, if anything cannot run as configured.
    """
    programs.release_if_many()
    depth(delivery)  # rejects an unknown delivery
    m, in_rounds = problem.num_workers, system.server.in_rounds
    (schedule, times), mask = check_run(m, in_rounds, byzantine, schedule)
    check_batch(system.worker.batch_size, system.worker.left_out, problem.sizes)
    every = max(len(schedule), 1) if every is None else every
    require(every > 0, f"need every > 0 events between records: got {every}")
    mask, keys = jnp.asarray(mask), keys_lib.split(check_integer("a run", "seed", seed, 0))

    state = begin = _start(system, problem, keys, delivery, mask)
    step: Callable[[Any, Any], tuple[Run, Diagnostics]]
    if debug:
        step = functools.partial(python_loop, system, problem, mask, keys, delivery)
    else:
        step = functools.partial(_advance, system, problem, mask, keys, delivery)
        for segment in segments(schedule, every):  # compile before the clock runs
            _advance.lower(system, problem, mask, keys, delivery, begin, segment).compile()

    records: list[dict[str, float]] = []
    seconds, staleness = 0.0, 0
    for events, state, info, took in drive(step, begin, schedule, every):
        seconds += took
        staleness = max(staleness, int(info["staleness"].max()))
        record = {"event": events, "seconds": seconds, "staleness": staleness}
        if times is not None:
            record["virtual_seconds"] = float(times[events - 1])
        measured = measure(output(state)) if measure else {}
        records.append(record | {name: float(value) for name, value in measured.items()})
    return state, records
