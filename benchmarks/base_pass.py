"""How much of FAR-SIGN's event is the forward pass that any method must pay?

That pass reads all of x, so it grows with d; the rest of an event does the same few thousand
reads, writes and exponentials whatever d is.
"""

import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.timing import FLAGS, take_turns
from farsign_jax import keys
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import timing
from farsign_jax.oracles.coordinate_mlp import loss_changes

TURN_S = 0.2  # about so long is one timing


def _base_pass(batch_size: int) -> Callable:
    """Draws a batch and evaluates the network once per event."""

    def advance(problem, keyring, run, schedule):
        def event(run, worker):
            x, n = run
            key = keys.message(keyring.batches, worker, n)
            batch = problem.shard(worker).batch(key, batch_size)
            nothing = jnp.zeros(1, jnp.int32)
            losses, _ = loss_changes(problem.structure, x, batch, nothing, ())
            # Something must come of it, and enter the next event, or it is optimised away;
            # written where only the run knows, as an event does.
            return (x.at[worker[None]].add(1e-9 * losses.sum()), n + 1), None

        return jax.lax.scan(event, run, schedule)

    return jax.jit(advance, donate_argnames="run")


def measure(config: PanelConfig, problem: Problem, us: float) -> dict[str, float]:
    """Microseconds of an event of one run, about `us`, of its base pass, and of the rest."""
    events = min(max(int(1e6 * TURN_S / us), 2), FLAGS.timed_events)
    case = Case("far_sign", "", False, "fresh", 1, problem.x0.size)
    program, lanes = case.program(config), case.lanes(config, problem, 1, events)
    _, _, pieces = timing.running(program, lanes, events)
    keyring, order = keys.split(0), jnp.asarray(lanes.schedules[0])
    base, held = _base_pass(config.batch_size), [(jnp.copy(problem.x0), jnp.int32(0))]

    def alone():
        held[0], _ = base(problem, keyring, held[0], order)
        return held[0]

    whole, part = take_turns([lambda: next(pieces), alone], events)
    rest = [w - p for w, p in zip(whole, part, strict=True)]
    row = {"d": problem.x0.size, "us": statistics.median(whole)}
    row |= {"base_us": statistics.median(part), "rest_us": statistics.median(rest)}
    return row | {"rest_us_min": min(rest), "rest_us_max": max(rest)}
