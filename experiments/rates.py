"""Tests every theoretical claim about FAR-SIGN with an experiment that could refute it.

    python -m experiments.rates                    about 12 minutes on two cores
    python -m experiments.rates --preset smoke     under 2 minutes, too short to judge
    python -m experiments.rates --claims rates     one group of claims

    rates         Theorems 2.5 and 2.7: slopes of the ergodic gradient norm, 1e3 to 1e6 events,
                  24 seeds; the bound of Proposition C.5; tracking (Table 4)
    convergence   Theorem 2.3: every run ends near a stationary point under every attack
    time_scales   what a single time scale does instead, and when the gap closes
    condition     Assumption 6: training fails just below it and works just above it
    estimation    the predecessor: means from one direction per worker; uneven arrivals

The problems are small: five workers, four dimensions, one direction per query, and answers that
are as stale as arrivals make them. The same command with the same --out continues.

Writes table.md (claim, measurement, verdict), results.csv, results.json and a figure for each
group under --out.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parts import direction_margin
from farsign_jax import arrivals, problems, step_sizes, theory
from farsign_jax.arrivals import delays
from farsign_jax.harness import claims, small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.command import main
from farsign_jax.harness.small_problems import Size, Trial
from farsign_jax.io import run_folder

SIZES = {"full": Size(), "smoke": Size(events=10_000, long=2_000, seeds=3, every=3)}

LOWEST = 4 * (
    1.8954942670339809**2 / 2 + 2 * np.cos(1.8954942670339809)
)  # of both kinds of waves
SMOOTHNESS = 3.0

# (theorem, trial, noise of the examples)
RATES = (
    ("Theorem 2.5", Trial(attack="sign_flip:scale=10"), "gaussian"),
    ("Theorem 2.5", Trial("crossed_waves", attack="greedy"), "asymmetric"),
    ("Theorem 2.7", Trial("waves", "zeroth", "coupled", "greedy"), "gaussian"),
    (
        "Theorem 2.7",
        Trial("crossed_waves", "zeroth", "coupled", "sign_flip:scale=10"),
        "asymmetric",
    ),
    ("Theorem 2.7", Trial("waves", "zeroth", "independent", "sign_flip:scale=10"), "gaussian"),
    ("Theorem 2.7", Trial("crossed_waves", "zeroth", "independent", "greedy"), "gaussian"),
)


def _text(slope: theory.Slope) -> str:
    return f"{slope.value:.3f} [{slope.low:.3f}, {slope.high:.3f}]"


def judge(slope: theory.Slope, rate: float, bound: theory.Slope | None = None) -> str:
    """The verdict on an upper bound n^-rate, which requires a slope of at most -rate.

    That is its exponent for large n. The bound with its constants may fall more slowly at these
    n, and only a slope shallower than that of the bound refutes the claim.

    Args:
        slope: the measured slope.
        rate: the exponent of the bound.
        bound: the slope of the bound with its constants at these n.
    """
    if slope.high <= -rate:
        return "holds"
    if slope.low <= -rate:
        return "not distinguishable"
    if bound is not None and slope.high <= bound.low:
        return f"shallower by {slope.value + rate:.3f}, steeper than the bound at these n"
    return "refuted"


def rates(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Theorems 2.5 and 2.7, Proposition C.5 and Table 4."""
    findings, rows, entries = [], [], []
    gap = float(problems.waves(jnp.full(small_problems.DIM, 3.0))) - LOWEST
    margin = small_problems.WORKERS - 2 * small_problems.BYZANTINE
    pairs = small_problems.WORKERS * small_problems.DIM
    for number, (source, trial, kind) in list(enumerate(RATES))[:: size.every]:
        noise = 0.0 if trial.noise == "independent" else 1.0  # if 0, function values are noisy
        batch = small_problems.run_batch(
            size.seeds, size.events, kind=kind, noise=noise, value=trial.value
        )
        columns = small_problems.follow(trial, batch, f"rates-{number}", folder)
        found = step_sizes.theory(order=trial.order, noise=trial.noise, eps=trial.eps)
        name = " ".join(filter(None, (trial.order, "order,", trial.noise))).rstrip(",")
        label = f"{name}; {trial.value}, {kind}, {trial.attack.partition(':')[0]}"
        events = columns["event"][0]
        at = theory.log_spaced(events, 1e3)
        n, ergodic = events[at], columns["ergodic"][:, at]
        limit = theory.bound(
            columns, gap=gap, smoothness=SMOOTHNESS, margin=margin, pairs=pairs
        )
        slope, of_bound = theory.slope(n, ergodic), theory.slope(n, limit[:, at])
        claim = f"weighted gradient norm O(n^-{found.rate:.3f}): {label}"
        decade = theory.log_spaced(events, events[-1] / 10)
        late = theory.slope(events[decade], columns["ergodic"][:, decade])
        measured = f"{_text(slope)}, last decade {_text(late)}; bound {of_bound.value:.3f}"
        verdict = judge(slope, found.rate, of_bound)
        findings.append(Finding(source, claim, measured, verdict))
        share = (columns["ergodic"].mean(axis=0) / limit.mean(axis=0)).max()
        claim = f"the bound with its constants: {label}"
        verdict = "holds" if share <= 1 else "refuted"
        findings.append(Finding("Prop. C.5", claim, f"at most {share:.2f} of it", verdict))
        last = theory.log_spaced(events, events[-1] / 100, 100)
        tracking = theory.slope(events[last], columns["tracking"][:, last])
        s = step_sizes.tracking_rate(*found.exponents, order=trial.order, noise=trial.noise)
        claim = f"E(y - D grad f)^2 is O(n^-{s:.2f}) at the best exponents: {label}"
        findings.append(Finding("Table 4", claim, _text(tracking), judge(tracking, s)))
        for record in at.tolist():
            point = {"facet": name, "line": label.partition("; ")[2], "x": int(events[record])}
            entries.append(point | {"value": float(columns["ergodic"][:, record].mean())})
        rows += _tidy("rates", label, columns, at)
    return Group(findings, rows, entries, ("Rates", "events", "ergodic gradient norm"))


def _tidy(figure: str, label: str, columns: dict[str, np.ndarray], at: Any) -> list[dict]:
    """One row per run and record."""
    return [
        {"figure": figure, "line": label, "run": run, "event": int(columns["event"][run, i])}
        | {
            k: float(columns[k][run, i])
            for k in ("ergodic", "gradient", "tracking", "farthest")
        }
        for run in range(len(columns["event"]))
        for i in at
    ]


ATTACKS = (
    "none",
    "sign_flip:scale=10",
    "constant:value=1e20",
    "gaussian:std=100",
    "alie:z=1.5",
    "ipm",
    "mimic",
    "replay",
    "nonfinite",
    "greedy",
    "lookahead",
)


def convergence(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Theorem 2.3, with staleness of finite and of infinite second moment."""
    findings, rows, entries = [], [], []
    shapes = (None, 2.5, 1.5)

    def draw(key, point):
        if shapes[point] is None:
            return arrivals.uniform(key, small_problems.WORKERS, size.long)
        workers = [delays.pareto(shapes[point])] * small_problems.WORKERS
        return arrivals.by_time(key, workers, size.long).workers

    for attack in ATTACKS[:: size.every]:
        slow = attack == "lookahead"
        seeds = max(size.seeds // 4, 2) if slow else size.seeds
        batch = small_problems.run_batch(
            seeds, size.long, kind="asymmetric", draw=draw, points=len(shapes)
        )
        name = f"convergence-{attack.partition(':')[0]}"
        columns = small_problems.follow(Trial(attack=attack), batch, name, folder)
        events, norms = columns["event"][0], columns["gradient"]
        last, worst = theory.log_spaced(events, events[-1] / 10, 50), norms.max(axis=0)
        falls, far = theory.slope(events[last], norms[:, last]), columns["farthest"].max()
        heavy = theory.slope(events[last], norms[2::3][:, last])  # shape 1.5
        measured = f"{_text(falls)} over the last decade; "
        measured += f"worst of {len(batch)} runs {worst[-1]:.2f}, x within {far:.2f}; "
        measured += f"staleness without second moment: {_text(heavy)}"
        good = falls.high < 0 and heavy.high < 0 and worst[-1] < 0.25 and far < 4
        verdict = "holds" if good else "refuted"
        claim = f"every run approaches stationary points and stays bounded: {attack}"
        findings.append(Finding("Theorem 2.3", claim, measured, verdict))
        at = theory.log_spaced(columns["event"][0], size.long / 1000)
        rows += _tidy("convergence", attack, columns, at)
        for i in at.tolist():
            point = {"facet": "worst of all runs", "line": attack.partition(":")[0]}
            entries.append(point | {"x": int(columns["event"][0, i]), "value": float(worst[i])})
    return Group(findings, rows, entries, ("Convergence", "events", "gradient norm"))


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


GROUPS: dict[str, Callable[[Size, run_folder.RunFolder], Group]] = {
    "rates": rates,
    "convergence": convergence,
    "time_scales": time_scales,
    "condition": direction_margin.condition,
    "estimation": direction_margin.estimation,
}


def every_claim() -> pathlib.Path:
    jax.config.update("jax_enable_x64", True)
    return claims.run("rates", GROUPS, SIZES)


if __name__ == "__main__":
    main(every_claim, own=("claims",), reads=claims.READ)
