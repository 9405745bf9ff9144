"""The cost of all aggregators and attacks of CYBER-0 in lock-step and of one of them."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.timing import FLAGS
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PAPER_AGGREGATORS, PAPER_ATTACKS, PanelConfig
from farsign_jax.config.sweep_specs import sweep_specs
from farsign_jax.harness import timing

EVENTS = 70  # eleven buffers are all full about twice


def measure(config: PanelConfig, problem: Problem, seeds: int = 1) -> dict[str, Any]:
    """Microseconds of an event of all runs together, and of one run by itself.

    Args:
        config: the configuration.
        problem: the data and the network.
        seeds: how many sets of all runs are side by side.
    """
    every = dataclasses.replace(
        config, methods=("cyber0",), aggregators=PAPER_AGGREGATORS, attacks=PAPER_ATTACKS
    )
    (job,) = sweep_specs(every)
    events = min(EVENTS, FLAGS.timed_events)
    case = Case("cyber0", "median", False, "fresh", 1, problem.x0.size)
    batch = case.run_batch(config, problem, 1, events * (1 + FLAGS.repeats))
    one = timing.clock(case.program(config), batch, events, FLAGS.repeats)
    # Runs in lock-step have one seed; those of FAR-SIGN have the schedules of several.
    together = dataclasses.replace(case, method="far_sign", aggregator="", runs=seeds)
    batch = together.run_batch(config, problem, seeds, events * (1 + FLAGS.repeats))
    shape = lambda values: (seeds, *values.shape)  # noqa: E731
    hyper = {n: jnp.broadcast_to(values, shape(values)) for n, values in job.hyper.items()}
    batch = dataclasses.replace(batch, hyper=hyper)
    every_run = timing.clock(job.program, batch, events, FLAGS.repeats)
    row = {"runs": seeds * len(job.runs), "one_us": one["us"]}
    row["all_us"] = seeds * every_run["us"]
    row["times"] = row["all_us"] / row["one_us"]
    return row | {"compile_s": every_run["compile_s"]}
