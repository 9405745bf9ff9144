"""Groups of claims of `experiments.brsgd` about assumptions: moments, infinity, smoothness."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.parts import nonconvex_problem
from experiments.parts.aggregator_resilience import RULES
from experiments.parts.nonconvex_problem import GRADIENT, LOWEST, VALUE, D, Q, Size
from farsign_jax import aggregators, keys, models, oracles, problems
from farsign_jax.base import Problem
from farsign_jax.data import datasets, partitions
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.io import run_folder
from farsign_jax.theory import resilience

POWERS = (2, 3, 4)
# Answers of a fixed size are large compared with gradients that vanish.
MOMENT_ATTACKS = ("alie:z=1", "constant:value=-100")
LARGER = "constant:value=-10000"


def softmax_network(
    seed: int = 0,
) -> tuple[Problem, Callable[[jax.Array], jax.Array]]:
    """A network of 784 inputs, 16 softmax units and 10 outputs on the embedded digits, for 25
    workers, and the function from parameters f[n, d] to gradients f[n, d] on all of them."""
    data, roles = datasets.load("mnist_subset"), keys.split(seed)
    images, labels = data.train_images, data.train_labels
    shards, sizes = partitions.partition(labels, 25, "iid", roles.partition)
    module = models.MLP((16, 10), activation=nn.softmax)
    problem = problems.classification(module, images, labels, shards, sizes, roles.init)

    @jax.jit
    def gradient(x):
        chunks = jnp.arange(len(labels)).reshape(10, -1)

        def of_chunk(x, rows):
            examples = jax.tree.map(lambda a: a[rows], problem.data)
            return jax.grad(lambda x: problem.losses(x, examples).mean())(x)

        def of_all(x):
            return jax.lax.map(lambda rows: of_chunk(x, rows), chunks).mean(axis=0)

        return jax.lax.map(of_all, x)

    return problem, gradient


def moment_bounds(size: Size) -> tuple[list[Finding], list[dict[str, Any]]]:
    """The least C_r with E|A|^r <= C_r E|G|^r of every rule, r = 2, 3, 4.

    The noise is proportional to the gradient, so that all moments of G vanish with it. Three
    cases are compared: far from a stationary point and near one under `MOMENT_ATTACKS`, and far
    under an attack that is a hundred times as large as one of these.
    """
    problem = nonconvex_problem.problem_of("relative")
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    points = nonconvex_problem.path()
    cases: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "far": (points[0], MOMENT_ATTACKS),
        "near": (points[-1], MOMENT_ATTACKS),
        "far, larger": (points[0], (LARGER,)),
    }
    received: dict[str, list[resilience.Answers]] = {}
    for where, (x, attacks) in cases.items():
        there, _ = nonconvex_problem.at(problem, x)
        received[where] = [
            resilience.answers(
                there,
                worker,
                nonconvex_problem.make_attack(attack),
                byzantine=Q,
                samples=size.samples,
            )
            for attack in attacks
        ]
    findings, rows = [], []
    for name in RULES:
        rule = aggregators.make(name)
        found = {
            where: np.max([resilience.moments(rule, a, POWERS) for a in answers], axis=0)
            for where, answers in received.items()
        }
        findings.append(judge_moments(name, found))
        for where, values in found.items():
            row = {"figure": "moments", "aggregator": name, "where": where}
            rows += [
                row | {"power": r, "ratio": float(v)}
                for r, v in zip(POWERS, values, strict=True)
            ]
    return findings, rows


def judge_moments(name: str, found: dict[str, np.ndarray]) -> Finding:
    """Whether the constants C_r [3] are the same near a stationary point and under an attack
    that is a hundred times as large; up to a factor of 2 in C_r^(1/r)."""
    sizes = {where: values ** (1 / np.array(POWERS)) for where, values in found.items()}
    measured = "; ".join(
        f"{where} " + ", ".join(f"{v:.2g}" for v in values) for where, values in found.items()
    )
    causes = {"far, larger": "the attack", "near": "1 / gradient"}
    grows = [text for where, text in causes.items() if (sizes[where] > 2 * sizes["far"]).any()]
    verdict = f"grows with {' and '.join(grows)}" if grows else "holds"
    claim = f"E|A|^r <= C_r E|G|^r, r = 2, 3, 4: {name}"
    return Finding("Assumption 2.2", claim, measured, verdict)


RADII = (5.0, 10.0, 20.0, 40.0)
SCALES = (1.0, 10.0, 100.0, 1000.0)


def _angles(x: np.ndarray, gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The norms of the gradients, f[n], and their cosines with x, f[n]."""
    norms = np.linalg.norm(gradients, axis=1)
    cosines = (x * gradients).sum(axis=1) / (np.linalg.norm(x, axis=1) * norms)
    return norms, cosines


def ripples_at_infinity() -> tuple[Finding, list[dict[str, Any]]]:
    """Assumption 2.4 for the function of the other groups.

    |grad F(w) - w| <= 3/2 sqrt(d), as grad F = w - 3/2 sin w. So |grad F| >= R - 3/2 sqrt(d) on
    the sphere of radius R, and the cosine is at least sqrt(1 - (3/2 sqrt(d) / R)^2).
    """
    ways = np.random.default_rng(0).standard_normal((2000, D))
    ways = np.concatenate([ways, np.tril(np.ones((D, D)))])  # some coordinates are equal
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    parts, rows, good = [], [], True
    for radius in RADII:
        x = radius * ways
        norms, cosines = _angles(x, np.asarray(GRADIENT(jnp.asarray(x))))
        least, share = radius - 1.5 * np.sqrt(D), 1.5 * np.sqrt(D) / radius
        bound = np.sqrt(1 - share**2)
        good &= bool((norms >= least).all() and (cosines >= bound - 1e-6).all())
        both = f"{norms.min():.2f} ({least:.2f}) and {cosines.min():.3f} ({bound:.3f})"
        parts.append(f"{both} at {radius:g}")
        row = {"figure": "infinity", "line": "ripples", "radius": radius}
        rows.append(row | {"gradient": float(norms.min()), "cosine": float(cosines.min())})
    claim = (
        "gradient norm and its cosine with w are bounded from below: function of 10 variables"
    )
    measured = "least norm and cosine (derived bounds) by |w|: " + "; ".join(parts)
    return Finding("Assumption 2.4", claim, measured, "holds" if good else "refuted"), rows


def network_at_infinity() -> tuple[list[Finding], list[dict[str, Any]]]:
    """Assumption 2.4 for the network of softmax units, along two rays of its parameters."""
    problem, gradient = softmax_network()
    x0 = np.asarray(problem.x0, np.float64)
    units, classes = 16, 10
    first = len(x0) - classes - units * classes  # the numbers of the first layer
    rays = {
        "the first layer times s": [],
        "the bias of one unit s, equal logits": [],
    }
    for scale in SCALES:
        layer, unit = x0.copy(), x0.copy()
        layer[:first] *= scale
        unit[0] = scale
        # Its output weights and the biases of the outputs cancel; classes are balanced.
        unit[first : first + classes] = -unit[first + classes : first + 2 * classes]
        for ray, x in zip(rays.values(), (layer, unit), strict=True):
            ray.append(x)
    findings, rows = [], []
    for name, ray in rays.items():
        x = np.stack(ray)
        gradients = np.asarray(gradient(jnp.asarray(x, jnp.float32)), np.float64)
        norms, cosines = _angles(x, np.where(gradients == 0, 1e-300, gradients))
        claim = f"bounded from below: network of softmax units, {name}"
        measured = f"norm {', '.join(f'{v:.2g}' for v in norms)}, cosine "
        measured += f"{', '.join(f'{v:.2g}' for v in cosines)} at s = 1, 10, 100, 1000"
        fails = norms[-1] < 1e-3 * norms[0] or cosines[-1] < 1e-3
        verdict = "does not hold" if fails else "not refuted"
        findings.append(Finding("Assumption 2.4", claim, measured, verdict))
        for scale, norm, cosine in zip(SCALES, norms, cosines, strict=True):
            row = {"figure": "infinity", "line": f"network, {name}", "radius": scale}
            rows.append(row | {"gradient": float(norm), "cosine": float(cosine)})
    return findings, rows


def assumptions(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """The moments of Assumption 2.2, and Assumption 2.4 of the older theory."""
    findings, rows = moment_bounds(size)
    known, more = ripples_at_infinity()
    network, rest = network_at_infinity()
    return Group([*findings, known, *network], [*rows, *more, *rest], [], None)


def expected_smoothness(size: Size) -> tuple[list[Finding], list[dict[str, Any]]]:
    """E|G|^2 <= 2 A (F - F_low) + B |grad F|^2 with A > 0, where no B suffices with A = 0.

    The points are those of `path` and the maximum at 0, where the gradient is 0 and the noise
    is not.
    """
    problem = nonconvex_problem.problem_of("gap")
    worker = oracles.stochastic_gradient(problem.losses, batch_size=1)
    a = float((np.asarray(problem.data, np.float64) ** 2).sum(axis=1).mean())  # as drawn
    b = nonconvex_problem.NOISES["gap"][1]
    ratios, second, norm, rows = [], 0.0, 0.0, []
    for x in [*nonconvex_problem.path(), np.zeros(D)]:
        there, gradient = nonconvex_problem.at(problem, x)
        none = nonconvex_problem.make_attack("none")
        found = resilience.answers(there, worker, none, byzantine=0, samples=size.samples)
        second = float((np.asarray(found.honest, np.float64) ** 2).sum(axis=-1).mean())
        norm = float(np.linalg.norm(gradient))
        limit = 2 * a * (float(VALUE(there.x0)) - LOWEST) + b * norm**2
        ratios.append(second / limit)
        row = {"figure": "smoothness", "gradient": norm, "second": second, "limit": limit}
        rows.append(row)
    claim = f"E|G|^2 <= 2 A (F - F_low) + B |grad F|^2, A = {a:.3f}, B = {b:g}"
    measured = f"{min(ratios):.3f} to {max(ratios):.3f} of it at {len(ratios)} points"
    verdict = "holds" if max(ratios) < 1.005 else "refuted"  # of 4000 samples
    findings = [Finding("Assumption 3.2", claim, measured, verdict)]
    claim = "without A and C no B suffices: the maximum at w = 0"
    measured = f"E|G|^2 = {second:.1f}, gradient norm {norm:.1g}"
    verdict = "holds" if second > 1 and norm < 1e-3 else "refuted"
    return [*findings, Finding("Assumption 3.2", claim, measured, verdict)], rows
