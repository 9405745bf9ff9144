"""Runs on small problems whose gradients are known: what the experiments on theorems share.

A trial is a system on such a problem; a batch of its runs differs in seeds and other data.
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
from farsign_jax.methods.far_sign_parts import arrival_weights
from farsign_jax.methods.table_vote import table_vote
from farsign_jax.step_sizes import as_schedule

MEAN = np.array([1.0, -2.0])


def bowl_at_mean(x: Any) -> Any:
    """A bowl around `MEAN`, of two dimensions."""
    return problems.bowl(x - jnp.asarray(MEAN, x.dtype))


# What is minimised, by name.
VALUES: dict[str, Callable[[Any], Any]] = {
    "waves": problems.waves,
    "crossed_waves": problems.crossed_waves,
    "valley": problems.valley,
    "kinked_bowl": problems.kinked_bowl,
    "bowl": problems.bowl,
    "bowl_at_mean": bowl_at_mean,
}

WORKERS, DIM, BYZANTINE = 5, 4, 1
RECORDS = 1000  # of a run


@dataclasses.dataclass(frozen=True)
class Size:
    """How long runs are, and how many there are.

    Attributes:
        events: of the runs that show rates.
        long: events of all other runs.
        seeds: of each trial.
        every: 1 runs all trials, n every n-th one.
    """

    events: int = 1_000_000
    long: int = 100_000
    seeds: int = 24
    every: int = 1


@dataclasses.dataclass(frozen=True)
class Trial:
    """A system `(problem, hyper) -> System` with one direction per question, observed by
    `theory.observed`.

    Attributes:
        value: the function that is minimised, a name of `VALUES`.
        order, noise: of the feedback, as in `step_sizes.theory`, whose sequences are used.
        attack: of `attacks`, with options; or "greedy", "hidden" or "lookahead" of `theory`.
        server: "far_sign" or "online_mean".
        sign_of: of `far_sign`; "old" is the rule of the theorems.
        vote: of `far_sign`, see `methods.table_vote`.
        eps, step_size, exponents: of the sequences.
        noise_std: of each function value, beside that of the examples, if noise is independent.

    Hyper-parameters, all optional: `directions` f[m, K, d], coordinates otherwise;
    `average_step` and `step_size`, constants instead of the sequences; `rates` f[m];
    `honest` bool[m], the workers whose averages are compared with the true derivatives.
    """

    value: str = "waves"
    order: str = "first"
    noise: str | None = None
    attack: str = "none"
    server: str = "far_sign"
    sign_of: str = "old"
    vote: str = "own"
    eps: float = 0.01
    step_size: float = 0.5
    exponents: tuple[float, float, float] | None = None
    noise_std: float = 1.0

    def sequences(self, pairs: int) -> step_sizes.TwoTimeScales:
        """The sequences of the theorems for this number of (worker, direction) pairs."""
        return step_sizes.theory(
            order=self.order,
            noise=self.noise,
            eps=self.eps,
            pairs=pairs,
            step_size=self.step_size,
            exponents=self.exponents,
        )

    @property
    def tracking(self) -> float:
        """s, the least exponent of Table 4, for these sequences."""
        exponents = self.sequences(1).exponents
        return step_sizes.tracking_rate(*exponents, order=self.order, noise=self.noise)

    @property
    def gradient(self) -> Callable[[Any], Any]:
        """The gradient of the function that is minimised."""
        return jax.grad(VALUES[self.value])

    def __call__(self, problem: Problem, hyper: Mapping[str, Any]) -> System:
        m, d = problem.num_workers, problem.x0.shape[-1]
        dictionary = directions.identity(d, 1)
        if "directions" in hyper:
            dictionary = directions.matrix(hyper["directions"])
        found = self.sequences(m * dictionary.size)
        steps: dict[str, Any] = {"step_size": found.step_size}
        steps["average_step"] = found.average_step
        for name in steps.keys() & hyper.keys():
            steps[name] = as_schedule(hyper[name])
        if self.server == "online_mean":
            server = online_mean(m, dictionary, **steps)
        else:
            weights = arrival_weights(m, hyper.get("rates"))
            vote = table_vote(m, dictionary.size, self.vote)
            parts: dict[str, Any] = {"arrival_weights": weights, "vote": vote}
            server = far_sign(m, dictionary, sign_of=self.sign_of, **parts, **steps)
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
                noise_std=0.0 if coupled else self.noise_std,
            )
        return System(server, worker, self._attack(dictionary, steps))

    def _attack(self, dictionary: Any, steps: dict[str, Any]) -> Any:
        beta = steps["average_step"]
        if self.attack == "greedy":
            return theory.greedy(self.gradient, dictionary, beta)
        if self.attack == "hidden":
            return theory.hidden(self.gradient, dictionary, beta)
        if self.attack == "lookahead":
            return theory.lookahead(self.gradient, dictionary, beta, steps["step_size"])
        name, options = attacks.parse(self.attack)
        return attacks.make(name, **options)


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
    """A batch of runs: every seed with every point of what differs otherwise, the points of
    one seed next to each other.

    Args:
        seeds: how many.
        events: T.
        x0: f[d], or f[points, d]; by default 3 in all coordinates.
        kind, noise, value: of `problems.smooth`; all runs have the same examples.
        workers: m.
        byzantine: the number of Byzantine workers, the first ones, or masks bool[points, m].
        hyper: leaves [points, ...] of `Trial`.
        draw: `(key, point) -> i32[T]`, the order of arrivals; by default uniform.
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

    def one(seed: int, point: int) -> np.ndarray:
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
    trial: Trial, batch: sweeps.RunBatch, name: str, folder: run_folder.RunFolder | None = None
) -> dict[str, np.ndarray]:
    """Runs a batch of a trial; in a folder it can be continued.

    Delivery is `outstanding`: answers are as stale as arrivals make them.

    Returns:
        Columns [R, E] for R runs and E records: `event`; `gradient` |grad f(x)|_2 and
        `tracking` |y - D grad f|_2^2 at the record; `ergodic`, the mean of the gradient norms
        so far, weighted by alpha; `steps`, `error` and `squares`, the sums of `theory.Sums`;
        and `farthest`, max |x|_inf so far.
    """
    norms = jax.vmap(lambda x: jnp.linalg.norm(trial.gradient(x)))

    def measure(state: Any) -> dict[str, Any]:
        sums, x = state.sums, state.params
        return {
            "gradient": norms(x),
            "tracking": state.tracking,
            "ergodic": sums.gradient / sums.steps,
            "farthest": sums.farthest,
        } | {name: getattr(sums, name) for name in ("steps", "error", "squares")}

    options = {"delivery": "outstanding", "of": operator.attrgetter("server")}
    return swept(trial, batch, measure, name, folder, RECORDS, **options)


def swept(
    build: sweeps.SystemFactory,
    batch: sweeps.RunBatch,
    measure: Callable[[Any], dict[str, Any]],
    name: str,
    folder: run_folder.RunFolder | None,
    records: int,
    **options: Any,
) -> dict[str, np.ndarray]:
    """The columns of `sweeps.sweep`, with a progress bar; in a folder it can be continued."""
    events = batch.schedules.shape[1]
    progress = Progress(len(batch) * events)
    progress.start(name)
    columns, _ = sweeps.sweep(
        build,
        batch,
        every=max(events // records, 1),
        measure=jax.jit(measure),
        checkpoint=folder.checkpoint(name) if folder else None,
        checkpoint_every=max(events // 20, 1),
        progress=progress,
        **options,
    )
    progress.close()
    return columns
