"""The plots of delays, timing attacks, partitions and attacks on data."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from docs.plot_style import BLUE, GREY, ORANGE, blank
from farsign_jax import arrivals, attacks
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing as timing_lib
from farsign_jax.data import datasets, partitions


def delay(name: str) -> Figure:
    """A histogram of the duration of 20,000 answers."""
    times = delays.make(name).draw(np.random.default_rng(0), 0, 20_000)
    figure, (axis,) = blank(1)
    bins = np.geomspace(0.05, 100, 61)
    fraction = np.histogram(times, bins)[0] / len(times)
    axis.stairs(100 * fraction, bins, color=BLUE, fill=True, gid="data-times")
    axis.set(xscale="log", xlabel="duration of an answer, s", ylabel="answers, %")
    axis.axvline(times.mean(), color=GREY, ls="--", lw=1)
    axis.annotate(" mean", (times.mean(), 0.9 * axis.get_ylim()[1]))
    return figure


def timing_attack(name: str) -> Figure:
    """The arrivals of three honest workers and of two with a timing attack."""
    honest = delays.exponential(mean=2.0)
    options = {"withhold": {"after": 25.0}, "flood": {"rate": 5.0}}.get(name, {})
    workers_delays = 2 * [timing_lib.apply_timing_attack(honest, name, **options)] + 3 * [
        honest
    ]
    workers, times = arrivals.by_time(jax.random.key(0), workers_delays, 500)
    assert times is not None
    figure, (axis,) = blank(1)
    seen = times < 60
    for worker in range(5):
        here = times[seen & (workers == worker)]
        style: Any = {"color": ORANGE if worker < 2 else BLUE, "gid": f"data-{worker}"}
        axis.plot(here, np.full(len(here), worker), "|", ms=14, **style)
    given = ",".join(f"{option}={value:g}" for option, value in options.items())
    axis.set(xlim=(0, 60), ylim=(-0.7, 4.7), xlabel="virtual seconds")
    axis.set_yticks(range(5), 2 * ["Byzantine"] + 3 * ["honest"])
    axis.set_title(f"{name}:{given}" if given else name)
    return figure


def partition(name: str) -> Figure:
    """The number of examples of each label at each of 25 workers."""
    labels = datasets.load("mnist_subset").train_labels
    users = 4 * labels + np.arange(len(labels)) % 4 if name == "by_user" else None
    rows, sizes = partitions.partition(labels, 25, name, jax.random.key(0), users=users)
    held = [np.bincount(labels[r[:s]], minlength=10) for r, s in zip(rows, sizes, strict=True)]
    figure, (axis,) = blank(1)
    bottom = np.zeros(25)
    tones = plt.get_cmap("turbo")(np.linspace(0.1, 0.9, 10))
    for label, count in enumerate(np.transpose(held)):
        axis.bar(range(25), count, 0.8, bottom, color=tones[label], gid=f"data-{label}")
        bottom += count
    axis.set(xlim=(-0.7, 24.7), xlabel="worker", ylabel="examples, one colour per label")
    return figure


def poisoned_digits(name: str) -> Figure:
    """Three digits, with the labels that a Byzantine worker gives them."""
    rows = np.arange(1, 4, dtype=np.int32)
    data = datasets.load("mnist_subset")
    images, labels = data.train_images[rows], data.train_labels[rows]
    poison = attacks.make(name).poison
    assert poison is not None
    changed, given = map(
        np.asarray, poison((images, labels), jnp.asarray(rows), data.num_classes)
    )
    figure, (axis,) = blank(1)
    for number, (before, after) in enumerate(zip(images, changed, strict=True)):
        for shown, color, part in (
            (before > 127, BLUE, "digit"),
            ((after > 127) & (before != after), ORANGE, "trigger"),
        ):
            i, j, *_ = np.nonzero(shown)
            axis.plot(j + 38 * number, -i, "s", ms=2.6, color=color, gid=f"data-{part}")
        text = f"{labels[number]} is labelled {given[number]}"
        axis.text(38 * number + 14, -32, text, ha="center", color=GREY)
    axis.set(xlim=(-4, 104), ylim=(-34, 2), aspect="equal")
    axis.set_axis_off()
    return figure
