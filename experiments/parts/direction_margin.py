"""Claims for `experiments.rates`: which directions are enough, and whose answers count.

Not a command itself. `condition`: Assumption 6 against what training does. `estimation`: means
from one direction per worker, and workers that speak more often than others.
"""

import jax.numpy as jnp
import numpy as np

from farsign_jax import arrivals, directions, theory
from farsign_jax.harness import small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.small_problems import Size, Trial
from farsign_jax.io import run_folder

HALF = np.sqrt(0.5)


def four(scale: float) -> np.ndarray:
    """Four workers in the plane, two of them `scale` times as loud: eta = 0 at sqrt(2)."""
    rows = np.array([[1, 0], [HALF, HALF], [0, 1], [-HALF, HALF]])
    return (rows * np.array([1, scale, 1, scale])[:, None])[:, None]


SCALES = (1.0, 1.2, 1.3, 1.5, 1.6, 1.7)


def condition(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Assumption 6 against what training does."""
    findings, rows, entries = [], [], []
    known = (
        ("the four workers", four(1.0), 1, np.sqrt(2) - 1),
        ("coordinates, 5 workers", np.broadcast_to(np.eye(4), (5, 4, 4)), 2, 1.0),
        ("coordinates, 4 workers, too few", np.broadcast_to(np.eye(4), (4, 4, 4)), 2, 0.0),
        ("axes twice", np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), 1, 0.0),
    )
    for name, rows_of, q, eta in known:
        got = directions.certify(rows_of, q)
        good = got.exact and abs(got.low - eta) < 1e-9
        said = f"eta = {got.low:.4f}, {'exact' if got.exact else 'a bound'}"
        claim = f"{name}, {q} liar{'s' * (q > 1)}: eta = {eta:.4f}"
        findings.append(Finding("Assumption 6", claim, said, "holds" if good else "refuted"))
    matrices = np.stack([four(scale) for scale in SCALES])
    liar = np.arange(4) == 1  # a loud one
    told = {"x0": np.full(2, 1.0), "workers": 4, "byzantine": liar, "value": "bowl"}
    given = small_problems.run_batch(
        size.seeds, size.long, hyper={"directions": matrices}, points=len(SCALES), **told
    )
    trial = Trial("bowl", attack="greedy", step_size=3.0)
    columns = small_problems.follow(trial, given, "condition", folder)
    start = float(np.sqrt(2.0))
    ends = columns["gradient"][:, -1].reshape(size.seeds, len(SCALES))
    for scale, end in zip(SCALES, ends.T, strict=True):
        eta = directions.certify(four(scale), 1).low
        low, high = theory.middle(theory.resampled(end))
        holds = high < start if eta > 0 else low > start
        claim = f"eta = {eta:+.3f}: training {'works' if eta > 0 else 'fails'}"
        said = f"gradient norm {start:.2f} -> {end.mean():.2f} [{low:.2f}, {high:.2f}]"
        findings.append(Finding("Assumption 6", claim, said, "holds" if holds else "refuted"))
        point = {
            "figure": "condition",
            "line": "training",
            "margin": eta,
            "gradient": end.mean(),
        }
        rows.append(point)
    liars = np.arange(4)[:, None] > np.arange(small_problems.WORKERS)  # q = 0, 1, 2, 3 of 5
    given = small_problems.run_batch(size.seeds, size.long, byzantine=liars, points=len(liars))
    columns = small_problems.follow(Trial(attack="greedy"), given, "condition-liars", folder)
    start = float(np.linalg.norm(Trial().gradient(jnp.full(small_problems.DIM, 3.0))))
    ends = columns["gradient"][:, -1].reshape(size.seeds, len(liars))
    for q, every in enumerate(ends.T):
        low, high = theory.middle(theory.resampled(every))
        works, end = 2 * q < small_problems.WORKERS, float(every.mean())
        claim = f"coordinates, {q} of 5 lie: training {'works' if works else 'fails'}"
        said = f"gradient norm {start:.2f} -> {end:.2f} [{low:.2f}, {high:.2f}]"
        verdict = "holds" if (high < start if works else low > start) else "refuted"
        findings.append(Finding("Assumption 6", claim, said, verdict))
        rows.append(
            {
                "figure": "condition",
                "line": "liars",
                "liars": q,
                "gradient": end,
            }
        )
    for method in ("random", "equiangular", "optimised"):
        for m in range(6, 17, 2 if size.every == 1 else 10):
            eta = directions.design(m, 4, 1, method=method).certificate.low
            point = {"facet": "margins, d = 4, one liar", "line": method, "x": m}
            entries.append(point | {"value": eta})
            rows.append({"figure": "condition", "line": method, "workers": m, "margin": eta})
    best = max(e["value"] for e in entries if e["line"] == "optimised")
    drawn = max(e["value"] for e in entries if e["line"] == "random")
    findings.append(
        Finding(
            "Assumption 6",
            "a designed dictionary beats the best of 32 random ones, 16 workers, d = 4",
            f"eta = {best:.2f} against {drawn:.2f}",
            "holds" if best > drawn else "refuted",
        )
    )
    return Group(findings, rows, entries, ("Margins of designed directions", "workers", "eta"))


def estimation(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Means from one direction per worker, and workers that speak more often than others."""
    findings, rows, entries = [], [], []
    whole = np.array([[2, 1], [1, 2], [-1, 2], [-2, 1]])[:, None] / np.sqrt(5)
    designs = {"four angles": four(1.0), "whole numbers": whole, "margin 0": four(np.sqrt(2))}
    points = [(name, liar) for name in designs for liar in range(4)]
    matrices = np.stack([designs[name] for name, _ in points])
    masks = np.stack([np.arange(4) == liar for _, liar in points])
    told = {"x0": np.zeros(2), "workers": 4, "value": "bowl_at_mean"}
    given = small_problems.run_batch(
        size.seeds,
        size.long,
        byzantine=masks,
        hyper={"directions": matrices},
        points=len(points),
        **told,
    )
    ends = np.zeros((size.seeds, len(points)))
    for side in ("-", ""):  # a liar pushes either way: the worse counts
        trial = Trial("bowl_at_mean", attack=f"constant:value={side}1000", server="online_mean")
        columns = small_problems.follow(trial, given, f"estimation-mean{side}", folder)
        ends = np.maximum(ends, columns["gradient"][:, -1].reshape(ends.shape))
    for name, rows_of in designs.items():
        mine = ends[:, [n == name for n, _ in points]].mean(axis=0)
        eta = directions.certify(rows_of, 1).low
        claim = f"the mean from 4 workers, one a liar: {name}, eta = {eta:.3f}"
        said = f"error {mine.min():.2f} to {mine.max():.2f}, by who lies; at first 2.24"
        verdict = "holds" if (mine.max() < 0.3) == (eta > 0) else "refuted"
        findings.append(Finding("Ganesh et al., 2023", claim, said, verdict))
    for (name, liar), error in zip(points, ends.mean(axis=0), strict=True):
        rows.append({"figure": "estimation", "line": name, "liar": liar, "gradient": error})

    often = (1.0, 1.3, 1.5, 2.0, 4.0)
    cases = [(rho, weighted) for rho in often for weighted in (False, True)]
    rates_of = [np.array([1.0, rho, 1.0, 1.0]) for rho, _ in cases]
    given = small_problems.run_batch(
        size.seeds,
        size.long,
        byzantine=np.arange(4) == 1,
        hyper={
            "directions": np.stack([four(1.0)] * len(cases)),
            "rates": np.stack(
                [r if w else np.ones(4) for r, (_, w) in zip(rates_of, cases, strict=True)]
            ).astype(np.float32),
        },
        draw=lambda key, point: arrivals.weighted(key, rates_of[point], size.long),
        points=len(cases),
        **told,
    )
    trial = Trial("bowl_at_mean", attack="greedy")
    columns = small_problems.follow(trial, given, "estimation-rates", folder)
    ends = columns["gradient"][:, -1].reshape(-1, len(cases)).mean(axis=0)
    for weighted in (False, True):
        line = "weighted by 1 / rate" if weighted else "unweighted"
        found = {rho: e for (rho, w), e in zip(cases, ends, strict=True) if w == weighted}
        for rho, end in found.items():
            point = {"facet": "FAR-SIGN, four angles", "line": line, "x": rho}
            entries.append(point | {"value": float(end)})
            rows.append({"figure": "estimation", "line": line, "rate": rho, "gradient": end})
        said = ", ".join(f"{end:.2f}" for end in found.values())
        claim = f"a liar 1, 1.3, 1.5, 2, 4 times as often, {line}"
        good = (max(found.values()) < 0.2) == weighted
        findings.append(Finding("Section 2.3", claim, said, "holds" if good else "refuted"))
    title = "A liar that speaks more often"
    return Group(findings, rows, entries, (title, "times as often", "gradient norm"))
