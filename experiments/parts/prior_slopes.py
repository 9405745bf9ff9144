"""How fast the methods of Tables 1 and 2 converge on the small problems of `experiments.rates`.

A method with constant steps has others for each length K of a run, so that a slope is fitted to
runs of several lengths, each with its own steps: to the mean of |grad f(x_n)| over n < K, which
the theorems bound, against K.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parts.prior_methods import FIRST, Entry
from farsign_jax import METHODS, OracleConfig, arrivals, attacks, theory
from farsign_jax.base import Problem, System
from farsign_jax.harness import small_problems
from farsign_jax.harness.small_problems import BYZANTINE, VALUES, WORKERS
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

    def __call__(self, problem: Problem, hyper: Mapping[str, Any]) -> System:
        oracle = OracleConfig(
            batch_size=1, directions=1, delta=hyper["delta"], coupled=self.coupled, decay=1.0
        )
        method = METHODS[self.method]
        steps = {"step_size": hyper["step_size"]}
        server, worker = method.build(problem, oracle, steps, **dict(self.options))
        return System(server, worker, attacks.make(LIE))


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
    updates = [k // WORKERS if rounds else k for k in horizons]
    liars = np.arange(WORKERS) < np.array([[0], [BYZANTINE]])  # [2, m]
    points = 2 * len(horizons)

    def draw(key: Any, point: int) -> np.ndarray:
        if rounds:
            return np.tile(np.arange(WORKERS, dtype=np.int32), (updates[-1], 1))
        return arrivals.uniform(key, WORKERS, updates[-1])

    batch = small_problems.run_batch(
        seeds,
        updates[-1],
        kind=kind,
        value=value,
        byzantine=np.repeat(liars, len(horizons), axis=0),
        draw=draw,
        points=points,
    )
    name = f"{entry.method}-{noise}-{value}"
    if entry.steps is None:
        trial = small_problems.Trial(
            value,
            "first" if noise == FIRST else "zeroth",
            None if noise == FIRST else noise,
            LIE,
        )
        columns = small_problems.follow(trial, batch, name, folder)
    else:
        steps = [entry.steps(k, noise) for k in updates] * 2
        of_runs = {n: np.tile([getattr(s, n) for s in steps], seeds) for n in steps[0]._fields}
        batch = dataclasses.replace(batch, hyper=of_runs)
        program = Program(entry.method, entry.options, noise != "independent")
        gradient = jax.vmap(jax.grad(VALUES[value]))

        def norms(params: jax.Array) -> dict[str, jax.Array]:
            return {"gradient": jnp.linalg.norm(gradient(params), axis=-1)}

        delivery = "fresh" if rounds else "outstanding"
        columns = small_problems.swept(
            program, batch, norms, name, folder, small_problems.RECORDS, delivery=delivery
        )
    return _fitted(entry, noise, value, horizons, updates, columns)


def _fitted(
    entry: Entry,
    noise: str,
    value: str,
    horizons: tuple[int, ...],
    updates: list[int],
    columns: dict[str, np.ndarray],
) -> Measured:
    """The slopes, from columns [seeds * 2 * horizons, records]."""
    events = columns["event"][0]
    by_run = columns["gradient"].reshape(-1, 2, len(updates), len(events))
    means = np.stack(
        [by_run[:, :, h, events <= k].mean(axis=-1) for h, k in enumerate(updates)], axis=-1
    )  # [seeds, 2, horizons]
    rows = [
        {
            "method": entry.method,
            "noise": noise,
            "function": value,
            "liars": int(liars * BYZANTINE),
            "run": run,
            "answers": horizons[h],
            "gradient": float(means[run, liars, h]),
        }
        for run, liars, h in np.ndindex(means.shape)
    ]
    honest, attacked = (theory.slope(updates, means[:, liars]) for liars in (0, 1))
    return Measured(honest, attacked, rows)
