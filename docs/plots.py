"""Draws the plots of the documentation, all of them or those that are named.

    python -m docs.plots
    python -m docs.plots aggregator-krum attack-alie --out /tmp/plots

Every one is computed by the library: methods learn, attacks lie to a server, rules aggregate
the same cloud of rows. About four minutes on two cores, of which the curves of methods take
nearly all. The files are the same whenever and wherever they are made, but for the version of
matplotlib. Writes NAME.svg under --out, by default docs/pages/plots.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt

from farsign_jax import METHODS, Report, View, aggregators, arrivals, attacks
from farsign_jax.aggregators import preaggregators
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing as timing_lib
from farsign_jax.data import datasets, partitions
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.validation import lookup

FOLDER = pathlib.Path(__file__).parent / "pages" / "plots"

# Read on white and on black: no background, text of a grey halfway between them.
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
    "svg.fonttype": "none",  # text stays text: small, and searched by the reader's browser
    "svg.hashsalt": "farsign_jax",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}

# Fixed places, not fitted to the size of some font.
PANELS = {1: [(0.1, 0.17, 0.87, 0.72)], 2: [(0.09, 0.17, 0.38, 0.72), (0.59, 0.17, 0.38, 0.72)]}


def _axes(panels: int) -> tuple[Figure, list[Axes]]:
    figure = plt.figure(figsize=(6.6, 2.8))
    return figure, [figure.add_axes(place) for place in PANELS[panels]]


# Methods: what they learn.

ATTACK = "sign_flip:scale=10"


@functools.cache
def _curves() -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(method, attack) -> answers heard and test accuracy in percent, mean over seeds."""
    from farsign_jax.config.panel_config import PanelConfig
    from farsign_jax.harness import panel

    config = PanelConfig(
        methods=tuple(METHODS),
        aggregators=("median",),
        attacks=("none", ATTACK),
        seeds=(0, 1),
        dataset="mnist_subset",
        events=1000,
    )
    runs: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in panel.run([panel.ready(config, None)]):
        # An event of a method that waits is a round of answers.
        heard = row["event"] * (config.workers if METHODS[row["method"]].works_in_rounds else 1)
        places = runs.setdefault((row["method"], row["attack"]), {})
        places.setdefault(heard, []).append(100 * row["test_accuracy"])
    return {
        name: (np.array(list(places)), np.array([np.mean(a) for a in places.values()]))
        for name, places in runs.items()
    }


def method(name: str) -> Figure:
    """Accuracy while it learns, every other method behind it."""
    figure, axes = _axes(2)
    for axis, attack in zip(axes, ("none", ATTACK), strict=True):
        for other in METHODS:
            if other != name:
                axis.plot(*_curves()[other, attack], color=GREY, alpha=0.35, lw=0.7)
        axis.plot(*_curves()[name, attack], color=BLUE, lw=2.2, gid=f"data-{attack}")
        axis.set(xlim=(0, 1000), ylim=(0, 100), xlabel="answers heard", title=attack)
    axes[0].set_ylabel("test accuracy, %")
    axes[0].plot([], [], color=BLUE, lw=2.2, label=name)
    axes[0].plot([], [], color=GREY, alpha=0.5, lw=0.7, label="the other methods")
    axes[0].legend(loc="lower right")
    return figure


# Attacks: what a server hears.

WORKERS, LIARS, EVENTS = 25, 5, 150


def heard_under(attack: str) -> tuple[np.ndarray, np.ndarray]:
    """One number as 25 workers tell it for 150 events: who spoke, i[T], and what, f32[T].

    Honest answers are 2 cos(n / 30) at event n, and noise of deviation 1/2.
    """
    made = attacks.make(attack)
    byzantine = jnp.arange(WORKERS) < LIARS
    rng = np.random.default_rng(0)
    said, heard = jnp.zeros((WORKERS, 1)), jnp.zeros((WORKERS, 1), bool)
    state, told = made.init(WORKERS), []
    forge = jax.jit(made.forge)
    speakers = rng.integers(WORKERS, size=EVENTS).astype(np.int32)
    for n, worker in enumerate(speakers):
        truth = 2 * np.cos(n / 30) + 0.5 * rng.standard_normal(1)
        message = jnp.asarray(truth, jnp.float32)
        if worker < LIARS:
            report = Report(jnp.int32(worker), jnp.int32(n), jnp.zeros(1, jnp.int32), message)
            view = View((), byzantine, said, heard)
            state, message = forge(state, report, view, jax.random.key(n))
        said, heard = said.at[worker].set(message), heard.at[worker].set(True)
        told.append(message[0])
    return speakers, np.asarray(told)


def attack(name: str) -> Figure:
    """What is heard of one number, from honest workers and from liars, event by event."""
    speakers, told = heard_under(name)
    figure, (axis,) = _axes(1)
    # What no axis holds has places of its own.
    edges = {"−∞": -6.5, "3e38": 6.5, "∞": 8.0, "NaN": 9.5}
    broken = ~(np.abs(told) < 1e6)
    shown = np.where(told == np.float32(3e38), edges["3e38"], told)
    shown = np.nan_to_num(shown, nan=edges["NaN"], posinf=edges["∞"], neginf=edges["−∞"])
    lies, events = speakers < LIARS, np.arange(EVENTS)
    honest: Any = {"color": BLUE, "label": "honest workers", "gid": "data-honest"}
    axis.plot(events[~lies], shown[~lies], ".", ms=5, **honest)
    axis.plot(
        events[lies],
        shown[lies],
        "x",
        color=ORANGE,
        label="Byzantine workers",
        gid="data-liars",
    )
    axis.set(xlim=(0, EVENTS), xlabel="event", ylabel="what is heard")
    if broken.any():
        usual = [-4, -2, 0, 2, 4]
        axis.set(ylim=(-8, 11))
        axis.set_yticks([*edges.values(), *usual], [*edges, *map(str, usual)])
    elif np.abs(shown).max() < 5:
        axis.set(ylim=(-5, 5))
    else:
        axis.set_yscale("symlog", linthresh=5)
        axis.set_yticks([-100, -10, 0, 10, 100])
    figure.legend(loc="upper right", ncols=2)
    return figure


# Rules: where they land.

FAR = 4.0  # of the liars, in standard deviations of the honest rows


def cloud(far: float = FAR) -> np.ndarray:
    """11 honest rows around (1, 1), and two liars so far from there, to the lower right."""
    honest = np.random.default_rng(3).standard_normal((11, 2))
    honest = 1 + (honest - honest.mean(axis=0)) / honest.std(axis=0)
    where = 1 + far * np.array([[0.94, -0.34], [0.87, -0.50]])
    return np.concatenate([honest, where]).astype(np.float32)


def _rule(name: str) -> aggregators.Rule:
    takes_f = ("trimmed_mean", "meamed", "krum", "multi_krum", "bulyan", "mda")
    return aggregators.make(name, **({"f": 2} if name in takes_f else {}))


def _draw_cloud(axis: Axes, rows: np.ndarray, **style: Any) -> None:
    axis.plot(*rows[:-2].T, "o", color=BLUE, ms=5, **style)
    axis.plot(*rows[-2:].T, "x", color=ORANGE, ms=7, mew=2, **style)
    axis.set(xlim=(-1.6, 5.4), ylim=(-1.8, 4.0))


def aggregator(name: str) -> Figure:
    """Where the rule lands on a cloud, and how far from the honest mean as liars go."""
    rule, rows = _rule(name), cloud()
    figure, (left, right) = _axes(2)
    _draw_cloud(left, rows)
    star: Any = {"color": GREEN, "mec": "none", "ms": 13, "gid": "data-result"}
    left.plot(*np.asarray(rule(rows)), "*", **star)
    left.set_title("11 honest rows, 2 liars, the result")
    distances = np.geomspace(0.1, 1000, 49)
    rows = jnp.asarray([cloud(far) for far in distances])

    def away(rule):
        return np.linalg.norm(np.asarray(jax.vmap(rule)(rows)) - 1, axis=1)

    if name != "mean":
        right.loglog(distances, away(_rule("mean")), "--", color=GREY, lw=1, label="mean")
    right.loglog(distances, away(rule), color=BLUE, lw=2, label=name, gid="data-error")
    right.set(
        ylim=(0.01, 100), xlabel="distance of the liars", title="distance from the honest mean"
    )
    right.legend(loc="upper left")
    return figure


def preaggregator(name: str) -> Figure:
    """What becomes of the rows of the cloud."""
    factory, rows = preaggregators.PREAGGREGATORS[name], cloud()
    pre = factory(f=2) if name in ("nnm", "arc") else factory()
    after = np.asarray(pre(rows, key=jax.random.key(0))[0])
    figure, (left, right) = _axes(2)
    _draw_cloud(left, rows)
    left.set_title("the rows before")
    if len(after) == len(rows):
        _draw_cloud(right, rows, alpha=0.2)
        _draw_cloud(right, after, gid="data-after")
    else:  # groups, some of them with a liar
        _draw_cloud(right, rows, alpha=0.2)
        right.plot(*after.T, "s", color=GREEN, ms=6, gid="data-after")
    right.set_title("and after")
    return figure


# Time and data.


def service(name: str) -> Figure:
    """How long 20,000 answers take."""
    times = delays.make(name).draw(np.random.default_rng(0), 0, 20_000)
    figure, (axis,) = _axes(1)
    bins = np.geomspace(0.05, 100, 61)
    share = np.histogram(times, bins)[0] / len(times)
    axis.stairs(100 * share, bins, color=BLUE, fill=True, gid="data-times")
    axis.set(xscale="log", xlabel="seconds of an answer", ylabel="answers, %")
    axis.axvline(times.mean(), color=GREY, ls="--", lw=1)
    axis.annotate(" mean", (times.mean(), 0.9 * axis.get_ylim()[1]))
    return figure


def timing(name: str) -> Figure:
    """When three honest workers are heard, and two that play with time."""
    honest = delays.exponential(mean=2.0)
    options = {"withhold": {"after": 25.0}, "flood": {"rate": 5.0}}.get(name, {})
    fleet = 2 * [timing_lib.apply_timing_attack(honest, name, **options)] + 3 * [honest]
    workers, times = arrivals.by_time(jax.random.key(0), fleet, 500)
    assert times is not None
    figure, (axis,) = _axes(1)
    seen = times < 60
    for worker in range(5):
        here = times[seen & (workers == worker)]
        style: Any = {"color": ORANGE if worker < 2 else BLUE, "gid": f"data-{worker}"}
        axis.plot(here, np.full(len(here), worker), "|", ms=14, **style)
    told = ",".join(f"{option}={value:g}" for option, value in options.items())
    axis.set(xlim=(0, 60), ylim=(-0.7, 4.7), xlabel="virtual seconds")
    axis.set_yticks(range(5), ["liar", "liar", "honest", "honest", "honest"])
    axis.set_title(f"{name}:{told}" if told else name)
    return figure


def partition(name: str) -> Figure:
    """How many examples of each label each of 25 workers holds."""
    labels = datasets.load("mnist_subset").train_labels
    rows, sizes = partitions.partition(labels, 25, name, jax.random.key(0))
    held = [np.bincount(labels[r[:s]], minlength=10) for r, s in zip(rows, sizes, strict=True)]
    figure, (axis,) = _axes(1)
    bottom = np.zeros(25)
    tones = plt.get_cmap("turbo")(np.linspace(0.1, 0.9, 10))
    for label, count in enumerate(np.transpose(held)):
        axis.bar(range(25), count, 0.8, bottom, color=tones[label], gid=f"data-{label}")
        bottom += count
    axis.set(xlim=(-0.7, 24.7), xlabel="worker", ylabel="examples, a colour per label")
    return figure


KINDS: dict[str, tuple[Callable[[str], Figure], Iterable[str]]] = {
    "aggregator": (aggregator, aggregators.AGGREGATORS),
    "preaggregator": (preaggregator, preaggregators.PREAGGREGATORS),
    "attack": (attack, [name for name in attacks.ATTACKS if name != "same_value"]),
    "service": (service, delays.DELAYS),
    "timing_attack": (timing, timing_lib.TIMING_ATTACKS),
    "partition": (partition, partitions.PARTITIONS),
    "method": (method, METHODS),
}


def names() -> Iterator[str]:
    for kind, (_, of) in KINDS.items():
        yield from (f"{kind}-{name}" for name in of)


def draw(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Draws one plot and returns its file."""
    kind, _, what = name.partition("-")
    with plt.rc_context(STYLE):
        figure = KINDS[kind][0](what)
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return path


def redraw(*wanted: str) -> None:
    for name in wanted:
        lookup("plot", name, dict.fromkeys(names()))
    folder = pathlib.Path(FLAGS.out or FOLDER).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted or names():
        path = draw(name, folder)
        print(f"{path.stat().st_size / 1024:5.1f} kB  {path.name}", flush=True)


if __name__ == "__main__":
    main(redraw, reads=("out",), positional=True)
