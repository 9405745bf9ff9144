"""Summaries of the rows of a panel: one entry for each method, aggregator and attack.

They are NumPy, not pandas: every command needs them, pandas is a dependency of the report
alone, and its means over groups are compensated sums, which differ in the last bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]

TARGETS = (0.80, 0.85)
SPENT = {
    "events": "event",
    "evaluations": "evaluations",
    "bits": "bits_up",
    "seconds": "seconds",
}


def label(row: Row) -> str:
    """The method, with its aggregator where it has one."""
    return f"{row['method']} {row['aggregator']}".strip()


def group_rows(rows: Sequence[Row], column: str) -> dict[tuple[str, str], np.ndarray]:
    """Maps (label, attack) to the column as f64[seeds, records], in the order of the rows."""
    runs: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        seeds = runs.setdefault((label(row), row["attack"]), {})
        seeds.setdefault(row["seed"], []).append(row[column])
    return {key: np.asarray(list(seeds.values())) for key, seeds in runs.items()}


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Summarises every method, aggregator and attack.

    Returns:
        One entry each, with these values:

        - last, last_std: the mean and the standard deviation over seeds of the accuracy at the
          last record, which last_per_seed lists.
        - best, best_std, best_per_seed: the same of the best accuracy of each seed, which is
          found on the examples that it is measured with.
        - backdoor_success, and with _std and _per_seed: the same of this column at the last
          record, for attacks that record it.
        - diverged: the number of seeds whose `test_loss` is not finite at the last record.
        - events_to_80, evaluations_to_80, bits_to_80, seconds_to_80: the means over seeds of
          what had been spent at the first record at which the mean accuracy over seeds is at
          least 80 %; None if there is no such record. Likewise for 85 %.
        - The same names with _per_seed: lists of what each seed had spent when its own
          accuracy was first that high.
    """
    accuracy = group_rows(rows, "test_accuracy")
    spent = {name: group_rows(rows, column) for name, column in SPENT.items()}
    success = _of_some(rows, "backdoor_success")
    losses = _of_some(rows, "test_loss")
    names = {(label(row), row["attack"]): row for row in reversed(rows)}
    summary = []
    for key, curves in accuracy.items():
        entry: dict[str, Any] = {n: names[key][n] for n in ("method", "aggregator", "attack")}
        entry |= {
            "diverged": count_diverged(losses[key]) if key in losses else 0,
        }
        found = {"last": curves[:, -1], "best": curves.max(axis=1)}
        if key in success:
            found["backdoor_success"] = success[key][:, -1]
        for name, per_seed in found.items():
            entry[name] = float(per_seed.mean())
            entry[f"{name}_std"] = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else 0.0
            entry[f"{name}_per_seed"] = per_seed.tolist()
        for target in TARGETS:
            at = _first(curves.mean(axis=0), target)
            per_seed = [_first(curve, target) for curve in curves]
            for name, series in spent.items():
                column, to = series[key], f"{name}_to_{100 * target:.0f}"
                entry[to] = None if at is None else float(column[:, at].mean())
                entry[f"{to}_per_seed"] = [
                    None if i is None else float(own[i])
                    for own, i in zip(column, per_seed, strict=True)
                ]
        summary.append(entry)
    return summary


def _of_some(rows: Sequence[Row], column: str) -> dict[tuple[str, str], np.ndarray]:
    """`group_rows` of the rows that have this column."""
    return group_rows([row for row in rows if column in row], column)


def _first(curve: np.ndarray, target: float) -> int | None:
    reached = np.flatnonzero(curve >= target)
    return int(reached[0]) if len(reached) else None


def count_diverged(losses: np.ndarray) -> int:
    """The number of runs whose last loss, of f64[runs, records], is not finite."""
    return int((~np.isfinite(losses[:, -1])).sum())


def mark(diverged: int, runs: int) -> str:
    """What a table says behind the accuracy of runs of which some have diverged."""
    if diverged == 0:
        return ""
    return " (diverged)" if diverged == runs else f" ({diverged} of {runs} diverged)"


def accuracy(entry: Row, name: str, with_std: bool = False) -> str:
    """An accuracy in an entry of `summarise`, in percent, marked where runs have diverged."""
    text = percent(entry[name], entry[f"{name}_std"] if with_std else None)
    return text + mark(entry["diverged"], len(entry[f"{name}_per_seed"]))


def percent(value: float, std: float | None = None) -> str:
    """A fraction in percent, as in `86.2` or `86.2 ± 0.4`."""
    text = f"{100 * value:.1f}"
    return text if std is None else f"{text} ± {100 * std:.1f}"
