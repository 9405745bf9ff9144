"""What is read off the rows of a panel: summaries, tables, curves."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
TARGETS = (0.80, 0.85)


def _series(rows: Sequence[Row], column: str) -> dict[tuple[str, str], np.ndarray]:
    """(method, attack) -> f64[seeds, records], in the order of the rows."""
    runs: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        lanes = runs.setdefault((row["method"], row["attack"]), {})
        lanes.setdefault(row["seed"], []).append(row[column])
    return {name: np.asarray(list(lanes.values())) for name, lanes in runs.items()}


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per method and attack.

    `best` is the mean over seeds of the best accuracy of each seed, `std` its deviation over
    seeds; `evaluations_to_80` and `seconds_to_80` belong to the first record at which the
    mean accuracy over seeds is at least 80 % (None: never), likewise 85. Per-seed values are
    lists with the same meaning for one seed. Seconds are the loop's, measuring excluded.
    """
    accuracy, evaluations, seconds = (
        _series(rows, column) for column in ("test_accuracy", "evaluations", "seconds")
    )
    summary = []
    for (method, attack), curves in accuracy.items():
        calls, clock = evaluations[method, attack], seconds[method, attack]
        best = curves.max(axis=1)
        entry: dict[str, Any] = {
            "method": method,
            "attack": attack,
            "best": float(best.mean()),
            "std": float(best.std(ddof=1)) if len(best) > 1 else 0.0,
            "final": float(curves[:, -1].mean()),
            "best_per_seed": best.tolist(),
        }
        for target in TARGETS:
            label = f"{100 * target:.0f}"
            at = _first(curves.mean(axis=0), target)
            entry[f"evaluations_to_{label}"] = None if at is None else int(calls[0, at])
            entry[f"seconds_to_{label}"] = None if at is None else float(clock[:, at].mean())
            per_seed = [_first(curve, target) for curve in curves]
            for name, column in (("evaluations", calls), ("seconds", clock)):
                entry[f"{name}_to_{label}_per_seed"] = [
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


def curves(rows: Sequence[Row], out: pathlib.Path, x: str = "evaluations") -> None:
    """Accuracy against `x`, one panel per attack, mean and range over seeds; PNG and PDF."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    accuracy, places = _series(rows, "test_accuracy"), _series(rows, x)
    methods = list(dict.fromkeys(method for method, _ in accuracy))
    attacks = list(dict.fromkeys(attack for _, attack in accuracy))
    figure, axes = plt.subplots(
        1, len(attacks), figsize=(2.9 * len(attacks) + 0.6, 3.0), sharey=True, squeeze=False
    )
    for axis, attack in zip(axes[0], attacks, strict=True):
        for number, method in enumerate(methods):
            if (method, attack) not in accuracy:
                continue
            values, at = 100 * accuracy[method, attack], places[method, attack].mean(axis=0)
            color = f"C{number}"
            axis.plot(at, values.mean(axis=0), color=color, label=method)
            axis.fill_between(
                at, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, lw=0
            )
        axis.set_title(attack.replace(":", " "), fontsize=10)
        axis.set_xlabel(x)
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 5))
    axes[0, 0].set_ylabel("test accuracy, %")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".pdf"):
        figure.savefig(out.with_suffix(suffix), dpi=150)
    plt.close(figure)
