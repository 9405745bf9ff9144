"""Whether FAR-SIGN approaches stationary points under attacks, for `experiments.rates`."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.parts.convergence_rates import by_record, described, slopes
from farsign_jax import arrivals, theory
from farsign_jax.arrivals import delays
from farsign_jax.harness import small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.small_problems import Size, Trial
from farsign_jax.io import run_folder

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
    findings, rows, entries, ends = under_attacks(size, folder, ATTACKS[:: size.every])
    findings.append(distinct(ends))
    return Group(findings, rows, entries, ("Convergence", "events", "gradient norm"))


def under_attacks(
    size: Size,
    folder: run_folder.RunFolder | None,
    attacks: Sequence[str],
    vote: str = "own",
    source: str = "Theorem 2.3",
) -> tuple[list[Finding], list[dict], list[dict], dict[str, np.ndarray]]:
    """Whether runs approach stationary points under attacks.

    Returns:
        Findings, rows, entries of a figure, and the gradient norms [runs, records] of the last
        decade under each attack.
    """
    findings, rows, entries, ends = [], [], [], {}
    figure = "convergence" if vote == "own" else f"votes-{vote.partition(':')[0]}"

    def draw(key, point):
        if WAYS[point] is None:
            return arrivals.uniform(key, small_problems.WORKERS, size.long)
        workers = [delays.pareto(WAYS[point])] * small_problems.WORKERS
        return arrivals.by_time(key, workers, size.long).workers

    for attack in attacks:
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
            Trial(attack=attack, vote=vote), batch, f"{figure}-{name}", folder
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
        findings.append(Finding(source, claim, measured, verdict))
        ends[attack] = norms[:, events >= events[-1] / 10]
        at = theory.log_spaced(events, size.long / 1000)
        rows += by_record(figure, attack, columns, at)
        for i in at.tolist():
            point = {"facet": "worst of all runs", "line": name}
            entries.append(point | {"x": int(events[i]), "value": float(worst[i])})
    return findings, rows, entries, ends


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
