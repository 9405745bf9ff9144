"""Arrivals: which worker is received at which event, and when."""

from farsign_jax.arrivals.asynchronous import by_heap, by_time, draw_streams
from farsign_jax.arrivals.files import load, save, trace
from farsign_jax.arrivals.schedule import (
    Schedule,
    as_schedule,
    check_schedule,
    check_workers,
    sets,
    uniform,
    weighted,
)
from farsign_jax.arrivals.synchronous import rounds

__all__ = [
    "Schedule",
    "as_schedule",
    "by_heap",
    "by_time",
    "check_schedule",
    "check_workers",
    "draw_streams",
    "load",
    "rounds",
    "save",
    "sets",
    "trace",
    "uniform",
    "weighted",
]
