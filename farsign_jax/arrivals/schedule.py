"""Schedules: which worker is heard at which event, and when, drawn before the loop.

Where every worker is asked again as soon as it has answered, the order of arrivals is all there
is to know about an asynchronous run; staleness follows from it. What time it is then concerns
the reader of the results only, so the clock, float64, stays on the host.

Three ways to a schedule: a law of who comes next (`uniform`, `weighted`, `sets`: no clock); how
long each worker takes (`by_time`, and `rounds` where the server waits); and what happened
elsewhere (`load`, `trace`).
"""

from typing import Any, NamedTuple

import numpy as np

from farsign_jax.base import Key
from farsign_jax.keys import host_rng
from farsign_jax.validation import require


class Schedule(NamedTuple):
    """T events.

    Where a function takes a schedule, it also takes `workers` alone.
    """

    workers: np.ndarray  # i32[T], who is heard; or i32[T, s], sets, padded with -1
    times: np.ndarray | None = None  # f64[T], virtual seconds, ascending


def uniform(key: Key, num_workers: int, num_events: int) -> np.ndarray:
    """Every worker is equally likely at every event (the paper's experiment): i32[T]."""
    return weighted(key, np.ones(num_workers), num_events)


def weighted(key: Key, rates: Any, num_events: int) -> np.ndarray:
    """Worker i arrives with probability proportional to `rates[i]`: i32[T].

    Exactly the order of arrivals of workers with exponential service times at these rates.
    """
    rates = np.asarray(rates, np.float64)
    require(rates.ndim == 1 and rates.size > 0, f"need one rate per worker: got {rates}")
    good = (rates > 0) & np.isfinite(rates)
    worst = int(np.argmin(good))
    rule = f"rates are finite and > 0: worker {worst} has rate {rates[worst]:g}"
    require(good, rule)
    require(num_events >= 0, f"need num_events >= 0: got {num_events}")
    rates = rates / rates.max()  # whose sum is finite
    share = np.cumsum(rates) / rates.sum()
    draws = host_rng(key).random(num_events)
    return np.searchsorted(share, draws, side="right").astype(np.int32)


def sets(key: Key, num_workers: int, num_events: int, size: int) -> np.ndarray:
    """`size` distinct workers at every event, all sets equally likely, i32[T, size]."""
    require(
        1 <= size <= num_workers,
        f"a set needs 1 <= size <= workers: got size={size}, workers={num_workers}",
    )
    order = host_rng(key).random((num_events, num_workers)).argsort(axis=1)
    return order[:, :size].astype(np.int32)


def as_schedule(schedule: Any) -> Schedule:
    """A `Schedule` as it is, an array as the workers of one without a clock."""
    return schedule if isinstance(schedule, Schedule) else Schedule(np.asarray(schedule))


def check_schedule(schedule: Any, num_workers: int) -> Schedule:
    """The schedule, its workers as i32[T] or i32[T, s], its times as f64[T].

    Raises:
        InvalidConfig: where an id is not a worker's, an event names one twice, or times are
            negative, NaN, out of order or not one per event.
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
    """The schedule as i32[T] or i32[T, s].

    Raises:
        InvalidConfig: where an id is not a worker's, or an event names one twice.
    """
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
