"""Runs on small problems of which everything is known: what the theorems' experiments share.

Not an experiment itself: a trial, and a sweep of it over seeds and whatever is data.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import (
    arrivals,
    attacks,
    directions,
    far_sign,
    keys,
    online_mean,
    oracles,
    problems,
    step_sizes,
    sweeps,
    theory,
)
from farsign_jax.base import Problem, System
from farsign_jax.harness.progress import Progress
from farsign_jax.io import run_folder
from farsign_jax.specs import parse
from farsign_jax.step_sizes import as_schedule

VALUES = {"waves": problems.waves, "crossed_waves": problems.crossed_waves}


VALUES |= {"valley": problems.valley, "bowl": problems.bowl}


MEAN = np.array([1.0, -2.0])


def bowl_at_mean(x: Any) -> Any:
    """A bowl around `MEAN`, of two dimensions."""
    return problems.bowl(x - jnp.asarray(MEAN, x.dtype))


VALUES["bowl_at_mean"] = bowl_at_mean


WORKERS, DIM, BYZANTINE = 5, 4, 1


RECORDS = 1000


@dataclasses.dataclass(frozen=True)
class Size:
    """How long and how often."""

    events: int = 1_000_000  # of the rates
    long: int = 100_000  # of everything else
    seeds: int = 24
    every: int = 1  # trial out of the lists below


@dataclasses.dataclass(frozen=True)
class Trial:
    """`(problem, hyper) -> System`: one direction per question, watched (`theory.observed`).

    Attributes:
        value: what is minimised, of `VALUES`.
        order, noise: of the feedback, as in `schedules.theory`, whose sequences are used.
        attack: of `attacks`, with options; or "greedy" or "lookahead" (`theory`).
        server: "far_sign" or "online_mean".
        sign_of: of `far_sign`; "old" is what the theorems speak of.
        eps, step_size: of the sequences.

    Hyper-parameters, all optional: `directions` f[m, K, d], coordinates otherwise;
    `average_step` and `step_size`, constants instead of the sequences; `rates` f[m];
    `honest` bool[m], whose averages are compared with the truth.
    """

    value: str = "waves"
    order: str = "first"
    noise: str | None = None
    attack: str = "none"
    server: str = "far_sign"
    sign_of: str = "old"
    eps: float = 0.01
    step_size: float = 0.5

    @property
    def gradient(self) -> Callable:
        return jax.grad(VALUES[self.value])

    def __call__(self, problem: Problem, hyper: Mapping[str, Any]) -> System:
        m, d = problem.num_workers, problem.x0.shape[-1]
        dictionary = directions.identity(d, 1)
        if "directions" in hyper:
            dictionary = directions.matrix(hyper["directions"])
        pairs = m * dictionary.size
        told = {"order": self.order, "noise": self.noise, "eps": self.eps, "pairs": pairs}
        found = step_sizes.theory(**told, step_size=self.step_size)
        steps: dict[str, Any] = {"step_size": found.step_size}
        steps["average_step"] = found.average_step
        for name in steps.keys() & hyper.keys():
            steps[name] = as_schedule(hyper[name])
        if self.server == "online_mean":
            server = online_mean(m, dictionary, **steps)
        else:
            rates = hyper.get("rates")
            server = far_sign(m, dictionary, sign_of=self.sign_of, arrival_rates=rates, **steps)
        honest = hyper.get("honest", np.ones(m, bool))
        server = theory.observed(server, dictionary, steps["step_size"], self.gradient, honest)
        if self.order == "first":
            worker = oracles.directional_derivative(
                problem.losses, dictionary, batch_size=1, mode="grad"
            )
        else:
            assert found.delta is not None
            coupled = self.noise == "coupled"
            worker = oracles.two_point(
                problem.losses,
                dictionary,
                batch_size=1,
                delta=found.delta,
                coupled=coupled,
                noise_std=0.0 if coupled else 1.0,
            )
        return System(server, worker, self._attack(dictionary, steps))

    def _attack(self, dictionary: Any, steps: dict[str, Any]) -> Any:
        name, options = parse(self.attack)
        beta = steps["average_step"]
        if name == "greedy":
            return theory.greedy(self.gradient, dictionary, beta)
        if name == "lookahead":
            return theory.lookahead(self.gradient, dictionary, beta, steps["step_size"])
        return attacks.make(name, **dict(options))


def run_batch(
    seeds: int,
    events: int,
    *,
    x0: Any = None,
    kind: str = "gaussian",
    noise: float = 1.0,
    value: str = "waves",
    workers: int = WORKERS,
    byzantine: int | np.ndarray = BYZANTINE,
    hyper: Mapping[str, Any] | None = None,
    draw: Callable[[Any, int], np.ndarray] | None = None,
    points: int = 1,
) -> sweeps.RunBatch:
    """Seeds times points of what differs otherwise, the points of one seed together.

    Args:
        seeds: how many.
        events: T.
        x0: f[d], or f[points, d]; 3 in all coordinates.
        kind, noise, value: of `problems.smooth`; all lanes have one set of examples.
        workers: m.
        byzantine: the number of Byzantine workers, the first ones, or masks bool[points, m].
        hyper: leaves [points, ...] of `Trial`.
        draw: `(key, point) -> i32[T]`, who is heard; default: everybody equally likely.
        points: of everything but the seed.
    """
    count = seeds * points
    start = np.full(DIM, 3.0) if x0 is None else np.asarray(x0, np.float64)
    start = np.broadcast_to(start, (points, start.shape[-1]))
    problem = problems.smooth(
        VALUES[value], start[0], workers, jax.random.key(0), noise=noise, kind=kind
    )
    problem = dataclasses.replace(
        sweeps.RunBatch.repeated(problem, count), x0=jnp.asarray(np.tile(start, (seeds, 1)))
    )
    counted = np.ndim(byzantine) == 0
    mask = np.arange(workers) < byzantine if counted else np.asarray(byzantine)
    mask = np.broadcast_to(mask, (points, workers))

    def one(seed, point):
        key = keys.split(seed).schedule
        return draw(key, point) if draw else arrivals.uniform(key, workers, events)

    tiled = {
        name: np.tile(leaf, (seeds, *(1 for _ in np.shape(leaf)[1:])))
        for name, leaf in ({"honest": ~mask} | dict(hyper or {})).items()
    }
    return sweeps.RunBatch(
        problem=problem,
        seeds=jnp.asarray(np.repeat(np.arange(seeds), points), jnp.int32),
        hyper=tiled,
        byzantine=jnp.asarray(np.tile(mask, (seeds, 1))),
        schedules=np.stack([one(s, p) for s in range(seeds) for p in range(points)]),
    )


def follow(
    trial: Trial, given: sweeps.RunBatch, name: str, folder: run_folder.RunFolder | None = None
) -> dict[str, np.ndarray]:
    """Runs all lanes, in a folder resumably; columns [L, E] of `event` and what was measured.

    Delivery is `outstanding`: answers are as stale as arrivals make them.

    `gradient` |grad f(x)|_2 and `tracking` |y - D grad f|_2^2, now; `ergodic`, the mean of the
    gradient norms so far, weighted by alpha; `steps`, `error` and `squares`, the sums of
    `theory.Sums`; and `farthest`, max |x|_inf so far.
    """
    norms = jax.vmap(lambda x: jnp.linalg.norm(trial.gradient(x)))

    def measure(state):
        sums, x = state.sums, state.params
        return {
            "gradient": norms(x),
            "tracking": state.tracking,
            "ergodic": sums.gradient / sums.steps,
            "farthest": sums.farthest,
        } | {name: getattr(sums, name) for name in ("steps", "error", "squares")}

    told = {"delivery": "outstanding", "of": operator.attrgetter("server")}
    return swept(trial, given, measure, name, folder, RECORDS, **told)


def swept(
    build: sweeps.SystemFactory,
    given: sweeps.RunBatch,
    measure: Callable[[Any], dict[str, Any]],
    name: str,
    folder: run_folder.RunFolder | None,
    records: int,
    **options: Any,
) -> dict[str, np.ndarray]:
    """The columns of `sweeps.sweep`, with a progress bar, in a folder resumably."""
    events = given.schedules.shape[1]
    progress = Progress(len(given) * events)
    progress.start(name)
    columns, _ = sweeps.sweep(
        build,
        given,
        every=max(events // records, 1),
        measure=jax.jit(measure),
        checkpoint=folder.checkpoint(name) if folder else None,
        checkpoint_every=max(events // 20, 1),
        progress=progress,
        **options,
    )
    progress.close()
    return columns
