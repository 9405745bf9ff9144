"""What is promised to AsynRSA-VR, on quadratics of which everything is known.

Not an experiment itself: the part of `experiments.asynrsa` about Theorem 1 and Lemma 1.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import (
    arrivals,
    attacks,
    keys,
    oracles,
    own_model,
    problems,
    rsa,
    step_sizes,
    sweeps,
)
from farsign_jax.arrivals import delays
from farsign_jax.base import Problem, System
from farsign_jax.harness.claims import Finding
from farsign_jax.harness.small_problems import swept
from farsign_jax.io import run_folder
from farsign_jax.theory import asyn_rsa_vr

HONEST, LIARS, EXAMPLES, DIM = 10, 2, 20, 5


WORKERS = HONEST + LIARS


DECAY = 1.0  # f_0 = |x|^2 / 2, as convex as every f_i


SPREAD = 0.3


NOISES = (0.0, 1.0, 4.0, 16.0)


LIE = 1e4


class Size(NamedTuple):
    rounds: int = 20_000
    seeds: int = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """`(problem, hyper) -> System`; hyper has `penalty`, and `step_size` unless it falls.

    Attributes:
        reduced: AsynRSA-VR, else RSA.
        p: of the penalty.
        falling: alpha_k = 0.3 / (k + 1)^0.75 instead of a constant.
    """

    reduced: bool = True
    p: float = 1
    falling: bool = False

    def __call__(self, problem: Problem, hyper: Any) -> System:
        step = step_sizes.power(0.3, 0.75) if self.falling else hyper["step_size"]
        told = {"step_size": step, "penalty": hyper["penalty"], "p": self.p}
        if self.reduced:
            gradients = oracles.saga_gradient(problem)
        else:
            gradients = oracles.stochastic_gradient(problem.losses, batch_size=1)
        server = rsa(WORKERS, **told, weight_decay=DECAY)
        worker = own_model(gradients, problem.x0, **told)
        return System(server, worker, attacks.constant(LIE))


def problem_of(noise: float) -> Problem:
    """The same for all noises, but for the noise."""
    return problems.own_quadratics(
        DIM, WORKERS, jax.random.key(0), noise=noise, examples=EXAMPLES, spread=SPREAD
    )


def minimiser() -> tuple[np.ndarray, np.ndarray]:
    """x~ f[d] of the honest workers' sum and f_0, and their gradients f[r, d] there."""
    linear = np.asarray(problem_of(0.0).data[1]).reshape(WORKERS, EXAMPLES, DIM)
    means = linear[LIARS:].mean(axis=1)
    x = means.sum(axis=0) / (HONEST + DECAY)
    return x, x - means


def lanes(size: Size, noise: float, points: list[dict[str, Any]], x0: float) -> sweeps.RunBatch:
    """Every point with every seed; a point has `liars`, `gamma` and hyper-parameters.

    Where nobody lies, the liars never take part: the honest workers are always the same.
    """
    problem, drawn = problem_of(noise), []
    fleet = [delays.deterministic()] * WORKERS
    every = list(itertools.product(range(size.seeds), points))
    for seed, point in every:
        told = {"participation": point["gamma"]}
        sets = arrivals.rounds(keys.split(seed).schedule, fleet, size.rounds, **told).workers
        drawn.append(np.where(sets < (0 if point["liars"] else LIARS), -1, sets))
    count = len(every)
    start = jnp.full((count, DIM), x0, problem.x0.dtype)
    names = points[0].keys() - {"liars", "gamma"}
    return sweeps.RunBatch(
        problem=dataclasses.replace(sweeps.RunBatch.repeated(problem, count), x0=start),
        seeds=jnp.asarray([seed for seed, _ in every], jnp.int32),
        hyper={n: np.asarray([point[n] for _, point in every], start.dtype) for n in names},
        byzantine=jnp.asarray(np.tile(np.arange(WORKERS) < LIARS, (count, 1))),
        schedules=np.stack(drawn),
    )


def follow(
    trial: Trial, given: sweeps.RunBatch, name: str, folder: run_folder.RunFolder | None
) -> dict[str, np.ndarray]:
    """Columns [L, E] of `server` |x_0 - x~|^2, `apart` sum_i |x_i - x~|^2 over the honest,
    and, with variance reduction, `table` S."""
    best, _ = minimiser()
    curvature, linear = given.problem.data

    def measure(state):
        params, (inner, models) = state
        found = {"server": ((params - best) ** 2).sum(axis=-1)}
        found["apart"] = ((models[:, LIARS:] - best) ** 2).sum(axis=(1, 2))
        if trial.reduced:  # grad f(phi) = w phi - b
            shape = (1, WORKERS, EXAMPLES, -1)
            phi = (inner.table.rows + linear.reshape(shape)) / curvature.reshape(shape)
            gaps = ((phi[:, LIARS:] - best) ** 2).sum(axis=3)
            found["table"] = gaps.mean(axis=2).sum(axis=1)
        return found

    seen = lambda run: (run.server.params, run.workers)  # noqa: E731
    return swept(trial, given, measure, name, folder, 400, of=seen)


PENALTY = 0.5


def theorem_1(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """(11) and (12) with all constants; what the noise of the examples does."""
    smoothness = float(problem_of(0.0).data[0].max())
    alpha = 1 / (12 * EXAMPLES * (1 + smoothness) * smoothness)  # as stated; mu = 1
    points = [
        {"liars": q, "gamma": gamma, "penalty": PENALTY, "step_size": alpha}
        for q, gamma in itertools.product((0, LIARS), (1.0, 0.4))
    ]
    findings, rows = [], []
    ends: dict[tuple, list[float]] = {}
    for reduced, noise in itertools.product((True, False), NOISES):
        method = "asyn_rsa_vr" if reduced else "rsa"
        given = lanes(size, noise, points, x0=3.0)
        columns = follow(Trial(reduced), given, f"{method}-{noise:g}", folder)
        rounds = columns["event"][0]
        shape = (size.seeds, len(points), -1)
        distance = (columns["server"] + columns["apart"]).reshape(shape).mean(axis=0)
        for at, point in enumerate(points):
            key = method, point["liars"], point["gamma"]
            last = distance[at, -len(rounds) // 4 :].mean()
            ends.setdefault(key, []).append(last)
            setting = asyn_rsa_vr.Constants(
                1.0, smoothness, EXAMPLES, HONEST, point["liars"], DIM, PENALTY, alpha,
                point["gamma"],
            )  # fmt: skip
            row = {"figure": "theorem", "method": method, "noise": noise}
            row |= {
                "liars": point["liars"],
                "gamma": point["gamma"],
            }
            value = distance[at]
            if reduced:
                table = columns["table"].reshape(shape).mean(axis=0)[at]
                value = asyn_rsa_vr.lyapunov(setting, value, table)
                if noise == NOISES[-1]:
                    findings.append(_judge(setting, noise, rounds, value))
            for k, v in zip(rounds.tolist(), value.tolist(), strict=True):
                rows.append(row | {"event": int(k), "error": v})
    for method, liars, gamma in ends:
        found = ends[method, liars, gamma]
        said = ", ".join(f"{x:.3g}" for x in found)
        reduced = method == "asyn_rsa_vr"
        grows = found[-1] > 1.05 * found[0]
        claim = "does not depend on" if reduced else "grows with"
        claim = f"(x - x*)^2 in the end {claim} the noise (0, 1, 4, 16)"
        claim += f": {method}, {liars} liars, gamma {gamma:g}"
        verdict = "holds" if grows != reduced else "refuted"
        findings.append(Finding("Theorem 1", claim, said, verdict))
    for liars in (0, LIARS):
        often, seldom = (ends["asyn_rsa_vr", liars, gamma][0] for gamma in (1.0, 0.4))
        claim = f"a larger gamma leaves a smaller error: {liars} liars"
        said = f"{often:.3g} for gamma = 1, {seldom:.3g} for 0.4"
        verdict = "holds" if often < seldom else "true of the bound only"
        findings.append(Finding("Remark 3", claim, said, verdict))
    return findings, rows


def _judge(
    setting: asyn_rsa_vr.Constants, noise: float, rounds: np.ndarray, value: np.ndarray
) -> Finding:
    """E T^k against (11): below it, and contracting at least as fast until near its end."""
    liars, gamma = setting.byzantine, setting.participation
    limit = asyn_rsa_vr.bound(setting, _first(setting), rounds)
    end = value[-len(value) // 4 :].mean()
    far = value >= np.sqrt(value[0] * end)  # the first half of the way
    slope = np.polyfit(rounds[far], np.log(value[far]), 1)[0]
    named = f"noise {noise:g}, {liars} liars, gamma {gamma:g}"
    rate, share = -np.expm1(slope), (value / limit).max()
    least = asyn_rsa_vr.contraction(setting)
    said = f"{rate:.2e} a round (promised {least:.2e}); at most {share:.2f} of the bound, "
    said += f"in the end {end:.2g} (Delta_1 = {asyn_rsa_vr.final_error(setting):.3g})"
    verdict = "holds" if rate >= least and share <= 1 else "refuted"
    claim = f"E T^k contracts and stays below (11): {named}"
    return Finding("Theorem 1", claim, said, verdict)


def _first(setting: asyn_rsa_vr.Constants) -> float:
    """T^0, where all models and all tables begin at 3."""
    gap = float(((3.0 - minimiser()[0]) ** 2).sum())
    return float(
        asyn_rsa_vr.lyapunov(setting, (setting.honest + 1) * gap, setting.honest * gap)
    )


TIMES = (0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.5, 3.0)


def lemma_1(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """All models end at x~ if and only if lambda is large enough."""
    findings, rows = [], []
    _, gradients = minimiser()
    for p, name in ((1, "1"), (2, "2"), (float("inf"), "inf")):
        enough = asyn_rsa_vr.enough_penalty(gradients, p)
        points = [{"liars": 0, "gamma": 1.0, "penalty": t * enough} for t in TIMES]
        given = lanes(size._replace(seeds=2), 1.0, points, x0=0.0)
        trial = Trial(p=p, falling=True)
        columns = follow(trial, given, f"lemma-{name}", folder)
        ends = (columns["server"] + columns["apart"])[:, -1].reshape(2, -1).mean(axis=0)
        for times, end in zip(TIMES, ends.tolist(), strict=True):
            rows.append({"figure": "lemma", "p": name, "times": times, "error": end})
        enough_is = max(e for t, e in zip(TIMES, ends, strict=True) if t >= 1.1)
        too_little = min(e for t, e in zip(TIMES, ends, strict=True) if t <= 0.8)
        said = ", ".join(f"{t:g}: {e:.1e}" for t, e in zip(TIMES, ends, strict=True))
        verdict = "holds" if enough_is < 1e-4 < too_little else "refuted"
        claim = f"p = {name}: all models end at x~ from lambda = {enough:.3f} on"
        findings.append(
            Finding("Lemma 1", claim, f"(x - x~)^2 at lambda / this: {said}", verdict)
        )
    return findings, rows
