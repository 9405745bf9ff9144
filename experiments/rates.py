"""Tests every theoretical claim about FAR-SIGN with an experiment that could refute it.

    python -m experiments.rates                    about 75 minutes on two cores
    python -m experiments.rates --preset smoke     over a minute, too short to judge
    python -m experiments.rates --claims rates     one group of claims

    rates         Theorems 2.5 and 2.7: slopes of the ergodic gradient norm, 1e3 to 1e6 events,
                  24 seeds; Proposition C.5; Table 4 at the best exponents
    tracking      Table 4: each term of the error of the averages, isolated; Corollary C.3
    convergence   Theorem 2.3: every run ends near a stationary point under every attack
    time_scales   what a single time scale does instead, and when the gap closes
    condition     Assumption 6: training fails just below it and works just above it
    estimation    the predecessor: means from one direction per worker; uneven arrivals
    recursion     Proposition A.2: the sum behind the errors of the averages, up to a million
    votes         a vote of all workers: floods, and every attack

The problems are small: five workers, four dimensions, one direction per query, and answers that
are as stale as arrivals make them. The same command with the same --out continues.

Writes table.md (claim, measurement, verdict), results.csv, results.json and a figure for each
group under --out.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np

from experiments.parts import (
    convergence_rates,
    direction_margin,
    stationary_points,
    vote_claims,
)
from farsign_jax import theory
from farsign_jax.harness import claims, small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.command import main
from farsign_jax.harness.small_problems import Size, Trial
from farsign_jax.io import run_folder

SIZES = {"full": Size(), "smoke": Size(events=5_000, long=1_000, seeds=3, every=6)}

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
    "convergence": stationary_points.convergence,
    "time_scales": time_scales,
    "condition": direction_margin.condition,
    "estimation": direction_margin.estimation,
    "recursion": recursion,
    "votes": vote_claims.votes,
}


def every_claim() -> pathlib.Path:
    jax.config.update("jax_enable_x64", True)
    return claims.run("rates", GROUPS, SIZES)


if __name__ == "__main__":
    main(every_claim, own=("claims",), reads=claims.READ)
