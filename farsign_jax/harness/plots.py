"""Figures of the rows of experiments, as PNG and PDF."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from farsign_jax.harness.summary import Row, group_rows
from farsign_jax.io.files import atomic_write

# Lines differ in their dashes, too, so that they can be distinguished without colour.
DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 4)))


class Mark(NamedTuple):
    """A vertical line in a figure of curves, with a text."""

    at: float
    text: str
    strong: bool = False


def _pyplot() -> Any:
    """`matplotlib.pyplot`, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The colour, from dark to light, and the dashes of the line of each name."""
    import matplotlib.pyplot as plt

    tones = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
    return {
        name: {"color": tone, "ls": DASHES[i % len(DASHES)]}
        for i, (name, tone) in enumerate(zip(names, tones, strict=True))
    }


def _distinct(entries: Sequence[Row], column: str) -> list[Any]:
    return list(dict.fromkeys(entry[column] for entry in entries))


def needs_log_axis(columns: Sequence[np.ndarray]) -> bool:
    """Whether curves need a logarithmic axis for what they have spent.

    They do if one of them ends at more than ten times as much as another, which would be a
    vertical line on a linear axis.

    Args:
        columns: f64[E] of each curve. Values that are not finite are ignored.
    """
    known = [column[np.isfinite(column)] for column in columns]
    known = [column for column in known if len(column)]
    ends = [column[-1] for column in known]
    positive = all((column > 0).all() for column in known)
    return bool(ends) and positive and max(ends) > 10 * min(ends)


def curves(
    rows: Sequence[Row],
    out: pathlib.Path,
    xs: Sequence[str] = ("evaluations",),
    marks: Mapping[str, Sequence[Mark]] = {},
) -> None:
    """Draws accuracy against each of `xs`, one row of axes each, one column per attack.

    Lines are means over seeds, and bands range from the lowest to the highest seed. Axes are
    logarithmic where `needs_log_axis` says so. `marks`, by attack, are drawn against the first
    of `xs`.
    """
    _pyplot()
    save(draw(rows, xs, marks), out)


def draw(
    rows: Sequence[Row],
    xs: Sequence[str] = ("evaluations",),
    marks: Mapping[str, Sequence[Mark]] = {},
) -> Any:
    """Returns the figure of `curves`, as for a notebook, which shows it."""
    import matplotlib.pyplot as plt

    accuracy = group_rows(rows, "test_accuracy")
    methods = list(dict.fromkeys(method for method, _ in accuracy))
    attacks = list(dict.fromkeys(attack for _, attack in accuracy))
    size = (2.9 * len(attacks) + 0.6, 2.7 * len(xs) + 0.5)
    figure, axes = plt.subplots(
        len(xs), len(attacks), figsize=size, sharey=True, sharex="row", squeeze=False
    )
    styles = _styles(methods)
    for row, (x, line) in enumerate(zip(xs, axes, strict=True)):
        spent = {key: values.mean(axis=0) for key, values in group_rows(rows, x).items()}
        log = needs_log_axis([*spent.values()])
        for axis, attack in zip(line, attacks, strict=True):
            for number, method in enumerate(methods):
                if (method, attack) not in accuracy:
                    continue
                values, at = 100 * accuracy[method, attack], spent[method, attack]
                # The first method is drawn thicker and below the others, to hide none.
                width, above = (2.2, 2) if number == 0 else (1.2, 3)
                style = styles[method] | {"lw": width, "zorder": above}
                axis.plot(at, values.mean(axis=0), label=method, **style)
                low, high = values.min(axis=0), values.max(axis=0)
                axis.fill_between(at, low, high, color=style["color"], alpha=0.15, lw=0)
            if row == 0:
                _mark(axis, marks.get(attack, ()))
                name = attack.partition(":")[0]  # its options only where they distinguish it
                alone = [a.partition(":")[0] for a in attacks].count(name) == 1
                axis.set_title(name if alone else attack, fontsize=10)
            axis.set_xlabel(x)
            axis.set_ylim(0, 100)
            axis.grid(alpha=0.3)
            if log:
                axis.set_xscale("log")
            else:
                axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 5))
        line[0].set_ylabel("test accuracy, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    below = {"loc": "lower center", "ncol": min(len(labels), 4), "handlelength": 3.5}
    figure.tight_layout(rect=(0, 0.07 * (1 + (len(labels) - 1) // 4) * 2 / (len(xs) + 1), 1, 1))
    figure.legend(handles, labels, fontsize=8, **below)
    return figure


def _mark(axis: Any, marks: Sequence[Mark]) -> None:
    for number, (at, text, strong) in enumerate(marks):
        style = {"color": "tab:red" if strong else "0.4", "ls": "-" if strong else ":"}
        axis.axvline(at, lw=1, zorder=1, **style)
        # One below the other, as several strikes may follow each other quickly.
        height = 0.97 - 0.07 * (number % 12)
        where = {"transform": axis.get_xaxis_transform(), "va": "top"}
        axis.text(at, height, f" {text}", fontsize=6, color=style["color"], **where)


def save(figure: Any, out: pathlib.Path) -> None:
    """Writes PNG and PDF, each atomically, and closes the figure."""
    import matplotlib.pyplot as plt

    for kind in ("png", "pdf"):
        write = functools.partial(figure.savefig, format=kind, dpi=150, bbox_inches="tight")
        atomic_write(out.with_suffix(f".{kind}"), write)
    plt.close(figure)


def powers(
    entries: Sequence[Row],
    out: pathlib.Path,
    title: str,
    x: str,
    y: str,
    marker: str = ".",
    log_x: bool = True,
) -> None:
    """Draws `value` against `x`, one plot per `facet`, one line per `line`.

    The vertical axis is logarithmic where all values are positive, and the horizontal one, if
    `log_x`, where `x` grows by more than a factor of 20.
    """
    plt = _pyplot()
    facets = _distinct(entries, "facet")
    size = (4.4 * len(facets) + 0.6, 4.0)
    figure, axes = plt.subplots(1, len(facets), figsize=size, squeeze=False)
    for axis, facet in zip(axes[0], facets, strict=True):
        in_facet = [entry for entry in entries if entry["facet"] == facet]
        for name, style in _styles(_distinct(in_facet, "line")).items():
            own = [entry for entry in in_facet if entry["line"] == name]
            places, values = [e["x"] for e in own], [e["value"] for e in own]
            axis.plot(places, values, label=name, marker=marker, **style)
        if log_x and max(e["x"] for e in in_facet) > 20 * min(e["x"] for e in in_facet):
            axis.set_xscale("log")
        if min(entry["value"] for entry in in_facet) > 0:
            axis.set_yscale("log")
        axis.set(xlabel=x, ylabel=y)
        axis.set_title(facet, fontsize=9)
        axis.grid(alpha=0.3, which="both")
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.19)}
        axis.legend(fontsize=7, ncol=2, handlelength=3.5, **below)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save(figure, out)


def lines(entries: Sequence[Row], out: pathlib.Path, title: str, x: str, y: str) -> None:
    """Draws `value` against the rank of `x`, one plot per `facet`, one line per `line`.

    Values that are not finite are left out. The vertical axis is logarithmic where `y` is a
    time in seconds; otherwise it shows percent, from 0 to 100.
    """
    plt = _pyplot()
    facets = _distinct(entries, "facet")
    size = (max(4.6 * len(facets) + 0.4, 6.5), 4.6)
    figure, axes = plt.subplots(1, len(facets), figsize=size, squeeze=False)
    styles = _styles(_distinct(entries, "line"))
    for axis, facet in zip(axes[0], facets, strict=True):
        in_facet = [entry for entry in entries if entry["facet"] == facet]
        places = sorted({entry["x"] for entry in in_facet})
        for number, (name, style) in enumerate(styles.items()):
            own = [e for e in in_facet if e["line"] == name and np.isfinite(e["value"])]
            at, values = [places.index(e["x"]) for e in own], [e["value"] for e in own]
            style = style | {"marker": "o", "lw": 2.2 if number == 0 else 1.2, "ms": 3}
            axis.plot(at, values, label=name, **style)
        axis.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        axis.set(xlabel=x, ylabel=y)
        axis.set_title(facet, fontsize=9)
        axis.grid(alpha=0.3)
        if "seconds" not in y:
            axis.set_ylim(0, 100)
        elif any(len(line.get_xdata()) for line in axis.lines):
            axis.set_yscale("log")  # which matplotlib refuses on axes without data
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.suptitle(title, fontsize=11)
    columns = 3 if len(facets) == 1 else 5
    rows = -(-len(handles) // columns)
    figure.tight_layout(rect=(0, 0.042 * rows + 0.02, 1, 1))
    below = {"loc": "lower center", "ncol": columns, "handlelength": 3.5}
    figure.legend(handles.values(), handles.keys(), fontsize=8, **below)
    save(figure, out)


def heatmap(entries: Sequence[Row], out: pathlib.Path, title: str, x: str, y: str) -> None:
    """Draws `value`, in percent, of every `line` and `x` as a number on a shade."""
    plt = _pyplot()
    names, places = _distinct(entries, "line"), _distinct(entries, "x")
    table = np.full((len(names), len(places)), np.nan)
    for entry in entries:
        table[names.index(entry["line"]), places.index(entry["x"])] = entry["value"]
    figure, axis = plt.subplots(figsize=(0.75 * len(places) + 3.2, 0.36 * len(names) + 2.6))
    axis.imshow(table, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for i, j in np.ndindex(table.shape):
        if np.isfinite(table[i, j]):
            tone = "black" if table[i, j] > 60 else "white"
            axis.text(j, i, f"{table[i, j]:.0f}", ha="center", va="center", color=tone, size=8)
    axis.set_xticks(range(len(places)), places, rotation=35, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel(x)
    axis.set_title(f"{title} ({y})", fontsize=10)
    figure.tight_layout()
    save(figure, out)
