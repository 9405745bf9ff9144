"""Schedules: which worker the server receives at which event, drawn before the run.

If every worker receives its next question as soon as it has answered, the order of arrivals
determines an asynchronous run, staleness included. The times of the events are not used in the
run, only in its results; they stay on the host, in float64.

There are three ways to obtain a schedule: a distribution of the next worker, without times
(`uniform`, `weighted`, `sets`); the delays of the workers (`by_time`, or `rounds` for a server
that waits); and a record of earlier arrivals (`load`, `trace`).
"""

from typing import Any, NamedTuple

import numpy as np

from farsign_jax.base import Key
from farsign_jax.keys import host_rngs
from farsign_jax.validation import require


class Workers(np.ndarray):
    """An array of arriving workers, i32[T] or i32[T, s], that knows for how many it was drawn.

    `check_schedule` refuses it for another number of workers. Elements of it, and arrays that
    are computed from it, are ordinary; its slices know the number, too.
    """

    num_workers: int | None = None  # m, if it is known

    def __array_finalize__(self, made_from: Any) -> None:
        self.num_workers = getattr(made_from, "num_workers", None)


def drawn_for(num_workers: int, workers: Any) -> Workers:
    """The array of arriving workers, i32, which from now on knows that there are m of them."""
    found = np.asarray(workers, np.int32).view(Workers)
    found.num_workers = num_workers
    return found


class Schedule(NamedTuple):
    """T events.

    Functions that take a schedule also accept the array `workers` alone.

    Attributes:
        workers: i32[T], the worker received at each event; or i32[T, s], sets of workers,
            padded with -1.
        times: f64[T], virtual seconds in ascending order; None without a clock.
    """

    workers: np.ndarray
    times: np.ndarray | None = None


def uniform(key: Key, num_workers: int, num_events: int) -> np.ndarray:
    """Every worker is equally likely at every event, as in the paper's experiment.

    Args:
        key: a run's `keys.schedule`.
        num_workers: m.
        num_events: T.

    Returns:
        Workers i32[T].
    """
    return weighted(key, np.ones(num_workers), num_events)


def weighted(key: Key, rates: Any, num_events: int) -> np.ndarray:
    """Worker i arrives with probability proportional to `rates[i]` at every event.

    This is the order of arrivals of workers with exponential delays at these rates.

    Args:
        key: a run's `keys.schedule`.
        rates: f64[m], finite and > 0.
        num_events: T.

    Returns:
        Workers i32[T].

    Raises:
        InvalidConfig: if a rate is not finite and > 0, or there is none.
    """
    rates = np.asarray(rates, np.float64)
    require(rates.ndim == 1 and rates.size > 0, f"need one rate per worker: got {rates}")
    good = (rates > 0) & np.isfinite(rates)
    worst = int(np.argmin(good))
    rule = f"rates are finite and > 0: worker {worst} has rate {rates[worst]:g}"
    require(good, rule)
    require(num_events >= 0, f"need num_events >= 0: got {num_events}")
    rates = rates / rates.max()  # so that the sum is finite
    cumulative = np.cumsum(rates) / rates.sum()
    (rng,) = host_rngs(key, 1)
    draws = rng.random(num_events)
    return drawn_for(rates.size, np.searchsorted(cumulative, draws, side="right"))


def sets(key: Key, num_workers: int, num_events: int, size: int) -> np.ndarray:
    """`size` distinct workers at every event, with all sets equally likely.

    Args:
        key: a run's `keys.schedule`.
        num_workers: m.
        num_events: T.
        size: s, in 1..m.

    Returns:
        Sets of workers i32[T, s].

    Raises:
        InvalidConfig: if the size is not in 1..m.
    """
    require(
        1 <= size <= num_workers,
        f"a set needs 1 <= size <= workers: got size={size}, workers={num_workers}",
    )
    (rng,) = host_rngs(key, 1)
    order = rng.random((num_events, num_workers)).argsort(axis=1)
    return drawn_for(num_workers, order[:, :size])


def as_schedule(schedule: Any) -> Schedule:
    """The schedule itself, or a schedule without times for an array of workers."""
    return schedule if isinstance(schedule, Schedule) else Schedule(np.asanyarray(schedule))


def check_schedule(schedule: Any, num_workers: int) -> Schedule:
    """Checks a schedule for a run with m workers.

    Args:
        schedule: a `Schedule` or an array of workers.
        num_workers: m.

    Returns:
        The schedule with workers i32[T] or i32[T, s] and times f64[T] or None.

    Raises:
        InvalidConfig: if the schedule was drawn for another number of workers, an id is not
            that of a worker, an event names a worker twice, or times are negative, not finite,
            out of order or not one per event.
    """
    workers, times = as_schedule(schedule)
    workers = check_workers(workers, num_workers)
    if times is not None:
        times = np.asarray(times, np.float64)
        rule = f"need one time per event: got {times.shape} for {len(workers)} events"
        require(times.shape == workers.shape[:1], rule)
        good = np.isfinite(times) & (times >= 0)
        at = int(np.argmin(good)) if len(times) else 0
        rule = "times are finite and >= 0"
        require(good, f"{rule}: event {at} is at {times[at : at + 1]}")
        later = np.diff(times) >= 0
        at = int(np.argmin(later)) if len(later) else 0
        rule = "times ascend"
        require(
            later,
            f"{rule}: event {at + 1} is at {times[at + 1 : at + 2]} after {times[at : at + 1]}",
        )
    return Schedule(workers, times)


def check_workers(schedule: Any, num_workers: int) -> np.ndarray:
    """Checks the workers of a schedule, and returns them as i32[T] or i32[T, s].

    Raises:
        InvalidConfig: if the schedule was drawn for another number of workers, an id is not
            that of a worker, or an event names a worker twice.
    """
    drawn = getattr(schedule, "num_workers", None)
    rule = f"the schedule is for {drawn} workers, the problem has {num_workers}"
    require(drawn in (None, num_workers), rule)
    schedule = np.asarray(schedule)
    rule = f"a schedule is an integer array [T] or [T, s]: got {schedule.dtype}"
    require(
        schedule.ndim in (1, 2) and np.issubdtype(schedule.dtype, np.integer),
        f"{rule}{list(schedule.shape)}",
    )
    too_low = np.any(schedule < (0 if schedule.ndim == 1 else -1))
    worst = schedule.min(initial=0) if too_low else schedule.max(initial=0)
    require(
        not too_low and worst < num_workers,
        f"the schedule names worker {worst}, but workers are 0..{num_workers - 1} "
        "(-1 pads a set)",
    )
    if schedule.ndim == 2:
        ordered = np.sort(schedule, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        at = int(np.argmax(twice.any(axis=1))) if twice.any() else -1
        require(at < 0, f"event {at} of the schedule names a worker twice: {schedule[at]}")
    return schedule.astype(np.int32)
