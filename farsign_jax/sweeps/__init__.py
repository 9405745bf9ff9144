"""Sweeps: many runs at once, over devices and processes, resumable."""

from farsign_jax.sweeps.lockstep import Lockstep, LockstepState
from farsign_jax.sweeps.run_batch import (
    FinalRuns,
    RunBatch,
    SystemFactory,
    advance,
    bytes_per_run,
    memory,
    start,
)
from farsign_jax.sweeps.run_sweep import cut, runs_that_fit, sweep

__all__ = [
    "FinalRuns",
    "Lockstep",
    "LockstepState",
    "RunBatch",
    "SystemFactory",
    "advance",
    "bytes_per_run",
    "cut",
    "memory",
    "runs_that_fit",
    "start",
    "sweep",
]
