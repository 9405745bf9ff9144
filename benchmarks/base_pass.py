"""How much of FAR-SIGN's event is the forward pass that any method must pay?

That pass reads all of x, so it grows with d; the rest of an event does the same few thousand
reads, writes and exponentials whatever d is.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.timing import FLAGS, take_turns
from experiments import clock
from experiments.config import Config
from farsign_jax import keys
from farsign_jax import lanes as lanes_lib
from farsign_jax.base import Problem
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


def _loop(program: Callable, args: tuple, run: Any, chunk: Any) -> Callable[[], Any]:
    """A call that advances its own run, which the program consumes."""
    held = [run]

    def call():
        held[0], _ = program(*args, held[0], chunk)
        return held[0]

    return call


def measure(config: Config, problem: Problem, us: float) -> dict[str, float]:
    """Microseconds of an event of one run, about `us`, of its base pass, and of the rest."""
    events = min(max(int(1e6 * TURN_S / us), 2), FLAGS.timed_events)
    case = Case("far_sign", "", False, "fresh", 1, problem.x0.size)
    program, lanes = case.program(config), case.lanes(config, problem, 1, events)
    advance, _ = clock.compiled(program, lanes, events)
    args = (lanes.problem, lanes.seeds, lanes.hyper, lanes.byzantine)
    run = lanes_lib.start(program, "fresh", *args[:3])
    event = _loop(advance, args, run, lanes.schedules)
    keyring, order = keys.split(0), jnp.asarray(lanes.schedules[0])
    state = (jnp.copy(problem.x0), jnp.zeros((), jnp.int32))
    base = _loop(_base_pass(config.batch_size), (problem, keyring), state, order)
    whole, part = take_turns([event, base], events)
    rest = [w - p for w, p in zip(whole, part, strict=True)]
    row = {"d": problem.x0.size, "us": statistics.median(whole)}
    row |= {"base_us": statistics.median(part), "rest_us": statistics.median(rest)}
    return row | {"rest_us_min": min(rest), "rest_us_max": max(rest)}
