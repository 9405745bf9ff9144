"""Simulation: the conversation of a server with its workers, in one compiled loop."""

from farsign_jax.simulation.checks import check_batch, check_poison, check_run
from farsign_jax.simulation.conversation import answer, ask, deliver
from farsign_jax.simulation.forging import apply_attack
from farsign_jax.simulation.in_place import scatter, zero_after
from farsign_jax.simulation.loop import Steps, advance, event, python_loop, start
from farsign_jax.simulation.runner import bits_per_answer, drive, run, segments
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.simulation.state import (
    DELIVERIES,
    History,
    Memory,
    Run,
    depth,
    history_length,
    output,
)

__all__ = [
    "DELIVERIES",
    "History",
    "Memory",
    "Run",
    "Staleness",
    "Steps",
    "advance",
    "answer",
    "apply_attack",
    "ask",
    "bits_per_answer",
    "check_batch",
    "check_poison",
    "check_run",
    "deliver",
    "depth",
    "drive",
    "event",
    "history_length",
    "output",
    "python_loop",
    "run",
    "scatter",
    "segments",
    "start",
    "zero_after",
]
