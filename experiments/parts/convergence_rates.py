"""Two groups of claims of `experiments.rates`: how fast FAR-SIGN converges.

`rates` compares slopes of the gradient norm with Theorems 2.5 and 2.7, and gradient norms with
the bound behind them. `tracking` isolates each term of Table 4 in turn.
"""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from farsign_jax import problems, sweeps, theory
from farsign_jax.harness import small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.small_problems import BYZANTINE, DIM, WORKERS, Size, Trial
from farsign_jax.io import run_folder

LOWEST = 4 * (
    1.8954942670339809**2 / 2 + 2 * np.cos(1.8954942670339809)
)  # of both kinds of waves
SMOOTHNESS = 3.0
PAIRS = WORKERS * DIM

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


def slopes(
    events: np.ndarray, values: np.ndarray, first: float, count: int = 25
) -> tuple[theory.Slope, theory.Slope]:
    """The slopes of the mean of the runs from event `first` on, and over the last decade.

    Both are fitted to `count` records; values that fluctuate need many.
    """
    found = []
    for start in (first, events[-1] / 10):
        at = theory.log_spaced(events, start, count)
        found.append(theory.slope(events[at], values[:, at]))
    return found[0], found[1]


def described(whole: theory.Slope, late: theory.Slope) -> str:
    return f"{whole}, last decade {late}"


def judge(
    whole: theory.Slope,
    late: theory.Slope,
    rate: float,
    bound: theory.Slope | None = None,
) -> str:
    """The verdict on an upper bound n^-rate, which requires a slope of at most -rate.

    The claim holds if the intervals of both slopes are at most -rate. It is about large n: if
    the last decade alone fulfils it, the verdict says so, and otherwise, the last decade
    decides. The bound with its constants may fall more slowly at these n, and only a slope
    shallower than that of the bound refutes the claim.

    Args:
        whole: the slope over all events that are compared.
        late: the slope over the last decade of them.
        rate: the exponent of the bound.
        bound: the slope of the bound with its constants over the last decade.
    """
    if late.high <= -rate:
        return "holds" if whole.high <= -rate else "holds in the last decade only"
    if late.low <= -rate:
        return "not distinguishable"
    if bound is not None and late.high <= bound.low:
        return f"shallower by {late.value + rate:.3f}, steeper than the bound at these n"
    return "refuted"


def noise_of(batch: sweeps.RunBatch) -> float:
    """The variance of the gradients of the examples of a worker, summed over coordinates: the
    largest of the workers."""
    xi = np.asarray(batch.problem.data).reshape(WORKERS, -1, DIM)
    return float(xi.var(axis=1).sum(axis=1).max())


def corollary(
    trial: Trial, batch: sweeps.RunBatch, smoothness: float
) -> tuple[np.ndarray, float]:
    """The alpha_n of a trial on coordinates, and the constant C of Corollary C.3, for which
    E|y_n(i) - D_i grad f(x_n)|^2 <= C (n + 1)^-s at all events of the runs."""
    events = batch.schedules.shape[1]
    steps, gradient = trial.sequences(PAIRS), trial.gradient(batch.problem.x0[0])
    limit = theory.tracking_bound(
        events,
        steps,
        workers=WORKERS,
        dim=DIM,
        smoothness=smoothness,
        first=float(gradient @ gradient),
        variance=noise_of(batch),
        evaluation_variance=1.0 if trial.noise == "independent" else 0.0,
    )
    n = np.arange(1, events + 1)
    return np.asarray(steps.step_size(n - 1), np.float64), float(
        (n**trial.tracking * limit).max()
    )


def proposition(
    trial: Trial, batch: sweeps.RunBatch, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Equation (54) with the measured errors of the averages, f64[runs, records];
    Proposition C.5, in which Corollary C.3 bounds them, f64[runs, records]; and its C."""
    constants = {
        "gap": float(problems.waves(jnp.full(DIM, 3.0))) - LOWEST,
        "smoothness": SMOOTHNESS,
        "margin": WORKERS - 2 * BYZANTINE,
        "pairs": PAIRS,
    }
    alpha, constant = corollary(trial, batch, SMOOTHNESS)
    n = np.arange(1, len(alpha) + 1)
    errors = (WORKERS - BYZANTINE) * np.sqrt(DIM * constant) * n ** (-trial.tracking / 2)
    bounded = np.cumsum(alpha * errors)[columns["event"].astype(int) - 1]
    return (
        theory.bound(columns, **constants),
        theory.bound(columns | {"error": bounded}, **constants),
        constant,
    )


def rates(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Theorems 2.5 and 2.7, Proposition C.5, and Table 4 at the best exponents."""
    findings, rows, entries = [], [], []
    for number, (source, trial, kind) in list(enumerate(RATES))[:: size.every]:
        noise = 0.0 if trial.noise == "independent" else 1.0  # if 0, function values are noisy
        batch = small_problems.run_batch(
            size.seeds, size.events, kind=kind, noise=noise, value=trial.value
        )
        columns = small_problems.follow(trial, batch, f"rates-{number}", folder)
        name = " ".join(filter(None, (trial.order, "order,", trial.noise))).rstrip(",")
        label = f"{name}; {trial.value}, {kind}, {trial.attack.partition(':')[0]}"
        events, ergodic = columns["event"][0], columns["ergodic"]
        measured, full, constant = proposition(trial, batch, columns)
        found, (_, of_bound) = slopes(events, ergodic, 1e3), slopes(events, measured, 1e3)
        rate = trial.sequences(PAIRS).rate
        claim = f"weighted gradient norm O(n^-{rate:.3f}): {label}"
        text = f"{described(*found)}; right-hand side of (54) {of_bound.value:.3f}"
        findings.append(Finding(source, claim, text, judge(*found, rate, of_bound)))
        for title, limit, text in (
            ("equation (54), with measured errors of the averages", measured, "{:.2f} of it"),
            (
                "Proposition C.5, with the constant of Corollary C.3",
                full,
                f"{{:.3f}} of it, C = {constant:.0f}",
            ),
        ):
            share = (ergodic.mean(axis=0) / limit.mean(axis=0)).max()
            verdict = "holds" if share <= 1 else "refuted"
            text = "at most " + text.format(share)
            findings.append(Finding("Prop. C.5", f"{title}: {label}", text, verdict))
        s = trial.tracking
        found = slopes(events, columns["tracking"], events[-1] / 100, 200)
        claim = f"E(y - D grad f)^2 is O(n^-{s:.2f}) at the best exponents: {label}"
        findings.append(Finding("Table 4", claim, described(*found), judge(*found, s)))
        at = theory.log_spaced(events, 1e3)
        for record in at.tolist():
            point = {"facet": name, "line": label.partition("; ")[2], "x": int(events[record])}
            entries.append(point | {"value": float(ergodic[:, record].mean())})
        rows += by_record("rates", label, columns, at)
    return Group(findings, rows, entries, ("Rates", "events", "ergodic gradient norm"))


def by_record(figure: str, label: str, columns: dict[str, np.ndarray], at: Any) -> list[dict]:
    """One row per run and record."""
    names = ("ergodic", "gradient", "tracking", "farthest")
    return [
        {"figure": figure, "line": label, "run": run, "event": int(columns["event"][run, i])}
        | {name: float(columns[name][run, i]) for name in names}
        for run, i in itertools.product(range(len(columns["event"])), at)
    ]


# Each term of Table 4 that can be the smallest: its name, a trial with exponents (p, q, r) at
# which it is, where runs start, the noise of the examples, and L.
TERMS = (
    ("q, noise of an answer", Trial(exponents=(0.95, 0.55, 0.0)), 3.0, 1.0, 3.0),
    (
        "q - 2r, noise over delta",
        Trial(order="zeroth", noise="independent", exponents=(0.98, 0.76, 0.25)),
        3.0,
        0.0,
        3.0,
    ),
    # Without noise, and far from the minimum, so that x moves on throughout.
    ("2(p - q), movement of x", Trial("bowl", exponents=(0.9, 0.7, 0.0)), 6.0, 0.0, 1.0),
    # Without noise, from the minimum, where the curvature jumps: x hardly moves, and the error
    # of a difference is in proportion to delta.
    (
        "2r, curvature",
        Trial(
            "kinked_bowl",
            order="zeroth",
            noise="coupled",
            step_size=0.1,
            exponents=(0.97, 0.75, 0.15),
        ),
        0.0,
        0.0,
        3.0,
    ),
)
TOLERANCE = 0.05  # half of the least distance between s and the next exponent


def attained(late: theory.Slope, s: float) -> str:
    """The verdict on a term n^-s that dominates, from the interval of the slope.

    If all of it is within `TOLERANCE` of -s, the term is attained, and no better exponent is
    true; if all of it is shallower, the claim is refuted, and if steeper, it is not attained.
    """
    if late.low > -s + TOLERANCE:
        return "refuted"
    if late.high < -s - TOLERANCE:
        return "holds, but is not attained"
    if -s - TOLERANCE <= late.low and late.high <= -s + TOLERANCE:
        return f"holds and is attained (within {TOLERANCE})"
    return "not distinguishable"


def tracking(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """Table 4, one term at a time, and the constant of Corollary C.3."""
    findings, rows, entries = [], [], []
    for number, (name, trial, x0, noise, smoothness) in list(enumerate(TERMS))[:: size.every]:
        batch = small_problems.run_batch(
            size.seeds, size.long, x0=np.full(DIM, x0), noise=noise, value=trial.value
        )
        columns = small_problems.follow(trial, batch, f"tracking-{number}", folder)
        events, errors, s = columns["event"][0], columns["tracking"], trial.tracking
        whole, late = slopes(events, errors, size.long / 100, 200)
        p, q, r = trial.sequences(PAIRS).exponents
        claim = f"{name}: E(y - D grad f)^2 is O(n^-{s:.2f}) at p = {p}, q = {q}, r = {r}"
        text = f"{described(whole, late)} (difference {late.value + s:+.3f})"
        findings.append(Finding("Table 4", claim, text, attained(late, s)))
        _, constant = corollary(trial, batch, smoothness)
        largest = float((errors.mean(axis=0) * events**s).max())
        text = f"C = {constant:.3g}; measured at most {largest / constant:.3f} of it"
        verdict = "holds" if largest <= constant else "refuted"
        claim = f"{name}: E(y - D grad f)^2 <= C n^-{s:.2f} with its constant"
        findings.append(Finding("Corollary C.3", claim, text, verdict))
        at = theory.log_spaced(events, size.long / 100)
        for i in at.tolist():
            point = {"facet": "one term at a time", "line": f"{name}: n^-{s:.2f}"}
            point |= {"x": int(events[i]), "value": float(errors[:, i].mean())}
            entries.append(point)
        rows += by_record("tracking", name, columns, at)
    axes = ("Error of the averages", "events", "E(y - D grad f)^2")
    return Group(findings, rows, entries, axes)
