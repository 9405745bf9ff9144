"""Claims of `experiments.asynrsa` about Theorem 1 and Lemma 1 of AsynRSA-VR.

They are tested on quadratics, for which all constants and the minimiser are known.
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

HONEST, BYZANTINE, EXAMPLES, DIM = 10, 2, 20, 5
WORKERS = HONEST + BYZANTINE
DECAY = 1.0  # f_0 = |x|^2 / 2, as strongly convex as every f_i
SPREAD = 0.3
NOISES = (0.0, 1.0, 4.0, 16.0)
FORGED = 1e4  # sent by Byzantine workers in every coordinate
PENALTY = 0.5
MULTIPLES = (0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.5, 3.0)  # of the sufficient penalty


class Size(NamedTuple):
    rounds: int = 20_000
    seeds: int = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """A system factory `(problem, hyper) -> System`.

    Its hyper-parameters are `penalty` and, if the step size is constant, `step_size`.

    Attributes:
        reduced: whether the method is AsynRSA-VR, with variance reduction, or RSA.
        p: of the norm in the penalty.
        falling: whether the step size is alpha_k = 0.3 / (k + 1)^0.75 instead of a constant.
    """

    reduced: bool = True
    p: float = 1
    falling: bool = False

    def __call__(self, problem: Problem, hyper: Any) -> System:
        step = step_sizes.power(0.3, 0.75) if self.falling else hyper["step_size"]
        options = {"step_size": step, "penalty": hyper["penalty"], "p": self.p}
        if self.reduced:
            gradients = oracles.saga_gradient(problem)
        else:
            gradients = oracles.stochastic_gradient(problem.losses, batch_size=1)
        server = rsa(WORKERS, **options, weight_decay=DECAY)
        worker = own_model(gradients, problem.x0, **options)
        return System(server, worker, attacks.constant(FORGED))


def problem_of(noise: float) -> Problem:
    """The problem with this noise, which is the only difference between problems."""
    return problems.own_quadratics(
        DIM, WORKERS, jax.random.key(0), noise=noise, examples=EXAMPLES, spread=SPREAD
    )


def minimiser() -> tuple[np.ndarray, np.ndarray]:
    """The minimiser x~ f[d] of the sum of f_0 and the honest workers' functions, and the
    gradients f[r, d] of the latter there."""
    linear = np.asarray(problem_of(0.0).data[1]).reshape(WORKERS, EXAMPLES, DIM)
    means = linear[BYZANTINE:].mean(axis=1)
    x = means.sum(axis=0) / (HONEST + DECAY)
    return x, x - means


def run_batch(
    size: Size, noise: float, points: list[dict[str, Any]], x0: float
) -> sweeps.RunBatch:
    """Every point with every seed.

    A point has `byzantine`, `gamma` and hyper-parameters. Where `byzantine` is 0, the Byzantine
    workers never participate, so that the honest workers are always the same.
    """
    problem, drawn = problem_of(noise), []
    workers = [delays.deterministic()] * WORKERS
    every = list(itertools.product(range(size.seeds), points))
    for seed, point in every:
        options = {"participation": point["gamma"]}
        key = keys.split(seed).schedule
        sets = arrivals.rounds(key, workers, size.rounds, **options).workers
        drawn.append(np.where(sets < (0 if point["byzantine"] else BYZANTINE), -1, sets))
    count = len(every)
    start = jnp.full((count, DIM), x0, problem.x0.dtype)
    names = points[0].keys() - {"byzantine", "gamma"}
    return sweeps.RunBatch(
        problem=dataclasses.replace(sweeps.RunBatch.repeated(problem, count), x0=start),
        seeds=jnp.asarray([seed for seed, _ in every], jnp.int32),
        hyper={n: np.asarray([point[n] for _, point in every], start.dtype) for n in names},
        byzantine=jnp.asarray(np.tile(np.arange(WORKERS) < BYZANTINE, (count, 1))),
        schedules=np.stack(drawn),
    )


def follow(
    trial: Trial, batch: sweeps.RunBatch, name: str, folder: run_folder.RunFolder | None
) -> dict[str, np.ndarray]:
    """Runs a batch of L runs with E records.

    Returns:
        Columns [L, E]: `server` |x_0 - x~|^2, `apart` sum_i |x_i - x~|^2 over honest workers
        and, with variance reduction, `table` S.
    """
    best, _ = minimiser()
    curvature, linear = batch.problem.data

    def measure(state):
        params, (inner, models) = state
        values = {"server": ((params - best) ** 2).sum(axis=-1)}
        values["apart"] = ((models[:, BYZANTINE:] - best) ** 2).sum(axis=(1, 2))
        if trial.reduced:  # grad f(phi) = w phi - b
            shape = (1, WORKERS, EXAMPLES, -1)
            phi = (inner.table.rows + linear.reshape(shape)) / curvature.reshape(shape)
            gaps = ((phi[:, BYZANTINE:] - best) ** 2).sum(axis=3)
            values["table"] = gaps.mean(axis=2).sum(axis=1)
        return values

    observed = lambda run: (run.server.params, run.workers)  # noqa: E731
    return swept(trial, batch, measure, name, folder, 400, of=observed)


def theorem_1(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Equations (11) and (12) with all constants, and the effect of the examples' noise."""
    smoothness = float(problem_of(0.0).data[0].max())
    alpha = 1 / (12 * EXAMPLES * (1 + smoothness) * smoothness)  # of the theorem, with mu = 1
    points = [
        {"byzantine": q, "gamma": gamma, "penalty": PENALTY, "step_size": alpha}
        for q, gamma in itertools.product((0, BYZANTINE), (1.0, 0.4))
    ]
    findings, rows = [], []
    ends: dict[tuple, list[float]] = {}
    for reduced, noise in itertools.product((True, False), NOISES):
        method = "asyn_rsa_vr" if reduced else "rsa"
        batch = run_batch(size, noise, points, x0=3.0)
        columns = follow(Trial(reduced), batch, f"{method}-{noise:g}", folder)
        rounds = columns["event"][0]
        shape = (size.seeds, len(points), -1)
        distance = (columns["server"] + columns["apart"]).reshape(shape).mean(axis=0)
        for at, point in enumerate(points):
            byzantine, gamma, value = point["byzantine"], point["gamma"], distance[at]
            last = value[-len(rounds) // 4 :].mean()
            ends.setdefault((method, byzantine, gamma), []).append(last)
            if reduced:
                setting = asyn_rsa_vr.Constants(
                    1.0, smoothness, EXAMPLES, HONEST, byzantine, DIM, PENALTY, alpha, gamma
                )
                table = columns["table"].reshape(shape).mean(axis=0)[at]
                value = asyn_rsa_vr.lyapunov(setting, value, table)
                if noise == NOISES[-1]:
                    case = f"noise {noise:g}, {byzantine} Byzantine, gamma {gamma:g}"
                    findings.append(_judge(setting, case, rounds, value))
            row = {"figure": "theorem", "method": method, "noise": noise}
            row |= {"byzantine": byzantine, "gamma": gamma}
            for k, v in zip(rounds.tolist(), value.tolist(), strict=True):
                rows.append(row | {"event": int(k), "error": v})
    return findings + _noise_and_participation(ends), rows


def _noise_and_participation(ends: dict[tuple, list[float]]) -> list[Finding]:
    """Findings from the final errors, one per noise, by (method, Byzantine workers, gamma)."""
    findings = []
    for (method, byzantine, gamma), errors in ends.items():
        reduced = method == "asyn_rsa_vr"
        grows = errors[-1] > 1.05 * errors[0]
        claim = "does not depend on" if reduced else "grows with"
        claim = f"the final (x - x*)^2 {claim} the noise (0, 1, 4, 16)"
        claim += f": {method}, {byzantine} Byzantine, gamma {gamma:g}"
        measured = ", ".join(f"{x:.3g}" for x in errors)
        verdict = "holds" if grows != reduced else "refuted"
        findings.append(Finding("Theorem 1", claim, measured, verdict))
    for byzantine in (0, BYZANTINE):
        often, seldom = (ends["asyn_rsa_vr", byzantine, gamma][0] for gamma in (1.0, 0.4))
        claim = f"a larger gamma leads to a smaller error: {byzantine} Byzantine"
        measured = f"{often:.3g} for gamma = 1, {seldom:.3g} for 0.4"
        verdict = "holds" if often < seldom else "true of the bound only"
        findings.append(Finding("Remark 3", claim, measured, verdict))
    return findings


def _judge(
    setting: asyn_rsa_vr.Constants, case: str, rounds: np.ndarray, value: np.ndarray
) -> Finding:
    """Whether E T^k stays below (11), and contracts as fast as promised until near its end."""
    limit = asyn_rsa_vr.bound(setting, _first(setting), rounds)
    end = value[-len(value) // 4 :].mean()
    far = value >= np.sqrt(value[0] * end)  # the first half of the decrease
    slope = np.polyfit(rounds[far], np.log(value[far]), 1)[0]
    rate, share = -np.expm1(slope), (value / limit).max()
    least = asyn_rsa_vr.contraction(setting)
    measured = (
        f"{rate:.2e} per round (promised {least:.2e}); at most {share:.2f} of the bound; "
    )
    measured += f"{end:.2g} in the end (Delta_1 = {asyn_rsa_vr.final_error(setting):.3g})"
    verdict = "holds" if rate >= least and share <= 1 else "refuted"
    return Finding(
        "Theorem 1", f"E T^k contracts and stays below (11): {case}", measured, verdict
    )


def _first(setting: asyn_rsa_vr.Constants) -> float:
    """T^0, where all models and all tables start at 3."""
    gap = float(((3.0 - minimiser()[0]) ** 2).sum())
    return float(
        asyn_rsa_vr.lyapunov(setting, (setting.honest + 1) * gap, setting.honest * gap)
    )


def lemma_1(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """All models end at x~ if and only if lambda is large enough."""
    findings, rows = [], []
    _, gradients = minimiser()
    for p, name in ((1, "1"), (2, "2"), (float("inf"), "inf")):
        sufficient = asyn_rsa_vr.enough_penalty(gradients, p)
        points = [{"byzantine": 0, "gamma": 1.0, "penalty": t * sufficient} for t in MULTIPLES]
        batch = run_batch(size._replace(seeds=2), 1.0, points, x0=0.0)
        columns = follow(Trial(p=p, falling=True), batch, f"lemma-{name}", folder)
        ends = (columns["server"] + columns["apart"])[:, -1].reshape(2, -1).mean(axis=0)
        errors = dict(zip(MULTIPLES, ends.tolist(), strict=True))
        for times, error in errors.items():
            rows.append({"figure": "lemma", "p": name, "times": times, "error": error})
        above = max(error for times, error in errors.items() if times >= 1.1)
        below = min(error for times, error in errors.items() if times <= 0.8)
        listed = ", ".join(f"{times:g}: {error:.1e}" for times, error in errors.items())
        verdict = "holds" if above < 1e-4 < below else "refuted"
        claim = f"p = {name}: all models end at x~ for lambda >= {sufficient:.3f}"
        measured = f"(x - x~)^2 by the multiple of this lambda: {listed}"
        findings.append(Finding("Lemma 1", claim, measured, verdict))
    return findings, rows
