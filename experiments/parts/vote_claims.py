"""The claims about votes of all workers, a group of `experiments.rates`."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.parts.direction_margin import SHARE, trained
from experiments.parts.stationary_points import ATTACKS, under_attacks
from farsign_jax import arrivals
from farsign_jax.harness import small_problems
from farsign_jax.harness.claims import Finding, Group
from farsign_jax.harness.small_problems import WORKERS, Size, Trial
from farsign_jax.io import run_folder

RULES = {"own": "own", "median": "median", "nnm": "nnm:f=1+trimmed_mean:f=1"}
FACTORS = (1, 4, 16, 64)  # how often the Byzantine worker answers, times the others
SOURCE = "Votes"


def votes(size: Size, folder: run_folder.RunFolder | None = None) -> Group:
    """A vote against floods, against workers that fall silent, and against every attack."""
    findings, rows, entries = floods(size, folder)
    attacks = (*ATTACKS, "hidden") if size.every == 1 else ("greedy",)
    fewer = dataclasses.replace(size, seeds=max(size.seeds // 4, 2))
    for name in list(RULES)[1 :: min(size.every, 2)]:
        rule = RULES[name]
        findings.append(silent(size, folder, name, rule))
        found, records, *_ = under_attacks(fewer, folder, attacks, rule, f"{SOURCE}, {name}")
        findings += found
        rows += records
    axes = ("A Byzantine worker that answers more often", "rate, times the others")
    return Group(findings, rows, entries, (*axes, "gradient norm"))


def floods(
    size: Size, folder: run_folder.RunFolder | None
) -> tuple[list[Finding], list[dict], list[dict]]:
    """A Byzantine worker that answers more often than the four honest ones together."""
    findings, rows, entries = [], [], []

    def draw(key, point):
        rates = np.where(np.arange(WORKERS) == 0, FACTORS[point], 1.0)
        return arrivals.weighted(key, rates, size.long)

    batch = small_problems.run_batch(size.seeds, size.long, draw=draw, points=len(FACTORS))
    for name in list(RULES)[:: min(size.every, 2)]:
        trial = Trial(attack="greedy", vote=RULES[name])
        columns = small_problems.follow(trial, batch, f"votes-flood-{name}", folder)
        norms = columns["gradient"].reshape(size.seeds, len(FACTORS), -1)
        for point, factor in enumerate(FACTORS):
            claim = f"{name}, the Byzantine worker answers {factor} times as often"
            if name != "own" or factor < WORKERS - 1:
                findings.append(trained(claim, norms[:, point], True, SOURCE))
            elif factor > WORKERS - 1:  # more often than the honest ones together
                findings.append(lost(claim, norms[:, point, -1]))
            end = float(norms[:, point, -1].mean())
            entries.append({"facet": "greedy", "line": name, "x": factor, "value": end})
            row = {"figure": "votes-flood", "line": name, "rate": factor}
            rows.append(row | {"gradient": end})
    return findings, rows, entries


def lost(claim: str, ends: np.ndarray) -> Finding:
    """Whether runs end further from stationary points than they start."""
    x0 = jnp.full(small_problems.DIM, 3.0)
    start = float(np.linalg.norm(Trial().gradient(x0)))
    above = int((ends > start).sum())
    measured = f"gradient norm {ends.mean():.2f}, above {start:.2f} of the start in {above} of "
    measured += f"{len(ends)} runs"
    verdict = "holds" if above >= SHARE * len(ends) else "refuted"
    return Finding(SOURCE, f"{claim}: it ends further away than it starts", measured, verdict)


def silent(size: Size, folder: run_folder.RunFolder | None, name: str, rule: str) -> Finding:
    """A Byzantine worker that lies at first and never answers again."""

    def draw(key, point):
        honest = 1 + arrivals.uniform(key, WORKERS - 1, size.long)
        return np.where(np.arange(size.long) < 8, 0, honest).astype(np.int32)

    batch = small_problems.run_batch(size.seeds, size.long, draw=draw)
    trial = Trial(attack="constant:value=-1e20", vote=rule)
    columns = small_problems.follow(trial, batch, f"votes-silent-{name}", folder)
    claim = f"{name}, the Byzantine worker lies eight times and falls silent"
    return trained(claim, columns["gradient"], True, SOURCE)
