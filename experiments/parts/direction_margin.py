"""Two groups of claims of `experiments.rates`, about the directions that workers measure along.

`condition` compares Assumption 6 with the outcome of training. `estimation` is about means from
one direction per worker, and about workers that answer more often than others.
"""

import jax.numpy as jnp
import numpy as np

from farsign_jax import arrivals, directions
from farsign_jax.harness import small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.small_problems import Size, Trial
from farsign_jax.io import run_folder

HALF = np.sqrt(0.5)
SCALES = (1.0, 1.2, 1.3, 1.5, 1.6, 1.7)


def four(scale: float) -> np.ndarray:
    """Directions of four workers in the plane, two of them with norm `scale`. The margin eta is
    0 at sqrt(2)."""
    rows = np.array([[1, 0], [HALF, HALF], [0, 1], [-HALF, HALF]])
    return (rows * np.array([1, scale, 1, scale])[:, None])[:, None]


def condition(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Assumption 6 and the outcome of training."""
    findings, rows = known_margins(), []
    for part in (training_by_margin, training_by_byzantine):
        found, records = part(size, folder)
        findings += found
        rows += records
    entries = []
    for method in ("random", "equiangular", "optimised"):
        for m in range(6, 17, 2 if size.every == 1 else 10):
            eta = directions.design(m, 4, 1, method=method).certificate.low
            point = {"facet": "margins, d = 4, one Byzantine worker", "line": method, "x": m}
            entries.append(point | {"value": eta})
            rows.append({"figure": "condition", "line": method, "workers": m, "margin": eta})
    best = max(e["value"] for e in entries if e["line"] == "optimised")
    drawn = max(e["value"] for e in entries if e["line"] == "random")
    claim = "a designed dictionary beats the best of 32 random ones, 16 workers, d = 4"
    measured = f"eta = {best:.2f} against {drawn:.2f}"
    verdict = "holds" if best > drawn else "refuted"
    findings.append(Finding("Assumption 6", claim, measured, verdict))
    return Group(findings, rows, entries, ("Margins of designed directions", "workers", "eta"))


def known_margins() -> list[Finding]:
    """Certified margins of directions whose margin is known."""
    findings = []
    known = (
        ("the four workers", four(1.0), 1, np.sqrt(2) - 1),
        ("coordinates, 5 workers", np.broadcast_to(np.eye(4), (5, 4, 4)), 2, 1.0),
        ("coordinates, 4 workers, too few", np.broadcast_to(np.eye(4), (4, 4, 4)), 2, 0.0),
        ("axes twice", np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), 1, 0.0),
    )
    for name, matrix, q, eta in known:
        found = directions.certify(matrix, q)
        good = found.exact and abs(found.low - eta) < 1e-9
        measured = f"eta = {found.low:.4f}, {'exact' if found.exact else 'a bound'}"
        claim = f"{name}, {q} Byzantine: eta = {eta:.4f}"
        verdict = "holds" if good else "refuted"
        findings.append(Finding("Assumption 6", claim, measured, verdict))
    return findings


SHARE = 0.95  # of the runs must agree
EARLY = 0.01  # of the events, after which runs are compared with their ends


def trained(name: str, norms: np.ndarray, works: bool, source: str = "Assumption 6") -> Finding:
    """Whether training works, judged by the direction in which every single run moves.

    The first steps are large and random, so that the gradient norm of a run at its end is
    compared with its norm after the share `EARLY` of the events. Training works if it falls in
    at least the share `SHARE` of the runs, and fails if it rises in as many; otherwise the
    runs are undecided, which refutes either claim.

    Args:
        name: what differs between training that works and training that fails.
        norms: f64[runs, records], gradient norms.
        works: the claim.
        source: where it comes from.
    """
    early, end = norms[:, round(EARLY * norms.shape[1]) - 1], norms[:, -1]
    falls = int((end < early).sum())
    verb = "falls" if works else "rises"
    share = (falls if works else len(end) - falls) / len(end)
    low, middle, high = np.quantile(end, [0.05, 0.5, 0.95])
    measured = f"gradient norm {verb} in {round(share * len(end))} of {len(end)} runs, mean "
    measured += f"{early.mean():.2f} -> {end.mean():.2f}; quantiles of the end (5, 50, 95 %) "
    measured += f"{low:.2f}, {middle:.2f}, {high:.2f}"
    claim = f"{name}: training {'works' if works else 'fails'}"
    verdict = "holds" if share >= SHARE else "refuted"
    return Finding(source, claim, measured, verdict)


def training_by_margin(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict]]:
    """Training with margins above and below 0."""
    findings, rows = [], []
    matrices = np.stack([four(scale) for scale in SCALES])
    batch = small_problems.run_batch(
        size.seeds,
        size.long,
        hyper={"directions": matrices},
        points=len(SCALES),
        x0=np.full(2, 5.0),  # far enough that x is still on its way if eta is small
        workers=4,
        byzantine=np.arange(4) == 1,  # one of the workers with the larger norm
        value="bowl",
    )
    trial = Trial("bowl", attack="greedy", step_size=3.0)
    columns = small_problems.follow(trial, batch, "condition", folder)
    norms = columns["gradient"].reshape(size.seeds, len(SCALES), -1)
    for point, scale in enumerate(SCALES):
        eta = directions.certify(four(scale), 1).low
        findings.append(trained(f"eta = {eta:+.3f}, from 7.07", norms[:, point], eta > 0))
        row = {"figure": "condition", "line": "training", "margin": eta}
        rows.append(row | {"gradient": norms[:, point, -1].mean()})
    return findings, rows


def training_by_byzantine(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict]]:
    """Training along coordinates with 0 to 3 Byzantine workers out of 5."""
    findings, rows = [], []
    masks = np.arange(4)[:, None] > np.arange(small_problems.WORKERS)  # q = 0, 1, 2, 3
    batch = small_problems.run_batch(size.seeds, size.long, byzantine=masks, points=len(masks))
    name = "condition-byzantine"
    columns = small_problems.follow(Trial(attack="greedy"), batch, name, folder)
    start = float(np.linalg.norm(Trial().gradient(jnp.full(small_problems.DIM, 3.0))))
    norms = columns["gradient"].reshape(size.seeds, len(masks), -1)
    for q in range(len(masks)):
        works = 2 * q < small_problems.WORKERS
        name = f"coordinates, {q} of 5 Byzantine, from {start:.2f}"
        findings.append(trained(name, norms[:, q], works))
        row = {"figure": "condition", "line": "byzantine workers", "byzantine": q}
        rows.append(row | {"gradient": float(norms[:, q, -1].mean())})
    return findings, rows


def estimation(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Means from one direction per worker, and workers that answer more often than others."""
    findings, rows = means(size, folder)
    found, records, entries = uneven_rates(size, folder)
    title = "A Byzantine worker that answers more often"
    axes = (title, "rate, times the others", "gradient norm")
    return Group(findings + found, rows + records, entries, axes)


def means(size: Size, folder: run_folder.RunFolder | None) -> tuple[list[Finding], list[dict]]:
    """The mean of the workers' vectors from one direction per worker."""
    findings, rows = [], []
    integers = np.array([[2, 1], [1, 2], [-1, 2], [-2, 1]])[:, None] / np.sqrt(5)
    designs = {"four angles": four(1.0), "integer directions": integers}
    designs["margin 0"] = four(np.sqrt(2))
    points = [(name, worker) for name in designs for worker in range(4)]
    batch = small_problems.run_batch(
        size.seeds,
        size.long,
        byzantine=np.stack([np.arange(4) == worker for _, worker in points]),
        hyper={"directions": np.stack([designs[name] for name, _ in points])},
        points=len(points),
        x0=np.zeros(2),
        workers=4,
        value="bowl_at_mean",
    )
    ends = np.zeros((size.seeds, len(points)))
    for sign in ("-", ""):  # the worse of both signs of the attack counts
        trial = Trial("bowl_at_mean", attack=f"constant:value={sign}1000", server="online_mean")
        columns = small_problems.follow(trial, batch, f"estimation-mean{sign}", folder)
        ends = np.maximum(ends, columns["gradient"][:, -1].reshape(ends.shape))
    for name, matrix in designs.items():
        errors = ends[:, [n == name for n, _ in points]].mean(axis=0)
        eta = directions.certify(matrix, 1).low
        claim = f"the mean from 4 workers, one of them Byzantine: {name}, eta = {eta:.3f}"
        measured = f"error {errors.min():.2f} to {errors.max():.2f}, depending on the "
        measured += "Byzantine worker; 2.24 at first"
        verdict = "holds" if (errors.max() < 0.3) == (eta > 0) else "refuted"
        findings.append(Finding("Ganesh et al., 2023", claim, measured, verdict))
    for (name, worker), error in zip(points, ends.mean(axis=0), strict=True):
        row = {"figure": "estimation", "line": name, "byzantine_worker": worker}
        rows.append(row | {"gradient": error})
    return findings, rows


def uneven_rates(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict], list[dict]]:
    """A Byzantine worker that answers more often, with and without weights."""
    findings, rows, entries = [], [], []
    factors = (1.0, 1.3, 1.5, 2.0, 4.0)
    cases = [(rho, weighted) for rho in factors for weighted in (False, True)]
    rates = [np.array([1.0, rho, 1.0, 1.0]) for rho, _ in cases]
    known = [r if w else np.ones(4) for r, (_, w) in zip(rates, cases, strict=True)]
    batch = small_problems.run_batch(
        size.seeds,
        size.long,
        byzantine=np.arange(4) == 1,
        hyper={
            "directions": np.stack([four(1.0)] * len(cases)),
            "rates": np.stack(known).astype(np.float32),
        },
        draw=lambda key, point: arrivals.weighted(key, rates[point], size.long),
        points=len(cases),
        x0=np.zeros(2),
        workers=4,
        value="bowl_at_mean",
    )
    trial = Trial("bowl_at_mean", attack="greedy")
    columns = small_problems.follow(trial, batch, "estimation-rates", folder)
    ends = columns["gradient"][:, -1].reshape(-1, len(cases)).mean(axis=0)
    for weighted in (False, True):
        line = "weighted by 1 / rate" if weighted else "unweighted"
        norms = {rho: end for (rho, w), end in zip(cases, ends, strict=True) if w == weighted}
        for rho, end in norms.items():
            point = {"facet": "FAR-SIGN, four angles", "line": line, "x": rho}
            entries.append(point | {"value": float(end)})
            rows.append({"figure": "estimation", "line": line, "rate": rho, "gradient": end})
        measured = ", ".join(f"{end:.2f}" for end in norms.values())
        claim = f"a Byzantine worker 1, 1.3, 1.5, 2 and 4 times as fast, {line}"
        good = (max(norms.values()) < 0.2) == weighted
        verdict = "holds" if good else "refuted"
        findings.append(Finding("Section 2.3", claim, measured, verdict))
    return findings, rows, entries
