"""Curves as the data and the Vega-Lite specification of interactive plots.

Not an experiment itself: what `experiments.report` puts into its page.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from farsign_jax.harness.series import MEASURED, PERCENT, SPENT, Cell, unlike

RECORDS = 60  # of a curve that are drawn, at most


NAMED = 10  # seeds that are named one by one, at most


COLOURS = 10  # custom properties --line-0 ... of the page


DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))


def strokes(lines: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dash of each line: told apart without colour too, past ten of them."""
    return {
        line: (f"var(--line-{i % COLOURS})", ",".join(map(str, _dash(i))))
        for i, line in enumerate(lines)
    }


def _dash(number: int) -> tuple[int, ...]:
    return DASHES[(number + number // COLOURS) % len(DASHES)]


def data(found: Sequence[Cell], lines: Sequence[str]) -> dict[str, Any]:
    """What the page's script needs to draw the curves of one folder.

    Each cell is thinned to RECORDS records. Values that are not finite are their names, as
    JSON has none for them; what is not there is null.
    """
    runs = list(dict.fromkeys(seed for cell in found for seed in cell.seeds))
    ranged = len(runs) > NAMED
    runs = ["lowest", "highest"] if ranged else [_run(seed) for seed in runs]
    xs = [name for name in SPENT if any(name in cell.spent for cell in found)]
    measured = dict.fromkeys(name for cell in found for name in cell.measured)
    ys = sorted(measured, key=lambda name: list([*MEASURED, name]).index(name))
    return {
        "spec": specification(lines, len(runs)),
        "runs": runs,
        "x": {
            name: _axis(name, SPENT, [cell.spent.get(name) for cell in found]) for name in xs
        },
        "y": {
            name: _axis(name, MEASURED, [cell.measured.get(name) for cell in found], True)
            for name in ys
        },
        "cells": [_cell(cell, runs, ranged) for cell in found],
    }


def _run(seed: str) -> str:
    return f"seed {seed}" if seed else "value"


def _cell(cell: Cell, runs: Sequence[str], ranged: bool) -> dict[str, Any]:
    count = cell.there.shape[1]
    kept = np.unique(np.linspace(0, count - 1, min(count, RECORDS)).round().astype(int))
    whole = np.asarray(cell.there.all(axis=0))

    def lines(column: np.ndarray) -> list[list[Any]]:
        means = _told(column.mean(axis=0), whole, kept)
        if ranged:
            some = [column.min(axis=0), column.max(axis=0)]
            return [means, *(_told(values, whole, kept) for values in some)]
        own = dict(zip(map(_run, cell.seeds), range(len(column)), strict=True))
        missing = [None] * len(kept)
        return [means] + [
            _told(column[own[run]], cell.there[own[run]], kept) if run in own else missing
            for run in runs
        ]

    return {
        **cell.names,
        "plot": cell.plot,
        "line": cell.line,
        "x": {
            name: _told(v, np.asarray(np.isfinite(v)), kept) for name, v in cell.spent.items()
        },
        "y": {name: lines(column) for name, column in cell.measured.items()},
    }


def _told(values: np.ndarray, there: np.ndarray, kept: np.ndarray) -> list[Any]:
    return [_number(float(values[i])) if there[i] else None for i in kept]


def _number(value: float) -> float | int | str:
    if math.isfinite(value):
        return int(value) if value == int(value) else float(f"{value:.6g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _axis(
    name: str, titles: Any, columns: Sequence[Any], shared: bool = False
) -> dict[str, Any]:
    """Title and scale of an axis; `shared`: what was measured, the same for all plots of the
    folder, else what was spent.

    Logarithmic where values span more than two decades, or three of what is counted, but for
    percent; and where curves are `unlike` in what they have spent.
    """
    known = [np.ravel(values) for values in columns if values is not None]
    every = np.concatenate(known)
    every = every[np.isfinite(every)]
    scale: dict[str, Any] = {"zero": False, "nice": True}
    if len(every):
        low, high = every.min(), every.max()
        decades = 3 if name in ("event", "evaluations", "bits_up") else 2
        wide = low > 0 and high > 10**decades * low
        if name not in PERCENT and (wide or (not shared and unlike(known))):
            scale = {"type": "log", "nice": True}
        if shared and low < high:
            scale["domain"] = [float(f"{low:.6g}"), float(f"{high:.6g}")]
    return {"title": titles.get(name, name), "scale": scale}


def specification(lines: Sequence[str], runs: int) -> dict[str, Any]:
    """Means as lines; under the pointer, the nearest of them with each of its runs.

    The data are the dataset "curves" of {line, x, mean, run0, run1, ..., told}, where `told` is
    what the pointer tells; scales and titles of the axes are left to the page.
    """
    style = strokes(lines)
    colours = alt.Scale(domain=[*style], range=[colour for colour, _ in style.values()])
    dashes = alt.Scale(domain=[*style], range=[[*_dash(i)] for i in range(len(style))])
    colour = alt.Color("line:N", scale=colours, legend=None)
    dash = alt.StrokeDash("line:N", scale=dashes, legend=None)
    near = alt.selection_point(
        "near",
        fields=["line", "x"],
        nearest=True,
        on="pointerover",
        clear="pointerout",
        empty=False,
    )
    base = alt.Chart().encode(x=alt.X("x:Q"), color=colour)
    means = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q"), strokeDash=dash)
    own = "isValid(near.line) && near.line[0] == datum.line"
    each = (
        base.transform_fold([f"run{i}" for i in range(runs)], as_=["run", "value"])
        .mark_line(strokeWidth=1)
        .encode(y=alt.Y("value:Q"), detail="run:N")
        .encode(opacity=alt.condition(own, alt.value(0.6), alt.value(0)))
    )
    points = base.transform_filter("isNumber(datum.mean)").mark_point(filled=True, size=60)
    # What hears the pointer is the area nearest to a point, whose datum is the point.
    told = alt.value(alt.expr("datum.told || datum.datum.told"))
    points = points.encode(y=alt.Y("mean:Q"), tooltip=told)
    points = points.encode(opacity=alt.condition(near, alt.value(1), alt.value(0)))
    points = points.properties(name="points").add_params(near)
    chart = alt.layer(each, means, points, data=alt.NamedData("curves"))
    chart = chart.properties(width="container", height=220)
    spec = chart.configure(**CONFIG).to_dict()
    del spec["$schema"]  # an address, which nothing here may ask
    return spec


CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "gridColor": "var(--rule)",
        "domainColor": "var(--rule)",
        "tickColor": "var(--rule)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "tickCount": 5,
        "labelOverlap": True,
    },
}


def script(found: dict[str, Any]) -> str:
    """JSON that may stand in a <script>: no text in it can end the element."""
    text = json.dumps(found, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
