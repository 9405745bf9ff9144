"""Arrivals: which worker the server receives at which event, and when."""

from farsign_jax.arrivals.asynchronous import by_heap, by_time, open_streams
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
    "load",
    "open_streams",
    "rounds",
    "save",
    "sets",
    "trace",
    "uniform",
    "weighted",
]
