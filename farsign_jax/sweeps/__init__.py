"""Sweeps: many runs at once, over devices and processes, which can be interrupted."""

from farsign_jax.sweeps.attack_choice import AttackChoice, Family
from farsign_jax.sweeps.inspection import Inspection, bytes_per_run, inspect, memory
from farsign_jax.sweeps.lockstep import Lockstep, LockstepState
from farsign_jax.sweeps.run_batch import (
    FinalRuns,
    RunBatch,
    SystemFactory,
    advance,
    start,
)
from farsign_jax.sweeps.run_sweep import cut, runs_that_fit, sweep

__all__ = [
    "AttackChoice",
    "Family",
    "FinalRuns",
    "Inspection",
    "Lockstep",
    "LockstepState",
    "RunBatch",
    "SystemFactory",
    "advance",
    "bytes_per_run",
    "cut",
    "inspect",
    "memory",
    "runs_that_fit",
    "start",
    "sweep",
]
