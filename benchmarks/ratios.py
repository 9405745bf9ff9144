"""How times of events compare within one process, beside the bands that they were found in.

Absolute times differ between machines, and from day to day on one of them. Ratios of what is
timed in turns do so less: a change that makes one of the two slower moves them.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import base_pass
from benchmarks.cases import Case
from benchmarks.timing import FLAGS, take_turns
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import timing
from farsign_jax.io import tables

EVENTS = 140  # eleven buffers are all full about four times
LANES = 25

# What is divided by what, and the lowest and the highest ratio. Two cores of an AMD EPYC gave
# 1.19 to 1.82, 0.41 to 0.47, 0.84 to 1.03 and 79 to 103; there is room for other machines.
BANDS = {
    "far_sign / its base pass": ("far_sign", "base", 1.0, 2.5),
    "far_sign, 25 runs / 1 run": ("25 runs", "far_sign", 0.3, 0.65),
    "far_sign, outstanding / fresh": ("outstanding", "far_sign", 0.7, 1.25),
    "cyber0 median / far_sign": ("cyber0", "far_sign", 60.0, 130.0),
}


def measure(config: PanelConfig, problem: Problem) -> list[dict[str, Any]]:
    """Times the event of each kind in turns: for each ratio its median, range and band."""
    size = problem.x0.size
    alone = Case("far_sign", "", False, "fresh", 1, size)
    kinds = {
        "far_sign": alone,
        "25 runs": dataclasses.replace(alone, runs=LANES),
        "outstanding": dataclasses.replace(alone, delivery="outstanding"),
        "cyber0": Case("cyber0", "median", False, "fresh", 1, size),
    }
    calls = {name: _pieces(case, config, problem) for name, case in kinds.items()}
    calls["base"] = base_pass.alone(config, problem, EVENTS)
    found = dict(zip(calls, take_turns(list(calls.values()), EVENTS), strict=True))
    found["25 runs"] = [us / LANES for us in found["25 runs"]]
    rows = []
    for name, (above, below, *band) in BANDS.items():
        ratios = [a / b for a, b in zip(found[above], found[below], strict=True)]
        ends = {"lowest": min(ratios), "highest": max(ratios), "band": band}
        rows.append({"name": name, "ratio": statistics.median(ratios)} | ends)
    return rows


def _pieces(case: Case, config: PanelConfig, problem: Problem) -> Callable[[], Any]:
    """A call that advances all runs of a case by `EVENTS` events."""
    events = EVENTS * (2 + FLAGS.repeats)
    batch = case.run_batch(config, problem, case.runs, events)
    _, _, pieces = timing.running(case.program(config), batch, EVENTS, case.delivery)
    return lambda: next(pieces)


def verdict(row: Mapping[str, Any]) -> str:
    """What a ratio says about its band."""
    low, high = row["band"]
    return "slower" if row["ratio"] > high else "faster" if row["ratio"] < low else "as before"


def report(rows: list[dict[str, Any]]) -> str:
    """The ratios as Markdown."""
    header = ["ratio of times", "now", "range", "band", ""]
    lines = [
        [
            row["name"],
            f"{row['ratio']:.3g}",
            f"{row['lowest']:.3g}-{row['highest']:.3g}",
            "{:.3g}-{:.3g}".format(*row["band"]),
            verdict(row),
        ]
        for row in rows
    ]
    return tables.markdown_table(header, lines)
