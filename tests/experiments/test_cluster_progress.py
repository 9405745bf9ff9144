"""The plot of a cluster marks who misbehaved, and when."""

import matplotlib.pyplot as plt
import pytest

from farsign_jax.harness import plots

pytest.importorskip("grpc")

from experiments.parts.cluster_processes import paces, started
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


def test_a_cluster_says_how_many_workers_it_starts_and_how_often_they_answer():
    config = {"workers": 8, "byzantine": 2, "behaviours": [], "flood": None}
    assert started(config) == "8 workers" and paces(config) == ([], [])
    mixed = config | {"behaviours": ["stall"]}
    assert started(mixed) == "7 workers and an adversarial client"
    # Two at 62.5 and six at 12.5 are 200 answers per second.
    assert paces(config | {"flood": 5.0}) == (["--rate=62.5"], ["--rate=12.5"])
