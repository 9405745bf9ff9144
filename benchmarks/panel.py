"""What do all aggregators and attacks of CYBER-0 cost in lock-step, in times one of them?"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.timing import FLAGS
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PAPER_AGGREGATORS, PAPER_ATTACKS, PanelConfig
from farsign_jax.config.sweep_specs import sweep_specs
from farsign_jax.harness import timing

EVENTS = 70  # eleven buffers are full about twice


def measure(config: PanelConfig, problem: Problem) -> dict[str, Any]:
    """Microseconds of an event of all runs together, and of one run by itself."""
    every = dataclasses.replace(
        config, methods=("cyber0",), aggregators=PAPER_AGGREGATORS, attacks=PAPER_ATTACKS
    )
    (job,) = sweep_specs(every)
    events = min(EVENTS, FLAGS.timed_events)
    case = Case("cyber0", "median", False, "fresh", 1, problem.x0.size)
    lanes = case.lanes(config, problem, 1, events * (1 + FLAGS.repeats))
    one = timing.clock(case.program(config), lanes, events, FLAGS.repeats)
    hyper = {name: jnp.asarray(values[None]) for name, values in job.hyper.items()}
    lanes = dataclasses.replace(lanes, hyper=hyper)
    whole = timing.clock(job.program, lanes, events, FLAGS.repeats)
    row = {"runs": len(job.runs), "one_us": one["us"], "all_us": whole["us"]}
    row["times"] = row["all_us"] / row["one_us"]
    return row | {"compile_s": whole["compile_s"]}
