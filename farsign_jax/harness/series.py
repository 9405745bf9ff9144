"""Rows of any results folder as curves: which rows are one run, and which runs one line.

Not an experiment itself: what `experiments.report` draws.
"""

import collections
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from farsign_jax.config.panel_config import PanelConfig

Row = Mapping[str, Any]


# What a run has spent when a record is taken; methods are compared by the first that is there.
SPENT = {
    "evaluations": "evaluations",
    "event": "events",
    "seconds": "seconds",
    "virtual_seconds": "virtual seconds",
    "bits_up": "bits sent",
}


# What is measured then; the first that is there is shown first.
MEASURED = {
    "test_accuracy": "test accuracy, %",
    "worst_class": "accuracy of the worst class, %",
    "test_loss": "test loss",
    "gradient": "gradient norm",
    "ergodic": "weighted gradient norm",
    "error": "error",
    "tracking": "tracking error",
    "expected": "expected squared gradient",
    "min": "smallest squared gradient",
    "margin": "margin",
    "sin_alpha": "sin alpha",
    "moment": "moment",
    "deviation": "deviation",
}


PERCENT = ("test_accuracy", "worst_class")


ASIDE = ("staleness", "nonfinite", "largest_staleness", "mean_square_staleness", "farthest")


REPEATED = ("seed", "lane")  # runs that differ in nothing else are one line


NAMES = ("method", "aggregator", "attack")


HEADS = ("line", "idea")  # short names that commands give to methods and their options


# Columns that tell the lines of a plot apart; all others tell plots apart, these first.
LINES = (*HEADS, "step_size", "power", "gamma", "noise", "alpha", "beta", "p")


PLOTS = ("figure", "facet", "x")


TITLES = ("figure", "facet")  # names that say what they are, and are always said


SETTINGS = tuple(field.name for field in dataclasses.fields(PanelConfig))  # never measurements


MANY = 20  # numbers of a column that nobody knows: then it is a measurement, not a setting


@dataclasses.dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only.

    Attributes:
        names: method, aggregator and attack, "" where there is none.
        plot: what its plot is about beside the attack, as "partition iid", or "".
        line: its name in the plot, without its step size.
        step: its step size, where there are several for the same line, else "".
        seeds: of the runs, S of them.
        spent: column -> f64[E], the mean over seeds at each record.
        measured: column -> f64[S, E].
        there: bool[S, E], False where a run has no such record.
    """

    names: Mapping[str, str]
    plot: str
    line: str
    step: str
    seeds: tuple[Any, ...]
    spent: Mapping[str, np.ndarray]
    measured: Mapping[str, np.ndarray]
    there: np.ndarray

    @property
    def is_curve(self) -> bool:
        return bool(self.spent and self.measured) and self.there.shape[1] > 1

    def last(self, column: str) -> np.ndarray:
        """f64[S], what each run measured last."""
        ends = self.there.shape[1] - 1 - np.argmax(self.there[:, ::-1], axis=1)
        return self.measured[column][np.arange(len(self.seeds)), ends]

    def best(self, column: str) -> np.ndarray:
        """f64[S], the largest value of each run; NaN of one that never was a number."""
        values = np.where(self.there, self.measured[column], np.nan)
        return np.fmax.reduce(values, axis=1)


def cells(rows: Sequence[Row], varied: Collection[str] = ()) -> list[Cell]:
    """The rows, in their order, as one cell for all runs that differ in their seed only.

    `varied`: columns that are settings, whatever they look like.
    """
    measured = [name for name in _columns(rows) if _is_measured(name, rows, varied)]
    lines, plots = _settings(rows, measured)
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(text(row.get(name, "")) for name in (*NAMES, *lines, *plots))
        groups.setdefault(key, []).append(row)
    found = []
    for key, mine in groups.items():
        told = dict(zip((*NAMES, *lines, *plots), key, strict=True))
        plot = ", ".join(filter(None, (_named(name, told[name]) for name in plots)))
        line = _line(mine[0], [name for name in lines if name not in (*HEADS, "step_size")])
        names = {name: told[name] for name in NAMES}
        found.append(Cell(names, plot, line, told.get("step_size", ""), *_runs(mine, measured)))
    return _told_apart(found)


def _columns(rows: Sequence[Row]) -> list[str]:
    known = dict.fromkeys(name for row in rows for name in row)
    return list(dict.fromkeys([*(name for name in PLOTS if name in known), *known]))


def _is_measured(name: str, rows: Sequence[Row], varied: Collection[str]) -> bool:
    """Known as such, or numbers of which there are many, and no setting."""
    if name in MEASURED:
        return True
    known = (*SPENT, *ASIDE, *REPEATED, *NAMES, *LINES, *PLOTS, *SETTINGS)
    if name in known or name in varied:
        return False
    values = {row[name] for row in rows if isinstance(row.get(name), int | float)}
    return len(values) > MANY


def _settings(rows: Sequence[Row], measured: Collection[str]) -> tuple[list[str], list[str]]:
    """The columns that tell lines and plots apart, without those that follow from others."""
    known = _columns(rows)
    other = {*SPENT, *ASIDE, *REPEATED, *NAMES, *LINES, *measured}
    candidates = [name for name in LINES if name in known]
    candidates += [name for name in known if name not in other]
    keys = [tuple(text(row.get(name, "")) for name in NAMES) for row in rows]
    groups, needed = len(set(keys)), []
    for name in candidates:
        finer = [(*key, text(row.get(name, ""))) for key, row in zip(keys, rows, strict=True)]
        varied = len({key[-1] for key in finer}) > 1
        if (count := len(set(finer))) > groups or (name in TITLES and varied):
            keys, groups = finer, count
            needed.append(name)
    return [n for n in needed if n in LINES], [n for n in needed if n not in LINES]


def _named(name: str, value: str) -> str:
    """`partition iid`, or the value alone, or nothing."""
    if not value:
        return ""
    return value if name in TITLES else f"{name} {value}"


def _line(row: Row, more: Sequence[str]) -> str:
    head = next((text(row[name]) for name in HEADS if row.get(name)), _method(row))
    return " ".join(filter(None, (head, *(_named(n, text(row.get(n, ""))) for n in more))))


def _method(row: Row) -> str:
    return f"{text(row.get('method', ''))} {text(row.get('aggregator', ''))}".strip()


def _told_apart(found: list[Cell]) -> list[Cell]:
    """Of lines of one plot that have the same name, each with its method."""
    places = [(c.plot, c.names["attack"], c.line, c.step) for c in found]
    counts = collections.Counter(places)
    return [
        dataclasses.replace(c, line=f"{c.line} ({_method(c.names)})") if counts[at] > 1 else c
        for c, at in zip(found, places, strict=True)
    ]


def _runs(rows: Sequence[Row], measured: Sequence[str]) -> tuple[Any, ...]:
    """Seeds, what was spent, what was measured, and which records are there."""
    spent = [name for name in SPENT if any(name in row for row in rows)]
    clock = "event" if "event" in spent else next(iter(spent), None)
    runs: dict[Any, dict[float, Row]] = {}
    for row in rows:
        run = runs.setdefault(next((text(row[n]) for n in REPEATED if n in row), ""), {})
        run[number(row.get(clock)) if clock else len(run)] = row
    at = sorted({time for run in runs.values() for time in run})
    there = np.array([[time in run for time in at] for run in runs.values()])

    def table(name: str) -> np.ndarray:
        return np.array([
            [number(run[time].get(name)) if time in run else np.nan for time in at]
            for run in runs.values()
        ])  # fmt: skip

    def mean(name: str) -> np.ndarray:
        values, count = table(name), there.sum(axis=0)
        return np.where(there, values, 0).sum(axis=0) / count

    mine = [name for name in measured if any(name in row for row in rows)]
    tables = {name: table(name) * (100 if name in PERCENT else 1) for name in mine}
    return tuple(runs), {name: mean(name) for name in spent}, tables, there


def unlike(columns: Sequence[np.ndarray]) -> bool:
    """Whether what some curves have spent, each f64[E], is to be drawn on a logarithmic axis:
    one ends at more than ten times as much as another, and would make it a vertical line."""
    known = [column[np.isfinite(column)] for column in columns]
    known = [column for column in known if len(column)]
    ends = [column[-1] for column in known]
    positive = all((column > 0).all() for column in known)
    return bool(ends) and positive and max(ends) > 10 * min(ends)


def number(value: Any) -> float:
    """NaN for what is not one, infinity for integers that no float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def best_steps(found: Sequence[Cell]) -> list[Cell]:
    """Of cells that differ in their step size only, the one that ends best: never one that
    ends in no finite number, where there is another."""
    best: dict[tuple, tuple[float, Cell]] = {}
    for cell in found:
        column = next(iter(cell.measured))
        end = float(np.mean(cell.last(column))) * (1 if column in PERCENT else -1)
        end = end if math.isfinite(end) else -math.inf
        key = (cell.plot, *cell.names.values(), cell.line)
        if key not in best or end > best[key][0]:
            best[key] = end, cell
    return [cell for _, cell in best.values()]
