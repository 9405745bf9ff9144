"""The data and the Vega-Lite specification of the interactive plots."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from farsign_jax.harness.plots import needs_log_axis
from farsign_jax.harness.report.series import MEASURED, PERCENT, SPENT, Curves
from farsign_jax.io import files

MAX_RECORDS = 60  # drawn of a curve
MAX_NAMED_SEEDS = 10  # with more of them, the lowest and the highest value are drawn
COLOURS = 10  # the page's custom properties --line-0, --line-1, ...
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
AXIS_STYLE = {
    **dict.fromkeys(("labelColor", "titleColor"), "var(--muted)"),
    **dict.fromkeys(("gridColor", "domainColor", "tickColor"), "var(--rule)"),
    **dict.fromkeys(("labelFontSize", "titleFontSize"), 11),
    "titleFontWeight": "normal",
    "tickCount": 5,
    "labelOverlap": True,
}


def strokes(lines: Iterable[str]) -> list[tuple[str, list[int]]]:
    """The colour and the dashes of each line. Dashes alone distinguish lines, too; beyond ten
    lines, colours repeat with other dashes."""
    return [
        (f"var(--line-{i % COLOURS})", [*DASHES[(i + i // COLOURS) % len(DASHES)]])
        for i, _ in enumerate(lines)
    ]


def data(curves: Curves) -> dict[str, Any]:
    """What the page's script needs to draw these curves of one folder.

    Curves are thinned to `MAX_RECORDS` records. JSON has no numbers that are not finite: these
    are texts, as "NaN". A record that a run does not have is null.
    """
    records, seeds = curves.records, curves.records["run"].unique()
    runs = {"min": "lowest", "max": "highest"}
    if len(seeds) <= MAX_NAMED_SEEDS:
        runs = {seed: f"seed {seed}" if seed else "value" for seed in seeds}
    spent = [name for name in SPENT if curves.present.get(name, pd.Series(False)).any()]
    measured = [name for name in curves.measured if curves.present[name].any()]
    means = records.groupby(["curve", "record"])[spent].mean()
    own: Any = dict(iter(records.groupby("curve")[["run", "record", "curve", *measured]]))
    names: Any = curves.names.drop(columns="step").to_dict("index")
    return {
        "spec": specification(curves.names["line"].unique(), len(runs)),
        "runs": [*runs.values()],
        "x": {n: _axis(n, [each for _, each in means[n].groupby("curve")]) for n in spent},
        "y": {n: _axis(n, [records[n]], shared=True) for n in measured},
        "curves": [
            each | _points(own[curve], means.loc[curve], curves.present.loc[curve], list(runs))
            for curve, each in names.items()
        ],
    }


def _points(
    rows: pd.DataFrame, spent: pd.DataFrame, present: pd.Series, runs: Sequence[str]
) -> dict[str, Any]:
    """A curve as columns: of each measurement its mean, then its value in each of `runs`."""
    tables = rows.pivot(index="run", columns="record")
    recorded = tables["curve"].notna()
    complete, count = recorded.all(), recorded.shape[1]
    kept = np.unique(np.linspace(0, count - 1, min(count, MAX_RECORDS)).round().astype(int))

    def line(values: Any, known: Any) -> list[float | int | str | None]:
        pairs = zip(np.asarray(values)[kept], np.asarray(known)[kept], strict=True)
        return [_number(value) if is_known else None for value, is_known in pairs]

    def lines(values: Any) -> Iterator[list[Any]]:
        yield line(values.mean(skipna=False), complete)
        for run in runs:
            if run in values.index:
                yield line(values.loc[run], recorded.loc[run])
            elif run in ("min", "max"):
                yield line(values.agg(run, skipna=False), complete)
            else:
                yield [None] * len(kept)

    return {
        "x": {n: line(spent[n], np.isfinite(spent[n])) for n in map(str, spent) if present[n]},
        "y": {n: [*lines(tables[n])] for n in map(str, rows.columns[3:]) if present[n]},
    }


def _number(value: float) -> float | int | str:
    if math.isfinite(value):
        return int(value) if value == int(value) else float(f"{value:.6g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _axis(name: str, columns: Iterable[pd.Series], shared: bool = False) -> dict[str, Any]:
    """The title and the scale of an axis.

    The scale is logarithmic where the values span more than two decades (three for counts), and
    for what was spent also where `needs_log_axis` says so; never for percent. Where it is
    `shared`, as what was measured is, all plots of the folder have the same domain.
    """
    known = [np.asarray(column, float) for column in columns]
    every = np.concatenate(known)
    every = every[np.isfinite(every)]
    scale: dict[str, Any] = {"zero": False, "nice": True}
    if len(every):
        low, high = every.min(), every.max()
        decades = 3 if name in ("event", "evaluations", "bits_up") else 2
        wide = low > 0 and high > 10**decades * low
        if name not in PERCENT and (wide or (not shared and needs_log_axis(known))):
            scale = {"type": "log", "nice": True}
        if shared and low < high:
            scale["domain"] = [float(f"{low:.6g}"), float(f"{high:.6g}")]
    return {"title": (SPENT | MEASURED).get(name, name), "scale": scale}


def specification(lines: Iterable[str], runs: int) -> dict[str, Any]:
    """Means as lines. The line nearest to the pointer also shows each of its runs.

    The data are the dataset "curves" with the columns line, x, mean, run0, run1, ... and
    tooltip. The page adds the scales and the titles of the axes.
    """
    domain, style = list(lines), strokes(lines)
    colours = alt.Scale(domain=domain, range=[colour for colour, _ in style])
    dashes = alt.Scale(domain=domain, range=[dash for _, dash in style])
    near = alt.selection_point(
        "near",
        fields=["line", "x"],
        nearest=True,
        on="pointerover",
        clear="pointerout",
        empty=False,
    )
    base = alt.Chart().encode(
        x=alt.X("x:Q"), color=alt.Color("line:N", scale=colours, legend=None)
    )
    mean = alt.Y("mean:Q")
    dash = alt.StrokeDash("line:N", scale=dashes, legend=None)
    means = base.mark_line(strokeWidth=2).encode(y=mean, strokeDash=dash)
    is_near = "isValid(near.line) && near.line[0] == datum.line"
    each = (
        base.transform_fold([f"run{i}" for i in range(runs)], as_=["run", "value"])
        .mark_line(strokeWidth=1)
        .encode(y=alt.Y("value:Q"), detail="run:N")
        .encode(opacity=alt.condition(is_near, alt.value(0.6), alt.value(0)))
    )
    # The area nearest to a point receives the pointer, and has the point as its datum.
    tooltip = alt.value(alt.expr("datum.tooltip || datum.datum.tooltip"))
    points = (
        base.transform_filter("isNumber(datum.mean)")
        .mark_point(filled=True, size=60)
        .encode(y=mean, tooltip=tooltip)
        .encode(opacity=alt.condition(near, alt.value(1), alt.value(0)))
        .properties(name="points")
        .add_params(near)
    )
    chart = alt.layer(each, means, points, data=alt.NamedData("curves"))
    chart = chart.properties(width="container", height=220).configure(
        background="transparent",
        font="system-ui, sans-serif",
        view={"stroke": "transparent"},
        axis=AXIS_STYLE,
    )
    spec = chart.to_dict()
    del spec["$schema"]  # an address; the page refers to none
    return spec


def script(found: Mapping[str, Any]) -> str:
    """JSON for a <script> element: no text in it can end the element."""
    text = files.json_text(found, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
