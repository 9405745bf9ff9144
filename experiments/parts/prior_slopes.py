"""How fast the methods of Tables 1 and 2 converge on small problems of `experiments.rates`.

A method with constant steps has others for each length K of a run, so that a slope is fitted to
runs of several lengths, each with its own steps: to the mean of |grad f(x_n)| over n < K,
against K. FAR-SIGN has one sequence of steps for all lengths, and its theorems bound the mean
that is weighted by them.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parts.prior_methods import FIRST, INDEPENDENT, Entry, Steps
from farsign_jax import METHODS, OracleConfig, arrivals, attacks, sweeps, theory
from farsign_jax.base import Problem, System
from farsign_jax.harness import small_problems
from farsign_jax.harness.small_problems import BYZANTINE, VALUES, WORKERS
from farsign_jax.harness.sums import summed
from farsign_jax.io import run_folder

LIE = "sign_flip:scale=10"
# Function and distribution of the noise: the sign of the asymmetric one is mostly wrong where
# the gradient is small.
PROBLEMS = (("waves", "gaussian"), ("crossed_waves", "asymmetric"))


@dataclasses.dataclass(frozen=True)
class Program:
    """A method `(problem, hyper) -> System` that is asked for one direction or a gradient.

    Hyper-parameters are `step_size` and `delta`.
    """

    method: str
    options: tuple[tuple[str, Any], ...]
    coupled: bool
    value: str

    def __call__(self, problem: Problem, hyper: Mapping[str, Any]) -> System:
        oracle = OracleConfig(
            batch_size=1, directions=1, delta=hyper["delta"], coupled=self.coupled, decay=1.0
        )
        steps = {"step_size": hyper["step_size"]}
        server, worker = METHODS[self.method].build(
            problem, oracle, steps, **dict(self.options)
        )
        gradient = jax.grad(VALUES[self.value])

        def norm(before: Any, after: Any) -> jax.Array:
            return jnp.linalg.norm(gradient(before.params))

        return System(summed(server, norm), worker, attacks.make(LIE))


class Measured(NamedTuple):
    """The fitted slopes of one method with one kind of noise.

    Attributes:
        honest: the slope if all workers are honest.
        attacked: the slope if one of them sends ten times the negative of its answers.
        rows: one per problem, number of liars, run and horizon.
    """

    honest: theory.Slope
    attacked: theory.Slope
    rows: list[dict[str, Any]]


def measure(
    entry: Entry,
    noise: str,
    problem: tuple[str, str],
    horizons: tuple[int, ...],
    seeds: int,
    folder: run_folder.RunFolder | None,
) -> Measured:
    """Fits the slopes of one method on one problem.

    Args:
        entry: the method.
        noise: "first" for gradients; "coupled" or "independent" for function values.
        problem: one of `PROBLEMS`.
        horizons: K, each a number of answers.
        seeds: how many runs of each.
        folder: keeps the checkpoints, or None.
    """
    value, kind = problem
    rounds = METHODS[entry.method].works_in_rounds
    events = [k // WORKERS if rounds else k for k in horizons]
    lengths = [0] if entry.steps is None else range(len(horizons))  # that differ in their steps
    liars = np.arange(WORKERS) < np.array([[0], [BYZANTINE]])  # [2, m]

    def draw(key: Any, point: int) -> np.ndarray:
        if rounds:
            return np.tile(np.arange(WORKERS, dtype=np.int32), (events[-1], 1))
        return arrivals.uniform(key, WORKERS, events[-1])

    batch = small_problems.run_batch(
        seeds,
        events[-1],
        kind=kind,
        value=value,
        byzantine=np.repeat(liars, len(lengths), axis=0),
        draw=draw,
        points=2 * len(lengths),
    )
    name = f"{entry.method}-{noise}-{value}"
    if entry.steps is None:
        order = ("first", None) if noise == FIRST else ("zeroth", noise)
        trial = small_problems.Trial(value, *order, LIE, noise_std=0.0)
        columns = small_problems.follow(trial, batch, name, folder)
        means = columns["ergodic"]
    else:
        columns = _swept(entry, noise, value, batch, horizons, name, folder)
        means = columns["total"] / columns["event"]
    at = [int(np.searchsorted(columns["event"][0], k)) for k in events]
    by_run = means.reshape(seeds, 2, len(lengths), -1)
    found = np.stack(
        [by_run[:, :, min(h, len(lengths) - 1), i] for h, i in enumerate(at)], axis=-1
    )  # [seeds, 2, horizons]
    return _fitted(entry, noise, value, horizons, found)


def _swept(
    entry: Entry,
    noise: str,
    value: str,
    batch: sweeps.RunBatch,
    horizons: tuple[int, ...],
    name: str,
    folder: run_folder.RunFolder | None,
) -> dict[str, np.ndarray]:
    """The columns of a method with steps of its own for each horizon."""
    assert entry.steps is not None
    rounds = METHODS[entry.method].works_in_rounds
    steps = [entry.steps(round(k / entry.answers), noise) for k in horizons] * 2
    repeats = len(batch) // len(steps)
    hyper = {n: np.tile([getattr(s, n) for s in steps], repeats) for n in Steps._fields}
    program = Program(entry.method, entry.options, noise != INDEPENDENT, value)
    return small_problems.swept(
        program,
        dataclasses.replace(batch, hyper=hyper),
        lambda state: {"total": state.total},
        name,
        folder,
        small_problems.RECORDS,
        delivery="fresh" if rounds else "outstanding",
        of=operator.attrgetter("server"),
    )


def _fitted(
    entry: Entry, noise: str, value: str, horizons: tuple[int, ...], means: np.ndarray
) -> Measured:
    """The slopes of means f[seeds, 2, horizons]."""
    rows = [
        {
            "method": entry.method,
            "noise": noise,
            "function": value,
            "liars": liars * BYZANTINE,
            "run": run,
            "answers": horizons[h],
            "gradient": float(means[run, liars, h]),
        }
        for run, liars, h in np.ndindex(means.shape)
    ]
    honest, attacked = (theory.slope(horizons, means[:, liars]) for liars in (0, 1))
    return Measured(honest, attacked, rows)
