"""Turns the rows of a results folder into curves.

A curve is a group of runs that differ only in their seed. Which columns identify a curve is
inferred from the rows, because every command writes columns of its own.
"""

import collections
import dataclasses
import functools
import math
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from farsign_jax.config.panel_config import PanelConfig

# What a run has spent when a record is taken. The first available column is the default axis.
SPENT = {
    "evaluations": "evaluations",
    "event": "events",
    "seconds": "seconds",
    "virtual_seconds": "virtual seconds",
    "bits_up": "bits sent",
}
# What a record measures. The first available column is shown first.
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
DIAGNOSTICS = (
    "staleness",
    "nonfinite",
    "largest_staleness",
    "mean_square_staleness",
    "farthest",
)
REPLICATES = ("seed", "lane", "run")  # runs that differ in nothing else form one curve
NAMES = ("method", "aggregator", "attack")
SHORT_NAMES = ("line", "idea", "variant")  # commands give them to a method and its options
# These columns distinguish the lines of a plot. All others distinguish plots, PLOTS first.
LINES = (*SHORT_NAMES, "step_size", "power", "gamma", "noise", "alpha", "beta", "p")
PLOTS = ("figure", "facet", "x")
TITLES = ("figure", "facet")  # their values need no column name beside them
SETTINGS = tuple(field.name for field in dataclasses.fields(PanelConfig))
# An unknown column with more distinct numbers than this is a measurement, not a setting.
MAX_SETTING_VALUES = 20


@dataclasses.dataclass(frozen=True)
class Curve:
    """The runs that differ only in their seed.

    Attributes:
        names: The method, the aggregator and the attack; "" where there is none.
        plot: What distinguishes its plot, beside the attack, as in "partition iid"; or "".
        line: Its name in the plot, without the step size.
        step: Its step size where the line was run with several, else "".
        runs: One row per run and record, indexed by ("run", "record"), with the numbers of the
            columns `spent` and `measured`.
        spent: The columns of what had been spent at a record.
        measured: The columns of what was measured. Accuracies are in percent.
    """

    names: Mapping[str, str]
    plot: str
    line: str
    step: str
    runs: pd.DataFrame
    spent: tuple[str, ...]
    measured: tuple[str, ...]

    @functools.cached_property
    def seeds(self) -> tuple[str, ...]:
        return tuple(self.runs.index.get_level_values("run").unique())

    @functools.cached_property
    def recorded(self) -> pd.DataFrame:
        """bool[runs, records]: whether a run has a record."""
        known = pd.Series(True, index=self.runs.index)
        return known.unstack("record", fill_value=False).reindex([*self.seeds])

    @property
    def is_drawn(self) -> bool:
        return bool(self.spent and self.measured) and self.recorded.shape[1] > 1

    def values(self, column: str) -> pd.DataFrame:
        """f64[runs, records]; NaN where a run has no such record."""
        return self.runs[column].unstack("record").reindex([*self.seeds])

    def mean_spent(self, column: str) -> pd.Series:
        """f64[records], the mean over the runs that have the record."""
        return self.runs.groupby("record")[column].mean()

    def last(self, column: str) -> np.ndarray:
        """f64[runs], the measurement at the last record of each run."""
        ends = self.runs.sort_index(level="record", sort_remaining=False).groupby("run")
        return ends.tail(1)[column].droplevel("record").loc[[*self.seeds]].to_numpy()

    def best(self, column: str) -> np.ndarray:
        """f64[runs], the largest measurement of each run; NaN if none is a number."""
        return self.runs.groupby("run", sort=False)[column].max().to_numpy()


def read_rows(path: str | os.PathLike) -> pd.DataFrame:
    """Reads results.csv: every value as text, "" where a row has none.

    Raises:
        ValueError: if the file is no table in CSV.
    """
    rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="replace")
    if not isinstance(rows.index, pd.RangeIndex):  # pandas then takes columns for an index
        raise ValueError("its first row has more fields than its header")
    return rows.fillna("")  # the fields that an incomplete row lacks


def numbers(column: pd.Series) -> pd.Series:
    """f64[rows]; NaN for what is no number, infinity for integers that no float can hold."""
    return pd.to_numeric(column, errors="coerce").astype(float)


def shown(column: pd.Series) -> pd.Series:
    """The texts, but those of floats with six significant digits at most."""
    parsed = numbers(column)
    is_float = parsed.notna() & column.str.contains(r"[.eE]")
    return column.mask(is_float, parsed.map("{:.6g}".format))


def curves(rows: pd.DataFrame, varied: Collection[str] = ()) -> list[Curve]:
    """Groups rows, as `read_rows` gives them, into curves, in the order of the rows.

    Args:
        rows: The rows of one folder.
        varied: The columns that are known to be settings.
    """
    if rows.empty:
        return []
    order = dict.fromkeys([*NAMES, *(n for n in PLOTS if n in rows), *rows.columns])
    texts = rows.apply(shown).reindex(columns=[*order], fill_value="")
    measured = [name for name in texts if _is_measured(name, rows, varied)]
    parsed = texts.assign(**{n: numbers(rows[n]) for n in (*SPENT, *measured) if n in rows})
    for name in PERCENT:
        if name in rows:
            parsed[name] = 100 * parsed[name]
    keys = _identifying(texts, measured)
    lines = [n for n in keys if n in LINES and n not in (*SHORT_NAMES, "step_size")]
    plots = [name for name in keys if name not in (*NAMES, *LINES)]
    run: pd.Series | str = ""
    for name in reversed([name for name in REPLICATES if name in texts]):
        run = texts[name].where(texts[name] != "", run)
    texts, parsed = texts.assign(run=run), parsed.assign(run=run)
    found = []
    for _, mine in texts.groupby(keys, sort=False):
        first = mine.iloc[0]
        present = mine.loc[:, (mine != "").any()].columns
        spent, own = ([n for n in each if n in present] for each in (SPENT, measured))
        head = next((first[n] for n in SHORT_NAMES if first.get(n)), _method(first))
        curve = Curve(
            names={name: first[name] for name in NAMES},
            plot=", ".join(filter(None, (_named(n, first[n]) for n in plots))),
            line=" ".join(filter(None, (head, *(_named(n, first[n]) for n in lines)))),
            step=first["step_size"] if "step_size" in keys else "",
            runs=_runs(parsed.loc[mine.index], spent, own),
            spent=tuple(spent),
            measured=tuple(own),
        )
        found.append(curve)
    return _with_distinct_lines(found)


def _is_measured(name: str, rows: pd.DataFrame, varied: Collection[str]) -> bool:
    if name in MEASURED:
        return name in rows
    known = (*SPENT, *DIAGNOSTICS, *REPLICATES, *NAMES, *LINES, *PLOTS, *SETTINGS, *varied)
    return name not in known and numbers(rows[name]).nunique() > MAX_SETTING_VALUES


def _identifying(texts: pd.DataFrame, measured: Collection[str]) -> list[str]:
    """The columns that identify a curve, without those that follow from the others."""
    others = {*SPENT, *DIAGNOSTICS, *REPLICATES, *NAMES, *LINES, *measured}
    keys = [*NAMES]
    count = len(texts[keys].drop_duplicates())
    for name in (*(n for n in LINES if n in texts), *(n for n in texts if n not in others)):
        finer = len(texts[[*keys, name]].drop_duplicates())
        if finer > count or (name in TITLES and texts[name].nunique() > 1):
            keys.append(name)
            count = finer
    return keys


def _named(name: str, value: str) -> str:
    return value if name in TITLES or not value else f"{name} {value}"


def _method(names: Mapping[str, str]) -> str:
    return f"{names['method']} {names['aggregator']}".strip()


def _runs(rows: pd.DataFrame, spent: Sequence[str], measured: Sequence[str]) -> pd.DataFrame:
    """The rows by run and record. Of a record that was written twice, the later counts."""
    count = rows.groupby("run").cumcount().astype(float)
    clock = "event" if "event" in spent else next(iter(spent), None)
    record = count if clock is None else rows[clock].fillna(count)
    index = pd.MultiIndex.from_arrays([rows["run"], record], names=["run", "record"])
    runs = rows[[*spent, *measured]].set_axis(index)
    return runs[~index.duplicated(keep="last")]


def _with_distinct_lines(found: list[Curve]) -> list[Curve]:
    """Adds the method to the name of every line that another one of its plot has, too."""
    places = [(c.plot, c.names["attack"], c.line, c.step) for c in found]
    counts = collections.Counter(places)
    return [
        dataclasses.replace(c, line=f"{c.line} ({_method(c.names)})") if counts[at] > 1 else c
        for c, at in zip(found, places, strict=True)
    ]


def best_steps(found: Sequence[Curve]) -> list[Curve]:
    """Of curves that differ only in their step size, the one that ends best.

    A curve whose end is not finite is chosen only where there is no other.
    """
    best: dict[tuple[str, ...], tuple[float, Curve]] = {}
    for curve in found:
        column = curve.measured[0]
        end = float(np.mean(curve.last(column))) * (1 if column in PERCENT else -1)
        end = end if math.isfinite(end) else -math.inf
        key = (curve.plot, *curve.names.values(), curve.line)
        if key not in best or end > best[key][0]:
            best[key] = end, curve
    return [curve for _, curve in best.values()]
