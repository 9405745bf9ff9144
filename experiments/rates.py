"""Tests every theoretical claim about FAR-SIGN with an experiment that could refute it.

    python -m experiments.rates                    about an hour on two cores
    python -m experiments.rates --preset smoke     under 2 minutes, too short to judge
    python -m experiments.rates --claims rates     one group of claims

    rates         Theorems 2.5 and 2.7: slopes of the ergodic gradient norm, 1e3 to 1e6 events,
                  24 seeds; Proposition C.5; Table 4 at the best exponents
    tracking      Table 4: each term of the error of the averages, isolated; Corollary C.3
    convergence   Theorem 2.3: every run ends near a stationary point under every attack
    time_scales   what a single time scale does instead, and when the gap closes
    condition     Assumption 6: training fails just below it and works just above it
    estimation    the predecessor: means from one direction per worker; uneven arrivals
    recursion     Proposition A.2: the sum behind the errors of the averages, up to a million

The problems are small: five workers, four dimensions, one direction per query, and answers that
are as stale as arrivals make them. The same command with the same --out continues.

Writes table.md (claim, measurement, verdict), results.csv, results.json and a figure for each
group under --out.
"""

import itertools
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from experiments.parts import convergence_rates, direction_margin
from experiments.parts.convergence_rates import by_record, described, slopes
from farsign_jax import arrivals, theory
from farsign_jax.arrivals import delays
from farsign_jax.harness import claims, small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.command import main
from farsign_jax.harness.small_problems import Size, Trial
from farsign_jax.io import run_folder

SIZES = {"full": Size(), "smoke": Size(events=10_000, long=2_000, seeds=3, every=3)}

ATTACKS = (
    "none",
    "sign_flip:scale=10",
    "constant:value=-1e20",
    "gaussian:std=100",
    "alie:z=1.5",
    "ipm",
    "mimic",
    "replay",
    "nonfinite",
    "greedy",
    "lookahead",
)


WAYS = (None, 2.5, 1.5)  # how workers take turns: at random, or by Pareto delays of this shape
START = (3.0, -3.0, 3.0, -3.0)  # gradients of both signs, as an attack may keep the first sign
ALIKE = 0.05  # runs are the same if their gradient norms differ by less than this share


def convergence(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Theorem 2.3, with staleness of finite and of infinite second moment."""
    findings, rows, entries, ends = [], [], [], {}

    def draw(key, point):
        if WAYS[point] is None:
            return arrivals.uniform(key, small_problems.WORKERS, size.long)
        workers = [delays.pareto(WAYS[point])] * small_problems.WORKERS
        return arrivals.by_time(key, workers, size.long).workers

    for attack in ATTACKS[:: size.every]:
        slow = attack == "lookahead"
        seeds = max(size.seeds // 4, 2) if slow else size.seeds
        batch = small_problems.run_batch(
            seeds,
            size.long,
            x0=np.array(START),
            kind="asymmetric",
            draw=draw,
            points=len(WAYS),
        )
        name = attack.partition(":")[0]
        columns = small_problems.follow(
            Trial(attack=attack), batch, f"convergence-{name}", folder
        )
        events, norms = columns["event"][0], columns["gradient"]
        whole, late = slopes(events, norms, size.long / 100)
        heavy = slopes(events, norms[len(WAYS) - 1 :: len(WAYS)], size.long / 100)
        worst, far = norms.max(axis=0), columns["farthest"].max()
        measured = f"{described(whole, late)}; "
        measured += f"worst of {len(batch)} runs {worst[-1]:.2f}, x within {far:.2f}; "
        measured += f"staleness without second moment: {described(*heavy)}"
        good = late.high < 0 and heavy[1].high < 0 and worst[-1] < 0.25 and far < 4
        verdict = "holds" if good else "refuted"
        claim = f"every run approaches stationary points and stays bounded: {attack}"
        findings.append(Finding("Theorem 2.3", claim, measured, verdict))
        ends[attack] = norms[:, events >= events[-1] / 10]
        at = theory.log_spaced(events, size.long / 1000)
        rows += by_record("convergence", attack, columns, at)
        for i in at.tolist():
            point = {"facet": "worst of all runs", "line": name}
            entries.append(point | {"x": int(events[i]), "value": float(worst[i])})
    findings.append(distinct(ends))
    return Group(findings, rows, entries, ("Convergence", "events", "gradient norm"))


def distinct(ends: Mapping[str, np.ndarray]) -> Finding:
    """How many of the attacks lead to different runs.

    Two attacks are the same if their runs with the same seed have nearly the same gradient
    norms, that is, if the mean of the differences is less than `ALIKE` of the mean of the
    norms. Attacks that are the same as a third one are the same.

    Args:
        ends: the gradient norms [runs, records] under each attack. If there are fewer runs
            under one of two attacks, the first runs of the other are compared with them.
    """
    apart = {}
    for one, other in itertools.combinations(ends, 2):
        count = min(len(ends[one]), len(ends[other]))
        left, right = ends[one][:count], ends[other][:count]
        apart[one, other] = np.abs(left - right).mean() / ((left + right).mean() / 2)
    kinds = {name: name for name in ends}
    for (one, other), share in apart.items():
        if share < ALIKE:
            old, new = kinds[other], kinds[one]
            kinds = {name: new if kind == old else kind for name, kind in kinds.items()}
    same = [f"{a} = {b}" for (a, b), share in apart.items() if share < ALIKE]
    count = len(set(kinds.values()))
    (one, other), least = min(apart.items(), key=lambda item: item[1])
    measured = f"{count} of {len(ends)} differ"
    measured += f"; the same: {', '.join(same)}" if same else ""
    measured += f"; closest: {one} and {other}, norms {least:.0%} apart over the last decade"
    verdict = "holds" if count == len(ends) else f"{count} kinds of attacks"
    claim = f"the {len(ends)} attacks lead to different runs"
    return Finding("Theorem 2.3", claim, measured, verdict)


BETAS = (1.0, 0.5, 0.2, 0.1, 0.05)
ALPHAS = (0.004, 0.001, 0.00025)


def time_scales(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Asymmetric noise, honest workers and constant step sizes, compared with the theorem's.

    With beta = 1 the method is asynchronous sign descent.
    """
    findings, rows, entries = [], [], []
    grid = np.array([(beta, alpha) for beta in BETAS for alpha in ALPHAS])
    points = len(grid)
    hyper = {"average_step": grid[:, 0], "step_size": grid[:, 1]}
    # In the valley, the noise must be large compared with the slope of 1/4.
    cases = (("waves", 3.0, np.sqrt(3)), ("valley", 0.0, np.sqrt(3) * 1.25))
    for value, x0, noise in cases[:: size.every]:
        options = {"kind": "asymmetric", "noise": noise, "value": value, "byzantine": 0}
        options |= {"x0": np.full(small_problems.DIM, x0)}
        seeds = max(size.seeds // 2, 2)
        batch = small_problems.run_batch(
            seeds, size.long, hyper=hyper, points=points, **options
        )
        trial = Trial(value, sign_of="new")
        columns = small_problems.follow(trial, batch, f"time_scales-{value}-one", folder)
        quarter = columns["gradient"].shape[1] // 4
        norms = columns["gradient"][:, -quarter:].mean(axis=1)
        norms = norms.reshape(seeds, len(BETAS), len(ALPHAS))
        gaps = norms.mean(axis=0)
        for (beta, alpha), norm in zip(grid.tolist(), gaps.reshape(-1), strict=True):
            point = {"facet": value, "line": f"beta = {beta}", "x": beta / alpha}
            entries.append(point | {"value": float(norm)})
            row = {"figure": "time_scales", "line": value, "beta": beta, "alpha": alpha}
            rows.append(row | {"gradient": float(norm)})
        wrong = 2.0 if value == "waves" else 2.5  # |grad f| = sqrt(d) * the median of the noise
        claim = f"one time scale (beta = 1) ends where signs are balanced, at {wrong:.2f}"
        measured = f"gradient norm {', '.join(f'{x:.2f}' for x in gaps[0])} as alpha falls"
        verdict = "holds" if np.abs(gaps[0] / wrong - 1).max() < 0.1 else "refuted"
        source = "Karimireddy et al., 2019"
        findings.append(Finding(source, f"{value}: {claim}", measured, verdict))
        path = norms[:, 1:, -1]  # at the smallest alpha, where every seed must agree
        measured = ", ".join(f"{x:.2f}" for x in path.mean(axis=0))
        falls = (path[:, -1] < 0.25 * path[:, 0]).all()
        measured += "; at beta = 0.05 and beta / alpha = "
        measured += f"{0.05 / ALPHAS[0]:.0f}: {gaps[-1, 0]:.2f}"
        verdict = "holds" if falls and gaps[-1, 0] > 1.5 * gaps[-1, -1] else "refuted"
        claim = "the gap closes as beta falls (0.5 to 0.05) if beta / alpha stays large"
        findings.append(Finding("Section 3", f"{value}: {claim}", measured, verdict))
        batch = small_problems.run_batch(size.seeds, size.long, **options)
        trial = Trial(value, step_size=2.0)
        columns = small_problems.follow(trial, batch, f"time_scales-{value}-two", folder)
        end = columns["gradient"][:, -1].mean()
        claim = f"{value}: the two time scales of the theorem"
        verdict = "holds" if end < 0.1 * wrong else "refuted"
        findings.append(Finding("Theorem 2.3", claim, f"gradient norm {end:.3f}", verdict))
    return Group(
        findings, rows, entries, ("One time scale or two", "beta / alpha", "gradient norm")
    )


# (theta, q, c) of Proposition A.2: the exponents of the best rates of zeroth and first order, a
# discount that falls nearly as fast as it may, and a small factor.
SUMS = ((4 / 3, 2 / 3, 1.0), (1.0, 0.5, 1.0), (1.8, 0.9, 1.0), (1.1, 0.55, 0.2))


def recursion(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Proposition A.2: the sum against its leading term, which it approaches from above."""
    findings, rows, entries = [], [], []
    n = np.arange(1, size.events + 1)
    at = theory.log_spaced(n, size.events / 1000)
    for theta, q, c in SUMS:
        ratio = c * n ** (theta - q) * theory.discounted_sum(size.events, theta, q, c)
        excess = (theta - q) / c * n[-1] ** (q - 1.0)
        late = ratio[n >= n[-1] / 10]
        claim = f"S_n c n^(theta - q) -> 1: theta = {theta:.3g}, q = {q:.3g}, c = {c:g}"
        measured = f"{ratio[-1]:.4f} at n = {n[-1]:,}, at most {ratio.max():.3f}"
        measured += f"; derived, to first order: {1 + excess:.4f}"
        good = (np.diff(late) < 0).all() and 0 < ratio[-1] - 1 < 2 * excess
        findings.append(Finding("Prop. A.2", claim, measured, "holds" if good else "refuted"))
        line = f"theta = {theta:.3g}, q = {q:.3g}, c = {c:g}"
        for i in at.tolist():
            point = {"facet": "S_n c n^(theta - q)", "line": line, "x": int(n[i])}
            entries.append(point | {"value": float(ratio[i])})
            row = {"figure": "recursion", "line": line, "event": int(n[i])}
            rows.append(row | {"ratio": float(ratio[i])})
    return Group(findings, rows, entries, ("Proposition A.2", "n", "ratio"))


GROUPS: dict[str, Callable[[Size, run_folder.RunFolder], Group]] = {
    "rates": convergence_rates.rates,
    "tracking": convergence_rates.tracking,
    "convergence": convergence,
    "time_scales": time_scales,
    "condition": direction_margin.condition,
    "estimation": direction_margin.estimation,
    "recursion": recursion,
}


def every_claim() -> pathlib.Path:
    jax.config.update("jax_enable_x64", True)
    return claims.run("rates", GROUPS, SIZES)


if __name__ == "__main__":
    main(every_claim, own=("claims",), reads=claims.READ)
