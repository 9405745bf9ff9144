"""Simulation: the conversation of server and workers, in one compiled loop."""

from farsign_jax.simulation.conversation import (
    DELIVERIES,
    Memory,
    Run,
    answer,
    apply_attack,
    ask,
    check_batch,
    deliver,
    depth,
    output,
    scatter,
    zero_after,
)
from farsign_jax.simulation.loop import Lines, advance, event, python_loop, start
from farsign_jax.simulation.runner import bits_per_answer, chunks, drive, run
from farsign_jax.simulation.staleness import Staleness

__all__ = [
    "DELIVERIES",
    "Lines",
    "Memory",
    "Run",
    "Staleness",
    "advance",
    "answer",
    "apply_attack",
    "ask",
    "bits_per_answer",
    "check_batch",
    "chunks",
    "deliver",
    "depth",
    "drive",
    "event",
    "output",
    "python_loop",
    "run",
    "scatter",
    "start",
    "zero_after",
]
