"""What is read off the rows of a panel: one line for each method, aggregator and attack."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


TARGETS = (0.80, 0.85)


def label(row: Row) -> str:
    """The method, with its aggregator where it has one."""
    return f"{row['method']} {row['aggregator']}".strip()


def group_rows(rows: Sequence[Row], column: str) -> dict[tuple[str, str], np.ndarray]:
    """(label, attack) -> f64[seeds, records], in the order of the rows."""
    runs: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        lanes = runs.setdefault((label(row), row["attack"]), {})
        lanes.setdefault(row["seed"], []).append(row[column])
    return {name: np.asarray(list(lanes.values())) for name, lanes in runs.items()}


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per method, aggregator and attack.

    `best` is the mean over seeds of the best accuracy of each seed, `std` its deviation over
    seeds; `evaluations_to_80`, `seconds_to_80` and `bits_to_80` belong to the first record at
    which the mean accuracy over seeds is at least 80 % (None: never), likewise 85. Per-seed
    values are lists with the same meaning for one seed.
    """
    accuracy = group_rows(rows, "test_accuracy")
    columns = {"events": "event", "evaluations": "evaluations", "bits": "bits_up"}
    spent = {n: group_rows(rows, c) for n, c in (columns | {"seconds": "seconds"}).items()}
    names = {(label(row), row["attack"]): row for row in reversed(rows)}
    summary = []
    for key, curves in accuracy.items():
        best = curves.max(axis=1)
        entry: dict[str, Any] = {n: names[key][n] for n in ("method", "aggregator", "attack")}
        entry |= {
            "best": float(best.mean()),
            "std": float(best.std(ddof=1)) if len(best) > 1 else 0.0,
            "final": float(curves[:, -1].mean()),
            "best_per_seed": best.tolist(),
        }
        for target in TARGETS:
            at = _first(curves.mean(axis=0), target)
            per_seed = [_first(curve, target) for curve in curves]
            for name, series in spent.items():
                column, to = series[key], f"{name}_to_{100 * target:.0f}"
                entry[to] = None if at is None else float(column[:, at].mean())
                entry[f"{to}_per_seed"] = [
                    None if i is None else float(column[lane, i])
                    for lane, i in enumerate(per_seed)
                ]
        summary.append(entry)
    return summary


def _first(curve: np.ndarray, target: float) -> int | None:
    reached = np.flatnonzero(curve >= target)
    return int(reached[0]) if len(reached) else None


def percent(value: float, std: float | None = None) -> str:
    text = f"{100 * value:.1f}"
    return text if std is None else f"{text} ± {100 * std:.1f}"
