"""What is read off the rows of a panel: summaries, tables, curves."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from farsign_jax.harness.series import unlike
from farsign_jax.harness.summary import Row, group_rows
from farsign_jax.io.files import atomic_write

# Told apart without colour, too: every line has a dash of its own.
DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 4)))


def curves(
    rows: Sequence[Row], out: pathlib.Path, xs: Sequence[str] = ("evaluations",)
) -> None:
    """Accuracy against each of `xs`, a row of panels each; one column per attack; PNG and PDF.

    Lines are means over seeds, bands their range. Axes are logarithmic where curves are
    `unlike` one another.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    save(draw(rows, xs), out)


def draw(rows: Sequence[Row], xs: Sequence[str] = ("evaluations",)) -> Any:
    """The figure of `curves`, for whoever shows it: a notebook does by itself."""
    import matplotlib.pyplot as plt

    accuracy = group_rows(rows, "test_accuracy")
    methods = list(dict.fromkeys(method for method, _ in accuracy))
    attacks = list(dict.fromkeys(attack for _, attack in accuracy))
    size = (2.9 * len(attacks) + 0.6, 2.7 * len(xs) + 0.5)
    figure, axes = plt.subplots(
        len(xs), len(attacks), figsize=size, sharey=True, sharex="row", squeeze=False
    )
    # Dark to light, and the first one, ours, drawn on top.
    tones = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(methods)))
    for row, (x, line) in enumerate(zip(xs, axes, strict=True)):
        places = group_rows(rows, x)
        log = unlike([of_seeds.mean(axis=0) for of_seeds in places.values()])
        for axis, attack in zip(line, attacks, strict=True):
            for number, method in enumerate(methods):
                if (method, attack) not in accuracy:
                    continue
                values, at = 100 * accuracy[method, attack], places[method, attack].mean(axis=0)
                style = {"color": tones[number], "ls": DASHES[number % len(DASHES)]}
                style |= {"lw": 2.2 if number == 0 else 1.2, "zorder": 3 if number == 0 else 2}
                axis.plot(at, values.mean(axis=0), label=method, **style)
                low, high = values.min(axis=0), values.max(axis=0)
                axis.fill_between(at, low, high, color=tones[number], alpha=0.15, lw=0)
            if row == 0:
                name = attack.partition(":")[0]  # with its options only where it must
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


def save(figure: Any, out: pathlib.Path) -> None:
    """PNG and PDF, each written whole, and the figure closed."""
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
    """`value` against `x`, one plot per `facet`; logarithmic where that shows more."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    facets = list(dict.fromkeys(entry["facet"] for entry in entries))
    size = (4.4 * len(facets) + 0.6, 4.0)
    figure, axes = plt.subplots(1, len(facets), figsize=size, squeeze=False)
    for axis, facet in zip(axes[0], facets, strict=True):
        mine = [entry for entry in entries if entry["facet"] == facet]
        names = list(dict.fromkeys(entry["line"] for entry in mine))
        tones = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
        for number, name in enumerate(names):
            own = [entry for entry in mine if entry["line"] == name]
            style = {
                "color": tones[number],
                "ls": DASHES[number % len(DASHES)],
                "marker": marker,
            }
            axis.plot([e["x"] for e in own], [e["value"] for e in own], label=name, **style)
        if log_x and max(e["x"] for e in mine) > 20 * min(e["x"] for e in mine):
            axis.set_xscale("log")
        if min(entry["value"] for entry in mine) > 0:
            axis.set_yscale("log")
        axis.set_title(facet, fontsize=9)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save(figure, out)


def lines(entries: Sequence[Row], out: pathlib.Path, title: str, x: str, y: str) -> None:
    """`value` against `x`, one plot per `facet`, one line per `line`; PNG and PDF.

    Both axes are logarithmic where the values are seconds; those never reached are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    facets = list(dict.fromkeys(entry["facet"] for entry in entries))
    names = list(dict.fromkeys(entry["line"] for entry in entries))
    size = (max(4.6 * len(facets) + 0.4, 6.5), 4.6)
    figure, axes = plt.subplots(1, len(facets), figsize=size, squeeze=False)
    tones = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
    for axis, facet in zip(axes[0], facets, strict=True):
        places = sorted({entry["x"] for entry in entries if entry["facet"] == facet})
        for number, name in enumerate(names):
            own = [e for e in entries if (e["facet"], e["line"]) == (facet, name)]
            own = [e for e in own if np.isfinite(e["value"])]
            at = [places.index(entry["x"]) for entry in own]
            style = {
                "color": tones[number],
                "ls": DASHES[number % len(DASHES)],
                "marker": "o",
            }
            style |= {"lw": 2.2 if number == 0 else 1.2, "ms": 3}
            axis.plot(at, [entry["value"] for entry in own], label=name, **style)
        axis.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        axis.set_title(facet, fontsize=9)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(alpha=0.3)
        if "seconds" not in y:
            axis.set_ylim(0, 100)
        elif any(len(line.get_xdata()) for line in axis.lines):
            axis.set_yscale("log")  # which matplotlib refuses where nobody got there
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
    """`value` in percent of every `line` and `x`, in numbers and shades; PNG and PDF."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(entry["line"] for entry in entries))
    places = list(dict.fromkeys(entry["x"] for entry in entries))
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
