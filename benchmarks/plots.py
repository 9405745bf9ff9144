"""Plots of the time of an event against the number of runs and of parameters."""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farsign_jax.harness.plots import DASHES, save

Row = Mapping[str, Any]


def _line(row: Row) -> str:
    return row["method"] + ("" if row["delivery"] == "fresh" else f", {row['delivery']}")


def _panels(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """(title, column of the x axis, rows): a plot for each d, and one against d."""
    panels = []
    for d in dict.fromkeys(row["d"] for row in rows):
        panels.append((f"d = {d:,}", "runs", [row for row in rows if row["d"] == d]))
    runs = min(row["runs"] for row in rows)
    title = "one run" if runs == 1 else f"{runs} runs side by side"
    panels.append((title, "d", [row for row in rows if row["runs"] == runs]))
    return panels


def scaling(rows: Sequence[Row], out: pathlib.Path) -> None:
    """Draws microseconds per event and run against runs and against d, as PNG and PDF.

    Both axes are logarithmic. Each method has a line, with bars for the range and dashes for
    the floor. Skipped rows, and methods with a single row, are left out.
    """
    rows = [row for row in rows if "us" in row]
    points = collections.Counter(map(_line, rows))
    rows = [row for row in rows if points[_line(row)] > 1]
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")  # works without a display
    import matplotlib.pyplot as plt

    panels = _panels(rows)
    names = list(dict.fromkeys(map(_line, rows)))
    tones = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
    size = (4.4 * len(panels) + 0.6, 4.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (title, x, mine) in zip(axes[0], panels, strict=True):
        for number, name in enumerate(names):
            own = [row for row in mine if _line(row) == name]
            at, us = [row[x] for row in own], [row["us"] for row in own]
            bars = [[r["us"] - r["us_min"] for r in own], [r["us_max"] - r["us"] for r in own]]
            style = {"color": tones[number], "marker": "o", "ms": 3, "capsize": 2}
            style |= {"ls": DASHES[number % len(DASHES)], "lw": 2.2 if number == 0 else 1.2}
            axis.errorbar(at, us, yerr=bars, label=name, **style)
            floors = [np.nan if r["floor_us"] is None else r["floor_us"] for r in own]
            axis.plot(at, floors, color=tones[number], ls="", marker="_", alpha=0.6)
        axis.set_xscale("log")
        axis.set_yscale("log")
        places = sorted({row[x] for row in mine})
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(x)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("µs per event and run; –: floor")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    columns = 2 * len(panels)
    figure.tight_layout(rect=(0, 0.055 * -(-len(labels) // columns) + 0.02, 1, 1))
    below = {"loc": "lower center", "ncol": columns, "handlelength": 3.5}
    figure.legend(handles, labels, fontsize=8, **below)
    save(figure, out)
