"""The problem of `experiments.brsgd`, and how its methods run on it.

A function of ten variables that is not convex, and 11 workers, two of which are Byzantine.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import aggregators, attacks, brsgd, oracles, problems, step_sizes, sweeps
from farsign_jax.base import Attack, Problem, System
from farsign_jax.harness.small_problems import swept
from farsign_jax.harness.sums import Summed, summed
from farsign_jax.io import run_folder
from farsign_jax.sweeps.lockstep import Lockstep, LockstepState

M, Q, D = 11, 2, 10
SIGMA = 0.3  # of the noise, in each coordinate
SMOOTHNESS = 2.5
STATIONARY = 1.4957  # = 1.5 sin 1.4957, in each coordinate
LOWEST = D * (STATIONARY**2 / 2 + 1.5 * math.cos(STATIONARY))
VALUE = problems.ripples
GRADIENT = jax.jit(jax.vmap(jax.grad(VALUE)))


@dataclasses.dataclass(frozen=True)
class Size:
    """The lengths of the experiments.

    Attributes:
        rounds: rounds of a run.
        seeds: runs.
        samples: answers from which the constants of Assumption 2.2 are estimated.
        network: rounds of the network.
        every: 1 runs all cases, n every n-th one.
    """

    rounds: int = 20_000
    seeds: int = 32
    samples: int = 4000
    network: int = 2_500
    every: int = 1


def gap_noise(x: Any, noise: Any) -> Any:
    """The losses `value(x) + sqrt(2 (F(x) - F_low)) noise . x`, whose gradients have noise that
    grows with the value and not with the gradient."""
    gap = jnp.maximum(VALUE(x) - LOWEST, 0)
    return VALUE(x) + jax.lax.stop_gradient(jnp.sqrt(2 * gap)) * (noise @ x)


# (A, B, C) of E|G|^2 <= 2 A (F - F_low) + B |grad F|^2 + C for each kind of noise.
VARIANCE = SIGMA**2 * D
NOISES = {
    "constant": (0.0, 1.0, VARIANCE),
    "relative": (0.0, 1 + VARIANCE, 0.0),  # proportional to the norm of the gradient
    "gap": (VARIANCE, 1.0, 0.0),  # proportional to sqrt(2 (F - F_low))
}


def problem_of(noise: str) -> Problem:
    """The problem with noise of one of the `NOISES`."""
    options: dict[str, Any] = {"noise": SIGMA, "relative": noise == "relative", "examples": 256}
    problem = problems.smooth(VALUE, jnp.full(D, 2.0), M, jax.random.key(0), **options)
    return dataclasses.replace(problem, losses=gap_noise) if noise == "gap" else problem


def make_attack(text: str) -> Attack:
    """The attack that `name:option=value,...` describes."""
    name, options = attacks.parse(text)
    return attacks.make(name, **options)


def weighted_norm(before: Any, after: Any) -> jax.Array:
    """W_k |grad F(w_k)|, of which the sum is the expectation over R_K but for its divisor."""
    return jnp.exp(after.weight) * jnp.linalg.norm(jax.grad(VALUE)(before.params))


@dataclasses.dataclass(frozen=True)
class Trial:
    """A system factory `(problem, hyper) -> System`.

    Its hyper-parameters are `power`, p, and `step_size`, alpha_0.

    Attributes:
        rule: the aggregator, with its options.
        attack: the attack, with its options.
        batch_size: examples per gradient.
        watch: whether the sum of `weighted_norm` is kept.
    """

    rule: str
    attack: str = "none"
    batch_size: int = 1
    watch: bool = False

    def __call__(self, problem: Problem, hyper: Any) -> System:
        alpha = step_sizes.power(hyper["step_size"], hyper["power"])
        rule = aggregators.make(self.rule)
        server = brsgd(problem.num_workers, rule, step_size=alpha)
        if self.watch:
            server = summed(server, weighted_norm)
        worker = oracles.stochastic_gradient(problem.losses, batch_size=self.batch_size)
        return System(server, worker, make_attack(self.attack))


def at(problem: Problem, x: np.ndarray) -> tuple[Problem, np.ndarray]:
    """The problem with x as its x0, and grad F there."""
    there = dataclasses.replace(problem, x0=jnp.asarray(x, problem.x0.dtype))
    return there, np.asarray(GRADIENT(there.x0[None]))[0]


def side_by_side(
    rules: Sequence[str], attack_names: Sequence[str], first: float, batch_size: int = 1
) -> tuple[Lockstep, dict[str, np.ndarray]]:
    """All rules under all attacks in lock-step, with p = 0.55 and alpha_0 = `first`.

    Returns:
        The program and its hyper-parameters.
    """
    program = Lockstep(
        tuple(tuple(Trial(rule, a, batch_size) for a in attack_names) for rule in rules)
    )
    shape = (1, len(rules), 1)
    return program, {"power": np.full(shape, 0.55), "step_size": np.full(shape, first)}


def run_batch(
    problem: Problem, rounds: int, seeds: int, hyper: dict, byzantine: int = Q
) -> sweeps.RunBatch:
    """Seeds, each with all points of `hyper`.

    The Byzantine workers are consecutive, and their first index advances by one per round.
    """
    points = len(next(iter(hyper.values())))
    m, count = problem.num_workers, seeds * points
    masks = np.stack([np.roll(np.arange(m) < byzantine, n) for n in range(m)])
    return sweeps.RunBatch(
        problem=sweeps.RunBatch.repeated(problem, count),
        seeds=jnp.asarray(np.repeat(np.arange(seeds), points), jnp.int32),
        hyper={
            k: np.tile(np.asarray(v, np.float32), (seeds, *(1,) * (np.ndim(v) - 1)))
            for k, v in hyper.items()
        },
        byzantine=jnp.asarray(np.broadcast_to(masks, (count, *masks.shape))),
        schedules=np.broadcast_to(np.arange(m, dtype=np.int32), (count, rounds, m)),
    )


def measure_of(gradient: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    """Measures |grad F| at w_k, at the R_K drawn and, in a `Summed` state, its expectation."""

    def measure(state):
        def norm(x):
            norms = jnp.linalg.norm(gradient(x.reshape(-1, x.shape[-1])), axis=-1)
            return norms.reshape(x.shape[:-1])

        values = {"gradient": norm(state.params)}
        if isinstance(state, Summed):
            values["drawn"] = norm(state.server.chosen)
            values["expected"] = state.total / jnp.exp(state.server.total)
        elif isinstance(state, LockstepState):
            values["drawn"] = norm(jnp.concatenate([s.chosen for s in state.servers], axis=-2))
        return values

    return measure


def follow(
    build: Any,
    batch: sweeps.RunBatch,
    gradient: Callable[[Any], Any],
    name: str,
    folder: run_folder.RunFolder | None,
    records: int = 500,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Runs a batch to its columns of `event` and of `measure_of(gradient)`."""
    options["of"] = operator.attrgetter("server")
    return swept(build, batch, measure_of(gradient), name, folder, records, **options)


def path() -> np.ndarray:
    """Iterates f[n, d] from w_0 towards a stationary point; at the last one |grad| is 0.07."""
    end = np.full(D, STATIONARY)
    fractions = np.array([1.0, 0.5, 0.2, 0.1, 0.05])
    return end + fractions[:, None] * (2.0 - end)
