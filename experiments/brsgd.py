"""Byzantine-resilient SGD: its rate, its random iterate, and which rules are resilient.

    python -m experiments.brsgd                     about 7 minutes on two cores
    python -m experiments.brsgd --claims rates      one group of claims
    python -m experiments.brsgd --preset smoke      under 2 minutes, too short to judge

    rates         Corollary 4.1: min_k and R_K gradient norms against the bound with its
                  constants and against K^-(1-p)/2, for four p; other workers lie in each round
    resilience    Assumption 2.2 (inner product, second moment) for every aggregator and attack,
                  far from a stationary point and near one; Krum's eta(m, q)
    aggregators   how far every aggregator comes under every attack, with noise that stays and
                  noise that vanishes with the gradient
    network       a network of softmax units, flat at infinity, which the older theory excludes

The first three on a smooth function of ten variables that is not convex, 11 workers of which 2
lie. The same command with the same --out continues. Writes table.md (claim, measured,
verdict), resilience.md, results.csv, results.json and a figure per group under --out.
"""

import pathlib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.parts import aggregator_resilience, nonconvex_problem
from experiments.parts.nonconvex_problem import SIGMA, SMOOTHNESS, D, Q, Size, Trial
from farsign_jax import aggregators, keys, models, oracles, problems, theory
from farsign_jax.data import datasets, partitions
from farsign_jax.harness import claims
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.command import main
from farsign_jax.io import run_folder
from farsign_jax.theory import resilience

SIZES = {"full": Size(), "smoke": Size(1_000, 2, 100, 60)}


def constants(
    rule: str, attack: str, relative: bool, samples: int, states: np.ndarray
) -> tuple[float, float]:
    """The worst sin alpha and second moment of Assumption 2.2 at these iterates f[n, d]."""
    problem = nonconvex_problem.problem_of(relative)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    lies, made, found = nonconvex_problem.make_attack(attack), aggregators.make(rule), []
    for x in states:
        there, gradient = nonconvex_problem.at(problem, x)
        told = resilience.answers(there, worker, lies, byzantine=Q, samples=samples)
        found.append(resilience.estimate(made, told, gradient))
    return max(f.sin_alpha for f in found), max(f.moment for f in found)


POWERS = (0.55, 0.66, 0.75, 0.9)

# (rule, attack, noise that vanishes with the gradient)
RATES = (
    ("mean", "none", False),
    ("krum:f=2", "sign_flip:scale=3", False),
    ("median", "ipm:epsilon=0.5", True),
    ("krum:f=2", "alie:z=1", True),
    ("krum:f=2", "alie:z=1", False),
)


class Case(NamedTuple):
    """A rule under an attack, and the constants of Assumption 2.2 and Corollary 4.1."""

    rule: str
    attack: str
    relative: bool
    sin_alpha: float
    moment: float

    @property
    def name(self) -> str:
        noise = "noise like the gradient" if self.relative else "noise that stays"
        return f"{self.rule.partition(':')[0]}, {self.attack.partition(':')[0]}, {noise}"

    @property
    def bc(self) -> tuple[float, float]:
        """B' and C', as E|G|^2 is |grad F|^2 and the noise: a multiple of it, or constant."""
        noise = SIGMA**2 * D
        of = (1 + noise, 0.0) if self.relative else (1.0, noise)
        return self.moment * of[0], self.moment * of[1]

    @property
    def first(self) -> float:
        """alpha_0; where nothing is promised, some other one."""
        share = 1 - max(self.sin_alpha, 0.0) if self.sin_alpha < 1 else 0.1
        return share / (SMOOTHNESS * self.bc[0])

    def limit(self, rounds: np.ndarray, power: float) -> np.ndarray:
        gap = (
            float(nonconvex_problem.VALUE(nonconvex_problem.problem_of(self.relative).x0))
            - nonconvex_problem.LOWEST
        )
        b, c = self.bc
        told = {"gap": gap, "smoothness": SMOOTHNESS, "sin_alpha": max(self.sin_alpha, 0.0)}
        return np.array([resilience.bound(int(k), power, **told, b=b, c=c) for k in rounds])


def rates(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    findings, rows, entries = [], [], []
    for rule, attack, relative in RATES:
        found = constants(rule, attack, relative, size.samples, nonconvex_problem.along())
        case = Case(rule, attack, relative, *found)
        hyper = {"power": POWERS, "step_size": [case.first] * len(POWERS)}
        given = nonconvex_problem.lanes(
            nonconvex_problem.problem_of(relative), size.rounds, size.seeds, hyper
        )
        trial = Trial(rule, attack, watch=True)
        columns = nonconvex_problem.follow(
            trial, given, nonconvex_problem.GRADIENT, f"rates-{case.name}", folder
        )
        k = columns["event"][0]
        tail = theory.log_spaced(k, k[-1] / 25, 40)
        shape = (size.seeds, len(POWERS), -1)
        for at, power in enumerate(POWERS):
            mine = {n: c.reshape(shape)[:, at] for n, c in columns.items()}
            least = np.minimum.accumulate(mine["gradient"].mean(axis=0))
            findings.append(_judge(case, power, k, tail, least, mine))
            for i in tail.tolist():
                n, value = int(k[i]), float(mine["expected"][:, i].mean())
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
    mine: dict[str, np.ndarray],
) -> Finding:
    """min_k and R_K against the bound, in the last 96 % of a run, and against its rate."""
    expected, rate = mine["expected"], (1 - power) / 2
    slope = theory.slope(rounds[tail], expected[:, tail])
    said = f"min {least[-1]:.2g}, R_K {expected[:, -1].mean():.2g} "
    said += f"({mine['drawn'][:, -1].mean():.2g} as drawn), falls as K^{slope.value:.2f} "
    said += f"[{slope.low:.2f}, {slope.high:.2f}]"
    if case.sin_alpha < 1:
        claim = f"below the bound, R_K as K^-{rate:.3f}: {case.name}, p = {power}"
        limit = case.limit(rounds[tail], power)
        largest = np.maximum(least[tail], expected[:, tail].mean(axis=0))
        share = (largest / limit).max()
        said += f"; at most {share:.2f} of the bound"
        verdict = "holds" if share <= 1 and slope.high <= -rate else "refuted"
    else:
        claim = f"nothing is promised: {case.name}, p = {power}"
        verdict = "comes near" if least[-1] < 0.1 else "stays away"
    said += f"; sin alpha {case.sin_alpha:.2f}, moment {case.moment:.2f}"
    return Finding("Corollary 4.1", claim, said, verdict)


NETWORK_RULES = ("mean", "median", "krum:f=5", "geometric_median")
NETWORK_LIES = ("none", "sign_flip:scale=3", "alie:z=1")


def network(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """784 - 16 softmax units - 10, on the embedded digits; 25 workers, 5 of them lie."""
    findings, rows, entries = [], [], []
    data, roles = datasets.load("mnist_subset"), keys.split(0)
    images, labels = data.train_images, data.train_labels
    held, sizes = partitions.partition(labels, 25, "iid", roles.partition)
    module = models.MLP((16, 10), activation=nn.softmax)
    problem = problems.classification(module, images, labels, held, sizes, roles.init)

    @jax.jit
    def gradient(x):
        every = jnp.arange(len(labels)).reshape(10, -1)

        def part(x, rows):
            batch = jax.tree.map(lambda a: a[rows], problem.data)
            return jax.grad(lambda x: problem.losses(x, batch).mean())(x)

        def whole(x):
            return jax.lax.map(lambda rows: part(x, rows), every).mean(axis=0)

        return jax.lax.map(whole, x)

    program, hyper = nonconvex_problem.side_by_side(
        NETWORK_RULES, NETWORK_LIES, 3.0, batch_size=64
    )
    given = nonconvex_problem.lanes(problem, size.network, 1, hyper, liars=5)
    columns = nonconvex_problem.follow(
        program, given, gradient, "network", folder, 25, max_parallel_runs=1
    )
    shape = (-1, len(NETWORK_RULES), len(NETWORK_LIES))
    now, drawn = (columns[n][0].reshape(shape) for n in ("gradient", "drawn"))
    k = columns["event"][0]
    for g, rule in enumerate(NETWORK_RULES):
        for a, lie in enumerate(NETWORK_LIES):
            mine = now[:, g, a]
            late = mine[-len(mine) // 4 :].mean()
            said = f"gradient norm {mine.max():.2g} at its largest, {late:.2g} late, "
            said += f"{mine.min():.2g} at best, {drawn[-1, g, a]:.2g} at the R_K drawn"
            claim = f"a network of softmax units: {rule}, {lie}"
            verdict = f"falls to {100 * late / mine.max():.0f} %"
            findings.append(Finding("Theorem 3.4", claim, said, verdict))
            line = rule.partition(":")[0]
            for n, value in zip(k.tolist(), now[:, g, a].tolist(), strict=True):
                entries.append({"facet": lie, "line": line, "x": int(n), "value": value})
                row = {"figure": "network", "aggregator": rule, "attack": lie}
                rows.append(row | {"event": int(n), "gradient": value})
    title = "A network of softmax units"
    return Group(findings, rows, entries, (title, "rounds", "gradient norm, training set"))


GROUPS = {
    "rates": rates,
    "resilience": aggregator_resilience.table_of,
    "aggregators": aggregator_resilience.comparison,
    "network": network,
}


def every_claim() -> pathlib.Path:
    return claims.run("brsgd", GROUPS, SIZES)


if __name__ == "__main__":
    main(every_claim, own=("claims",), reads=claims.READ)
