"""Colours, fonts and positions that the plots of the documentation share."""

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")  # needs no display
import matplotlib.pyplot as plt

# Legible on a light and on a dark page: no background, and text in a medium grey.
GREY, BLUE, ORANGE, GREEN = "#808080", "#2f8be6", "#e06c00", "#1f9d55"
STYLE: Any = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": GREY,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.size": 10,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "svg.fonttype": "none",  # text stays text: small files that a browser can search
    "svg.hashsalt": "farsign_jax",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}

# Fixed positions, independent of the size of a font.
PANELS = {1: [(0.1, 0.17, 0.87, 0.72)], 2: [(0.09, 0.17, 0.38, 0.72), (0.59, 0.17, 0.38, 0.72)]}


def blank(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure and its one or two axes, at fixed positions."""
    figure = plt.figure(figsize=(6.6, 2.8))
    return figure, [figure.add_axes(place) for place in PANELS[panels]]
