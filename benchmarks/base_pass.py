"""The part of FAR-SIGN's event that is the forward pass which any method needs.

That pass reads all of x, so its time grows with d. The rest of an event does the same few
thousand reads, writes and exponentials for every d.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.timing import FLAGS, take_turns
from farsign_jax import keys
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import timing
from farsign_jax.oracles.coordinate_mlp import loss_changes
from farsign_jax.simulation import ahead

TIMING_S = 0.2  # approximate duration of one timing


def _base_pass(batch_size: int) -> Callable:
    """A program that draws a mini-batch and evaluates the network once per event."""

    def advance(problem, keyring, x, schedule):
        def event(x, arrival):
            worker, n = arrival
            key = keys.message(keyring.batches, worker, n)
            batch = problem.shard(worker).batch(key, batch_size)
            no_changes = jnp.zeros(1, jnp.int32)
            losses, _ = loss_changes(problem.structure, x, batch, no_changes, ())
            # The next event must depend on the losses, or XLA removes their computation; as in
            # an event, the place that is written is known at run time only.
            return x.at[worker[None]].add(1e-9 * losses.sum()), None

        return ahead.scan(event, x, (schedule, jnp.arange(len(schedule))))[0]

    return jax.jit(advance, donate_argnames="x")


def alone(config: PanelConfig, problem: Problem, events: int) -> Callable[[], Any]:
    """A call that evaluates the network once in each of some events."""
    case = Case("far_sign", "", False, "fresh", 1, problem.x0.size)
    order = jnp.asarray(case.run_batch(config, problem, 1, events).schedules[0])
    base, keyring = _base_pass(config.batch_size), keys.split(0)
    held = [jnp.copy(problem.x0)]

    def call() -> Any:
        held[0] = base(problem, keyring, held[0], order)
        return held[0]

    return call


def measure(config: PanelConfig, problem: Problem, us: float) -> dict[str, float]:
    """Microseconds of an event of one run, of its base pass, and of the rest.

    Args:
        config: the configuration.
        problem: the data and the network.
        us: the approximate microseconds of an event, from which the length of a timing follows.
    """
    events = min(max(int(1e6 * TIMING_S / us), 2), FLAGS.timed_events)
    case = Case("far_sign", "", False, "fresh", 1, problem.x0.size)
    program, batch = case.program(config), case.run_batch(config, problem, 1, events)
    _, _, pieces = timing.running(program, batch, events)
    calls = [lambda: next(pieces), alone(config, problem, events)]
    event, part = take_turns(calls, events)
    rest = [e - p for e, p in zip(event, part, strict=True)]
    row = {"d": problem.x0.size, "us": statistics.median(event)}
    row |= {"base_us": statistics.median(part), "rest_us": statistics.median(rest)}
    return row | {"rest_us_min": min(rest), "rest_us_max": max(rest)}
