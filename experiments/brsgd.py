"""Byzantine-resilient SGD: its rate, its random iterate, and the resilience of aggregators.

    python -m experiments.brsgd                     about 9 minutes on two cores
    python -m experiments.brsgd --claims rates      one group of claims
    python -m experiments.brsgd --preset smoke      a minute, too short to judge

    rates         Corollary 4.1: the gradient norms of min_k and R_K against the bound with its
                  constants and against K^-(1-p)/2, for four values of p; other workers are
                  Byzantine in each round
    resilience    Assumption 2.2 (inner product, second moment) for every aggregator and attack,
                  far from a stationary point and near one; Krum's eta(m, q)
    aggregators   the final gradient norm of every aggregator under every attack, with constant
                  noise and with noise proportional to the gradient
    network       a network of softmax units, whose gradient vanishes at infinity, which older
                  theory excludes
    assumptions   the moments r = 2, 3 and 4 of Assumption 2.2 for every aggregator; the
                  condition of the older theory at infinity, Assumption 2.4
    smoothness    expected smoothness with A > 0: noise that grows with F - F_low, and the bound
                  of Corollary 4.1 there

All groups but `network` use a smooth function of ten variables that is not convex, and 11
workers, 2 of which are Byzantine. The same command with the same --out continues.

Writes table.md (claim, measurement, verdict), resilience.md, results.csv, results.json and a
figure for each group under --out.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.parts import (
    aggregator_resilience,
    brsgd_assumptions,
    nonconvex_problem,
)
from experiments.parts.nonconvex_problem import SMOOTHNESS, Q, Size, Trial
from farsign_jax import aggregators, oracles, theory
from farsign_jax.harness import claims
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.command import main
from farsign_jax.io import run_folder
from farsign_jax.theory import resilience

SIZES = {"full": Size(), "smoke": Size(1_000, 2, 100, 60, every=2)}


def constants(
    rule: str, attack: str, noise: str, samples: int, states: np.ndarray
) -> tuple[float, float]:
    """The largest sin alpha and second moment of Assumption 2.2 at the iterates f[n, d]."""
    problem = nonconvex_problem.problem_of(noise)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    adversary, aggregator = nonconvex_problem.make_attack(attack), aggregators.make(rule)
    found = []
    for x in states:
        there, gradient = nonconvex_problem.at(problem, x)
        answers = resilience.answers(there, worker, adversary, byzantine=Q, samples=samples)
        found.append(resilience.estimate(aggregator, answers, gradient))
    return max(f.sin_alpha for f in found), max(f.moment for f in found)


POWERS = (0.55, 0.66, 0.75, 0.9)

# (rule, attack, kind of noise)
Cases = Sequence[tuple[str, str, str]]
RATES: Cases = (
    ("mean", "none", "constant"),
    ("krum:f=2", "sign_flip:scale=3", "constant"),
    ("median", "ipm:epsilon=0.5", "relative"),
    ("krum:f=2", "alie:z=1", "relative"),
    ("krum:f=2", "alie:z=1", "constant"),
)
SMOOTHNESS_CASES: Cases = (("krum:f=2", "alie:z=1", "gap"),)


class Case(NamedTuple):
    """A rule under an attack, and the constants of Assumption 2.2 and Corollary 4.1."""

    rule: str
    attack: str
    noise: str
    sin_alpha: float
    moment: float

    @property
    def name(self) -> str:
        rule, attack = (text.partition(":")[0] for text in (self.rule, self.attack))
        return f"{rule}, {attack}, {self.noise} noise"

    @property
    def abc(self) -> tuple[float, float, float]:
        """A', B' and C': those of E|G|^2 times the constant of the second moment."""
        a, b, c = nonconvex_problem.NOISES[self.noise]
        return self.moment * a, self.moment * b, self.moment * c

    @property
    def first(self) -> float:
        """alpha_0 of the corollary, or an arbitrary one where it promises nothing."""
        factor = 1 - max(self.sin_alpha, 0.0) if self.sin_alpha < 1 else 0.1
        return factor / (SMOOTHNESS * self.abc[1])

    def limit(self, rounds: np.ndarray, power: float) -> np.ndarray:
        """The bound of Corollary 4.1 after each of these numbers of rounds."""
        x0 = nonconvex_problem.problem_of(self.noise).x0
        (a, b, c), gap = self.abc, float(nonconvex_problem.VALUE(x0)) - nonconvex_problem.LOWEST
        known = {"gap": gap, "smoothness": SMOOTHNESS, "sin_alpha": max(self.sin_alpha, 0.0)}
        return np.array(
            [resilience.bound(int(k), power, **known, a=a, b=b, c=c) for k in rounds]
        )


def rates(
    size: Size, folder: run_folder.RunFolder | None = None, cases: Cases = RATES
) -> Group:
    """Corollary 4.1 for several rules, attacks and powers."""
    findings, rows, entries = [], [], []
    for rule, attack, noise in cases[:: size.every]:
        found = constants(rule, attack, noise, size.samples, nonconvex_problem.path())
        case = Case(rule, attack, noise, *found)
        hyper = {"power": POWERS, "step_size": [case.first] * len(POWERS)}
        problem = nonconvex_problem.problem_of(noise)
        batch = nonconvex_problem.run_batch(problem, size.rounds, size.seeds, hyper)
        columns = nonconvex_problem.follow(
            Trial(rule, attack, watch=True),
            batch,
            nonconvex_problem.GRADIENT,
            f"rates-{case.name}",
            folder,
        )
        k = columns["event"][0]
        tail = theory.log_spaced(k, k[-1] / 25, 40)
        shape = (size.seeds, len(POWERS), -1)
        for at, power in enumerate(POWERS):
            runs = {n: c.reshape(shape)[:, at] for n, c in columns.items()}
            least = np.minimum.accumulate(runs["gradient"].mean(axis=0))
            findings.append(_judge(case, power, k, tail, least, runs))
            for i in tail.tolist():
                n, value = int(k[i]), float(runs["expected"][:, i].mean())
                point = {"facet": case.name, "line": f"p = {power}", "x": n}
                entries.append(point | {"value": value})
                row = {"figure": "rates", "line": case.name, "power": power, "event": n}
                rows.append(row | {"min": float(least[i]), "expected": value})
    return Group(findings, rows, entries, ("R_K", "rounds", "gradient norm"))


def _judge(
    case: Case,
    power: float,
    rounds: np.ndarray,
    tail: np.ndarray,
    least: np.ndarray,
    runs: dict[str, np.ndarray],
) -> Finding:
    """Compares min_k and R_K with the bound, in the last 96 % of a run, and with its rate."""
    expected, rate = runs["expected"], (1 - power) / 2
    slope = theory.slope(rounds[tail], expected[:, tail])
    measured = f"min {least[-1]:.2g}, R_K {expected[:, -1].mean():.2g} "
    measured += f"({runs['drawn'][:, -1].mean():.2g} as drawn), falls as K^{slope.value:.2f} "
    measured += f"[{slope.low:.2f}, {slope.high:.2f}]"
    if case.sin_alpha < 1:
        claim = f"below the bound, R_K falls as K^-{rate:.3f}: {case.name}, p = {power}"
        limit = case.limit(rounds[tail], power)
        largest = np.maximum(least[tail], expected[:, tail].mean(axis=0))
        share = (largest / limit).max()
        measured += f"; at most {share:.2f} of the bound"
        verdict = "holds" if share <= 1 and slope.high <= -rate else "refuted"
    else:
        claim = f"no promise: {case.name}, p = {power}"
        verdict = "comes near" if least[-1] < 0.1 else "stays away"
    measured += f"; sin alpha {case.sin_alpha:.2f}, moment {case.moment:.2f}"
    return Finding("Corollary 4.1", claim, measured, verdict)


NETWORK_RULES = ("mean", "median", "krum:f=5", "geometric_median")
NETWORK_ATTACKS = ("none", "sign_flip:scale=3", "alie:z=1")


def network(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """A network of 784 inputs, 16 softmax units and 10 outputs, on the embedded digits.

    There are 25 workers, 5 of which are Byzantine.
    """
    findings, rows, entries = [], [], []
    problem, gradient = brsgd_assumptions.softmax_network()
    program, hyper = nonconvex_problem.side_by_side(
        NETWORK_RULES, NETWORK_ATTACKS, 3.0, batch_size=64
    )
    batch = nonconvex_problem.run_batch(problem, size.network, 1, hyper, byzantine=5)
    columns = nonconvex_problem.follow(
        program, batch, gradient, "network", folder, 25, max_parallel_runs=1
    )
    shape = (-1, len(NETWORK_RULES), len(NETWORK_ATTACKS))
    norms, drawn = (columns[n][0].reshape(shape) for n in ("gradient", "drawn"))
    k = columns["event"][0]
    for g, rule in enumerate(NETWORK_RULES):
        for a, attack in enumerate(NETWORK_ATTACKS):
            curve = norms[:, g, a]
            late = curve[-len(curve) // 4 :].mean()
            measured = f"gradient norm {curve.max():.2g} at its largest, {late:.2g} late, "
            measured += f"{curve.min():.2g} at best, {drawn[-1, g, a]:.2g} at the R_K drawn"
            claim = f"a network of softmax units: {rule}, {attack}"
            verdict = f"falls to {100 * late / curve.max():.0f} %"
            findings.append(Finding("Theorem 3.4", claim, measured, verdict))
            line = rule.partition(":")[0]
            for n, value in zip(k.tolist(), curve.tolist(), strict=True):
                entries.append({"facet": attack, "line": line, "x": int(n), "value": value})
                row = {"figure": "network", "aggregator": rule, "attack": attack}
                rows.append(row | {"event": int(n), "gradient": value})
    title = "A network of softmax units"
    return Group(findings, rows, entries, (title, "rounds", "gradient norm, training set"))


def smoothness(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Corollary 4.1 where expected smoothness needs A > 0, in half as many rounds and runs."""
    findings, rows = brsgd_assumptions.expected_smoothness(size)
    half = {"rounds": size.rounds // 2, "seeds": max(size.seeds // 2, 2)}
    found = rates(dataclasses.replace(size, **half), folder, SMOOTHNESS_CASES)
    return found._replace(findings=findings + found.findings, rows=rows + found.rows)


GROUPS = {
    "rates": rates,
    "resilience": aggregator_resilience.resilience_of_rules,
    "aggregators": aggregator_resilience.comparison,
    "network": network,
    "assumptions": brsgd_assumptions.assumptions,
    "smoothness": smoothness,
}


def every_claim() -> pathlib.Path:
    return claims.run("brsgd", GROUPS, SIZES)


if __name__ == "__main__":
    main(every_claim, own=("claims",), reads=claims.READ)
