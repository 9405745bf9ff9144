"""A small quadratic, fleets of workers with clocks, and runs on their schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import (
    aggregators,
    attacks,
    directions,
    keys,
    oracles,
    simulation,
    step_sizes,
)
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.base import System
from farsign_jax.methods.buffered import buffered
from tests import helpers
from tests.helpers import far_sign_of as far_sign

M, D, K = helpers.M, helpers.D, 3
ALPHA, BETA = step_sizes.staircase(0.05, 0.8, 10), step_sizes.power(0.9, 0.3)
PROBLEM = helpers.quadratic()
GRADIENT = oracles.stochastic_gradient(PROBLEM.losses, batch_size=8)
EXP = delays.exponential()


@functools.cache
def derivative_system(attack="none", **options):
    """FAR-SIGN along coordinates; exact derivatives, as differences would round too much."""
    dictionary = directions.identity(D, K)
    server = far_sign(M, dictionary, **{"step_size": ALPHA, "average_step": BETA} | options)
    worker = oracles.directional_derivative(PROBLEM.losses, dictionary, batch_size=8)
    return System(server, worker, attacks.make(attack))


@functools.partial(jax.jit, static_argnames=("system", "delivery"))
def history(system, problem, schedule, byzantine, delivery="outstanding", seed=0):
    """Returns the end of a run, and the server and the diagnostics after each event."""
    roles = keys.split(seed)

    def step(run, workers):
        run, info = simulation.event(system, problem, byzantine, roles, delivery, run, workers)
        return run, (run.server, info)

    begin = simulation.start(system, problem, roles, delivery)
    end, (servers, info) = jax.lax.scan(step, begin, schedule)
    return end, servers, info


def first(count):
    return jnp.arange(M) < count


FLEETS = {
    "deterministic": [delays.deterministic().at_speed(1.0 + i) for i in range(M)],
    "in_step": [delays.deterministic()] * M,
    "exponential": [EXP] * M,
    "lognormal": [delays.lognormal(sigma=1.5)] * M,
    "pareto": [delays.pareto(1.5).at_speed(2.0**-i) for i in range(M)],
    "pareto_infinite_mean": [delays.pareto(0.7)] * M,
    "bimodal": [delays.bimodal(slow=20.0, share=0.2)] * M,
    "windows": [
        EXP.within((0, 2), (6, np.inf)), EXP.within((0, 3)), EXP.within((4, np.inf)),
        EXP.within(), *[EXP.within((1, 2), (3, 99))] * 3,
    ],
    "timing_attack": [
        timing.flood(EXP), timing.max_stale(EXP, 4.0), timing.burst(EXP, 2.0, 4),
        timing.withhold(EXP, 3.0), *[EXP] * 3,
    ],
}  # fmt: skip
EVENTS, EVERY = 100, 50  # of almost all runs, so that few programs are compiled


@functools.cache
def buffered_system(slots=None):
    server = buffered(M, aggregators.mean(), buffers=3, step_size=0.05, slots=slots)
    return System(server, GRADIENT, attacks.none())
