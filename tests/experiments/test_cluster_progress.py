"""The plot of a cluster marks who misbehaved, and when."""

import matplotlib.pyplot as plt
import pytest

from farsign_jax.harness import plots

pytest.importorskip("grpc")

from experiments.parts.cluster_progress import new_marks


def test_strikes_and_ejections_are_marked_once():
    looks = [({}, {"1": 1}), ({"1": 1}, {"1": 1}), ({"1": 1}, {"1": 4, "2": 2})]
    found = [new_marks(10.0 * n, *look) for n, look in enumerate(looks)]
    assert found == [
        [plots.Mark(0, "worker 1: strike 1")],
        [],
        [plots.Mark(20, "worker 1: ejected", True), plots.Mark(20, "worker 2: strike 2")],
    ]


def test_marks_are_drawn_for_their_attack_alone():
    row = {"method": "m", "aggregator": "", "seed": 0, "test_accuracy": 0.5}
    rows = [row | {"attack": a, "event": e} for a in ("none", "alie") for e in (1, 2)]
    marks = {"alie": [plots.Mark(1.5, "worker 3: ejected", True)]}
    figure = plots.draw(rows, ("event",), marks)
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [[], [" worker 3: ejected"]]
    plt.close(figure)
