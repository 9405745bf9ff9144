"""Turns the rows of a results folder into curves.

A curve is a group of runs that differ only in their seed. Which columns identify a curve is
inferred from the rows, because every command writes columns of its own.
"""

import dataclasses
import io
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from farsign_jax.config.panel_config import PanelConfig

# What a run has spent when a record is taken. The first available column is the default axis:
# events, along which methods overlap however much an answer of theirs costs.
SPENT = {
    "event": "events",
    "evaluations": "evaluations",
    "seconds": "seconds",
    "virtual_seconds": "virtual seconds",
    "bits_up": "bits sent",
}
# What a record measures. The first available column is shown first.
MEASURED = {
    "test_accuracy": "test accuracy, %",
    "worst_class": "accuracy of the worst class, %",
    "backdoor_success": "success of the backdoor, %",
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
PERCENT = ("test_accuracy", "worst_class", "backdoor_success")
DIAGNOSTICS = (
    "staleness",
    "nonfinite",
    "largest_staleness",
    "mean_square_staleness",
    "farthest",
)
REPLICATES = ("seed", "run")  # runs that differ in nothing else form one curve
NAMES = ("method", "aggregator", "attack")
SHORT_NAMES = ("line", "variant")  # commands give them to a method and its options
# These columns distinguish the lines of a plot. All others distinguish plots, PLOTS first.
LINES = (*SHORT_NAMES, "step_size", "power", "gamma", "noise", "alpha", "beta", "p")
PLOTS = ("figure", "facet", "x")
TITLES = ("figure", "facet")  # their values need no column name beside them
SETTINGS = tuple(field.name for field in dataclasses.fields(PanelConfig))
# An unknown column with more distinct numbers than this is a measurement, not a setting.
MAX_SETTING_VALUES = 20


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of one folder.

    Attributes:
        names: One row per curve: its method, aggregator and attack ("" where there is none);
            `plot`, which with the attack names its plot, as in "partition iid", or ""; `line`,
            its name in the plot; and `step`, its step size where the line has several, else "".
        records: One row per record of a run, in the order of the records: the number of the
            curve in `names`, the run, the record, and the columns of what had been spent and of
            what was measured. Accuracies are in percent.
        present: bool[curves, columns]: which of these columns each curve has.
        measured: The columns of what was measured.
    """

    names: pd.DataFrame
    records: pd.DataFrame
    present: pd.DataFrame
    measured: list[str]

    @property
    def runs(self) -> int:
        return len(self.records[["curve", "run"]].drop_duplicates())

    def last(self) -> pd.DataFrame:
        """The measurements at the last record of each run, by curve and run."""
        last = self.records.drop_duplicates(["curve", "run"], keep="last")
        return last.set_index(["curve", "run"])[self.measured]

    def best(self) -> pd.DataFrame:
        """The largest measurements of each run; NaN if none is a number."""
        return self.records.groupby(["curve", "run"], sort=False)[self.measured].max()

    def first_measured(self) -> pd.Series:
        """The first column that each curve measures."""
        return self.present[self.measured].idxmax(axis=1)

    def select(self, curves: list[Any]) -> "Curves":
        """The curves of these numbers only."""
        return dataclasses.replace(
            self,
            names=self.names.loc[curves],
            records=self.records[self.records["curve"].isin(curves)],
            present=self.present.loc[curves],
        )

    def drawn(self) -> "Curves":
        """The curves of more than one record that measure something."""
        spent = self.present.columns.difference(self.measured)
        counts = self.records.groupby("curve")["record"].nunique()
        has = self.present[spent].any(axis=1) & self.present[self.measured].any(axis=1)
        return self.select(self.names.index[has & (counts > 1)].tolist())

    def best_steps(self) -> "Curves":
        """Of curves that differ only in their step size, the one that ends best.

        A curve that does not end in finite numbers is chosen only where there is no other.
        """
        ends = self.last().mul([1 if name in PERCENT else -1 for name in self.measured])
        ends = ends.where(np.isfinite(ends), -np.inf).groupby("curve").mean()
        scores = pd.Series({n: ends[name][n] for n, name in self.first_measured().items()})
        others = [self.names[name] for name in self.names if name != "step"]
        return self.select(scores.groupby(others, sort=False).idxmax().tolist())


def read_rows(content: bytes) -> pd.DataFrame:
    """Parses results.csv: every value as text, "" where a row has none.

    Raises:
        ValueError: if the file is no table in CSV.
    """
    file = io.BytesIO(content)
    rows = pd.read_csv(file, dtype=str, keep_default_na=False, encoding_errors="replace")
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


def curves(rows: pd.DataFrame, varied: Collection[str] = ()) -> Curves:
    """Groups the rows of a folder into curves, in the order of the rows.

    Args:
        rows: As `read_rows` gives them.
        varied: The columns that are known to be settings.
    """
    columns: list[str] = list(dict.fromkeys([*NAMES, *map(str, rows.columns)]))
    rows = rows.reindex(columns=columns, fill_value="").astype(object)
    texts = pd.DataFrame({name: shown(rows[name]) for name in columns})
    measured = [name for name in columns if _is_measured(name, rows, varied)]
    measured.sort(key=[*MEASURED, *measured].index)
    keys = _identifying(texts, measured)
    curve = texts.groupby(keys, sort=False).ngroup()
    run = pd.Series("", index=texts.index)
    for name in reversed([name for name in REPLICATES if name in texts]):
        run = texts[name].where(texts[name] != "", run)
    known = [name for name in (*SPENT, *measured) if name in rows]
    records = pd.DataFrame({n: numbers(rows[n]) * (100 if n in PERCENT else 1) for n in known})
    clock = records.reindex(columns=["event", *SPENT]).bfill(axis=1).iloc[:, 0]
    records = records.assign(curve=curve, run=run)
    records["record"] = clock.fillna(records.groupby(["curve", "run"]).cumcount())
    records = records.sort_values("record", kind="stable")
    return Curves(
        names=_names(texts[~curve.duplicated()].reset_index(drop=True), keys),
        # Of a record that was written twice, the later one counts.
        records=records.drop_duplicates(["curve", "run", "record"], keep="last"),
        present=(rows[known] != "").groupby(curve).any(),
        measured=measured,
    )


def _is_measured(name: str, rows: pd.DataFrame, varied: Collection[str]) -> bool:
    known = (*SPENT, *DIAGNOSTICS, *REPLICATES, *NAMES, *LINES, *PLOTS, *SETTINGS, *varied)
    if name in MEASURED or name in known:
        return name in MEASURED
    return numbers(rows[name]).nunique() > MAX_SETTING_VALUES


def _identifying(texts: pd.DataFrame, measured: Collection[str]) -> list[str]:
    """The columns that identify a curve, without those that follow from the others."""
    others = {*SPENT, *DIAGNOSTICS, *REPLICATES, *NAMES, *measured}
    keys = [*NAMES]
    count = len(texts[keys].drop_duplicates())
    for name in dict.fromkeys([*LINES, *PLOTS, *map(str, texts.columns)]):
        if name not in texts or name in others:
            continue
        finer = len(texts[[*keys, name]].drop_duplicates())
        if finer > count or (name in TITLES and texts[name].nunique() > 1):
            keys.append(name)
            count = finer
    return keys


def _names(heads: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """`Curves.names`, from the first row of each curve and the columns that identify it."""
    lines = [n for n in keys if n in LINES and n not in (*SHORT_NAMES, "step_size")]
    plots = [name for name in keys if name not in (*NAMES, *LINES)]
    rows = heads.to_dict("records")
    method = (heads["method"] + " " + heads["aggregator"]).str.strip()
    short = [next((row[n] for n in SHORT_NAMES if row.get(n)), "") for row in rows]
    names = (
        heads[[*NAMES]]
        .assign(
            plot=[", ".join(_named(row, plots)) for row in rows],
            line=[
                " ".join(filter(None, (name or own, *_named(row, lines))))
                for name, own, row in zip(short, method, rows, strict=True)
            ],
            step=heads["step_size"] if "step_size" in keys else "",
        )
        .astype(object)
    )  # also of none
    ambiguous = names.duplicated(["plot", "attack", "line", "step"], keep=False)
    names["line"] = names["line"].mask(ambiguous, names["line"] + " (" + method + ")")
    return names


def _named(row: Mapping[Hashable, str], columns: Sequence[str]) -> Iterator[str]:
    """The values of these columns, each after the name of its column where it needs one."""
    for name in columns:
        if value := row[name]:
            yield value if name in TITLES else f"{name} {value}"
