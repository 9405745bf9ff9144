"""Schedules: which worker is heard at which event, drawn before the loop.

A schedule is an int32 array [T], or [T, s] for sets of arrivals, padded with -1. Where every
worker is asked again as soon as it has answered, the order of arrivals is all there is to
know about an asynchronous run; staleness follows from it.
"""

from typing import Any

import numpy as np

from farsign_jax.base import Key, require
from farsign_jax.keys import host_rng


def uniform(key: Key, num_workers: int, num_events: int) -> np.ndarray:
    """Every worker is equally likely at every event (the paper's experiment), i32[T]."""
    return weighted(key, np.ones(num_workers), num_events)


def weighted(key: Key, rates: Any, num_events: int) -> np.ndarray:
    """Worker i arrives with probability proportional to `rates[i]`, i32[T].

    Exactly the order of arrivals of workers with exponential service times at these rates.
    """
    rates = np.asarray(rates, np.float64)
    require(rates.ndim == 1 and rates.size > 0, f"need one rate per worker: got {rates}")
    require((rates >= 0) & np.isfinite(rates), f"rates are finite and >= 0: got {rates}")
    require(rates.sum() > 0, f"some worker must arrive: got rates {rates}")
    require(num_events >= 0, f"need num_events >= 0: got {num_events}")
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


def check(schedule: Any, num_workers: int) -> np.ndarray:
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
