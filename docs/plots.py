"""Draws the plots of the documentation: all of them, or those that are named.

    python -m docs.plots
    python -m docs.plots aggregator-krum attack-alie --out /tmp/plots

The library computes every plot: methods train, attacks send their reports to a server, and
aggregators are applied to the same rows. All plots take about four minutes on two cores, most
of it for the learning curves of the methods. The files depend on nothing but the version of
matplotlib. Writes NAME.svg under --out, by default docs/pages/plots.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docs.plot_data import delay, partition, poisoned_digits, timing_attack
from docs.plot_style import BLUE, GREEN, GREY, ORANGE, STYLE, blank
from farsign_jax import METHODS, Report, View, aggregators, attacks
from farsign_jax.aggregators import preaggregators
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing as timing_lib
from farsign_jax.data import partitions
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files
from farsign_jax.validation import lookup

FOLDER = pathlib.Path(__file__).parent / "pages" / "plots"

# Methods.

ATTACK = "sign_flip:scale=10"


@functools.cache
def _curves() -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """From (method, attack) to answers received and mean test accuracy in percent."""
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
        # An event of a method in rounds delivers one answer of each worker.
        received = row["event"] * (
            config.workers if METHODS[row["method"]].works_in_rounds else 1
        )
        accuracies = runs.setdefault((row["method"], row["attack"]), {})
        accuracies.setdefault(received, []).append(100 * row["test_accuracy"])
    return {
        name: (np.array(list(found)), np.array([np.mean(each) for each in found.values()]))
        for name, found in runs.items()
    }


def method(name: str) -> Figure:
    """The learning curve of a method, in front of those of all other methods."""
    figure, panels = blank(2)
    for axis, attack in zip(panels, ("none", ATTACK), strict=True):
        for other in METHODS:
            if other != name:
                axis.plot(*_curves()[other, attack], color=GREY, alpha=0.35, lw=0.7)
        axis.plot(*_curves()[name, attack], color=BLUE, lw=2.2, gid=f"data-{attack}")
        axis.set(xlim=(0, 1000), ylim=(0, 100), xlabel="answers received", title=attack)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].plot([], [], color=BLUE, lw=2.2, label=name)
    panels[0].plot([], [], color=GREY, alpha=0.5, lw=0.7, label="the other methods")
    panels[0].legend(loc="lower right")
    return figure


# Attacks.

WORKERS, BYZANTINE, EVENTS = 25, 5, 150


class _Iterate(NamedTuple):
    """All that an attack may look at of a server."""

    params: Any


def reported_under(attack: str) -> tuple[np.ndarray, np.ndarray]:
    """The reports of 25 workers about one number: the workers, i[T], and the values, f32[T].

    The honest answer at event n is 2 cos(n / 30) plus noise of standard deviation 1/2.
    """
    made = attacks.make(attack)
    byzantine = jnp.arange(WORKERS) < BYZANTINE
    rng = np.random.default_rng(0)
    reported, received = jnp.zeros((WORKERS, 1)), jnp.zeros((WORKERS, 1), bool)
    state, values = made.init(WORKERS), []
    forge = jax.jit(made.forge)
    workers = rng.integers(WORKERS, size=EVENTS).astype(np.int32)
    for n, worker in enumerate(workers):
        truth = 2 * np.cos(n / 30) + 0.5 * rng.standard_normal(1)
        message = jnp.asarray(truth, jnp.float32)
        if worker < BYZANTINE:
            report = Report(jnp.int32(worker), jnp.int32(n), jnp.zeros(1, jnp.int32), message)
            asked = jnp.full_like(reported, 2 * np.cos(n / 30))  # what it would be told now
            known = asked if made.asks else reported, received | bool(made.asks)
            view = View(_Iterate(message), byzantine, *known)
            state, message = forge(state, report, view, jax.random.key(n))
        reported = reported.at[worker].set(message)
        received = received.at[worker].set(True)
        values.append(message[0])
    return workers, np.asarray(values)


def attack(name: str) -> Figure:
    """The reports of one number by event, or the examples of an attack on data."""
    if attacks.make(name).poison is not None:
        return poisoned_digits(name)
    workers, values = reported_under(name)
    figure, (axis,) = blank(1)
    # Values that fit on no axis have positions of their own.
    edges = {"−∞": -6.5, "3e38": 6.5, "∞": 8.0, "NaN": 9.5}
    broken = ~(np.abs(values) < 1e6)
    shown = np.where(values == np.float32(3e38), edges["3e38"], values)
    shown = np.nan_to_num(shown, nan=edges["NaN"], posinf=edges["∞"], neginf=edges["−∞"])
    forged, events = workers < BYZANTINE, np.arange(EVENTS)
    honest: Any = {"color": BLUE, "label": "honest workers", "gid": "data-honest"}
    axis.plot(events[~forged], shown[~forged], ".", ms=5, **honest)
    axis.plot(
        events[forged],
        shown[forged],
        "x",
        color=ORANGE,
        label="Byzantine workers",
        gid="data-byzantine",
    )
    axis.set(xlim=(0, EVENTS), xlabel="event", ylabel="reported value")
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


# Aggregators.

FAR = 4.0  # distance of the Byzantine rows, in standard deviations of the honest ones


def cloud(far: float = FAR) -> np.ndarray:
    """11 honest rows around (1, 1) and two Byzantine rows at distance `far` from it."""
    honest = np.random.default_rng(3).standard_normal((11, 2))
    honest = 1 + (honest - honest.mean(axis=0)) / honest.std(axis=0)
    where = 1 + far * np.array([[0.94, -0.34], [0.87, -0.50]])
    return np.concatenate([honest, where]).astype(np.float32)


def _rule(name: str) -> aggregators.Rule:
    takes_f = ("trimmed_mean", "meamed", "phocas", "krum", "multi_krum", "bulyan", "mda")
    takes_f += ("comparative_elimination", "iterative_filtering")
    return aggregators.make(name, **({"f": 2} if name in takes_f else {}))


def _draw_cloud(axis: Axes, rows: np.ndarray, **style: Any) -> None:
    axis.plot(*rows[:-2].T, "o", color=BLUE, ms=5, **style)
    axis.plot(*rows[-2:].T, "x", color=ORANGE, ms=7, mew=2, **style)
    axis.set(xlim=(-1.6, 5.4), ylim=(-1.8, 4.0))


def aggregator(name: str) -> Figure:
    """The result on a cloud, and its error as the Byzantine rows move away."""
    rule, rows = _rule(name), cloud()
    figure, (left, right) = blank(2)
    _draw_cloud(left, rows)
    star: Any = {"color": GREEN, "mec": "none", "ms": 13, "gid": "data-result"}
    left.plot(*np.asarray(rule(rows)), "*", **star)
    left.set_title("11 honest rows, 2 Byzantine, the result")
    distances = np.geomspace(0.1, 1000, 49)
    rows = jnp.asarray([cloud(far) for far in distances])

    def away(rule):
        return np.linalg.norm(np.asarray(jax.vmap(rule)(rows)) - 1, axis=1)

    if name != "mean":
        right.loglog(distances, away(_rule("mean")), "--", color=GREY, lw=1, label="mean")
    right.loglog(distances, away(rule), color=BLUE, lw=2, label=name, gid="data-error")
    right.set(
        ylim=(0.01, 100),
        xlabel="distance of the Byzantine rows",
        title="distance from the honest mean",
    )
    right.legend(loc="upper left")
    return figure


def preaggregator(name: str) -> Figure:
    """The rows of the cloud before and after the pre-aggregator."""
    factory, rows = preaggregators.PREAGGREGATORS[name], cloud()
    pre = factory(f=2) if name in ("nnm", "arc") else factory()
    after = np.asarray(pre(rows, key=jax.random.key(0))[0])
    figure, (left, right) = blank(2)
    _draw_cloud(left, rows)
    left.set_title("the rows before")
    if len(after) == len(rows):
        _draw_cloud(right, rows, alpha=0.2)
        _draw_cloud(right, after, gid="data-after")
    else:  # means of groups
        _draw_cloud(right, rows, alpha=0.2)
        right.plot(*after.T, "s", color=GREEN, ms=6, gid="data-after")
    right.set_title("and after")
    return figure


KINDS: dict[str, tuple[Callable[[str], Figure], Iterable[str]]] = {
    "aggregator": (aggregator, aggregators.AGGREGATORS),
    "preaggregator": (preaggregator, preaggregators.PREAGGREGATORS),
    "attack": (attack, [name for name in attacks.ATTACKS if name != "same_value"]),
    "delay": (delay, delays.DELAYS),
    "timing_attack": (timing_attack, timing_lib.TIMING_ATTACKS),
    "partition": (partition, partitions.PARTITIONS),
    "method": (method, METHODS),
}


def names() -> Iterator[str]:
    """The names of all plots."""
    for kind, (_, entries) in KINDS.items():
        yield from (f"{kind}-{name}" for name in entries)


def draw(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Draws one plot and returns its file."""
    kind, _, entry = name.partition("-")
    with plt.rc_context(STYLE):
        figure = KINDS[kind][0](entry)
        path = folder / f"{name}.svg"
        told = {"format": "svg", "metadata": {"Date": None, "Creator": None}}
        files.atomic_write(path, functools.partial(figure.savefig, **told))
        plt.close(figure)
    return path


def redraw(*wanted: str) -> None:
    """Draws the plots that are named, or all of them."""
    for name in wanted:
        lookup("plot", name, dict.fromkeys(names()))
    folder = files.expanded(FLAGS.out or FOLDER)
    for name in wanted or names():
        path = draw(name, folder)
        print(f"{path.stat().st_size / 1024:5.1f} kB  {path.name}", flush=True)


if __name__ == "__main__":
    main(redraw, reads=("out",), positional=True)
