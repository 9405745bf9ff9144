"""How delays, stragglers, uneven arrivals and timing attacks affect each server.

    python -m experiments.asynchrony                 all panels, about 27 minutes on two cores
    python -m experiments.asynchrony --panels a      one of them
    python -m experiments.asynchrony --preset smoke  one place of each, over a minute

    a   accuracy against staleness: 0, 1, 4 or 16 outstanding queries at each of 25 workers
    b   virtual seconds to an accuracy of 0.8 with stragglers, for servers that wait and that do
        not wait for them
    c   heavy-tailed service times, with finite and with infinite second moment of staleness
    d   uneven arrivals, with and without weights; Byzantine workers that answer more often than
        they report
    e   timing attacks combined with attacks on messages, against every server and FAR-SIGN's
        defences

The experiments use the embedded digits. Every method runs with the same few multiples of its
step size and the best one is shown, so that a step size that suits fresh answers only is not a
disadvantage.

Writes results.csv and results.json (all runs) and, for each panel X, X.md (the figures shown)
and X.png/pdf under --out.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness.command import main
from farsign_jax.harness.figure_command import run_figures
from farsign_jax.harness.figure_grid import TARGET, Cell, Figure
from farsign_jax.harness.flags import all_but, configure
from farsign_jax.validation import require

# The panels choose these themselves.
READ = all_but("arrivals", "timing_attack", "rounds", "byzantine_placement", "delivery")
CONFIG = PanelConfig(
    methods=(
        "far_sign",
        "async_sgd",
        "async_zo_sgd",
        "fedbuff",
        "kardam:frequency=count",
        "zeno_pp",
        "aflguard",
        "basgd",
    ),
    aggregators=("median",),
    attacks=("sign_flip:scale=10",),
    seeds=(0, 1),
    dataset="mnist_subset",
    events=2000,
    eval_every=100,
    delivery="outstanding",
)
SMOKE = {"methods": CONFIG.methods[:1], "seeds": (0,), "events": 50, "eval_every": 10}


def _each(config: PanelConfig, **changes: Any) -> Iterable[PanelConfig]:
    """The config with each of its methods alone."""
    for method in config.methods:
        yield dataclasses.replace(config, methods=(method,), **changes)


def _facet(base: PanelConfig, byzantine: int) -> str:
    if byzantine:
        return f"{byzantine} of {base.workers} workers are Byzantine"
    return "all workers are honest"


def _staleness(base: PanelConfig) -> Iterable[Cell]:
    for depth, byzantine in itertools.product((0, 1, 4, 16), (0, base.byzantine)):
        delivery = f"outstanding:{depth}" if depth else "fresh"
        stale = depth * base.workers - 1 if depth else 0
        facet = _facet(base, byzantine) + (f" ({base.attacks[0]})" if byzantine else "")
        for config in _each(base, delivery=delivery, byzantine=byzantine):
            yield Cell(facet, stale, config)


def _stragglers(base: PanelConfig) -> Iterable[Cell]:
    waiting = ("sgd", "sign_sgd_mv")
    facet = "one answer in ten is slow"
    for slow in (1, 3, 10, 30, 100):
        settings = {"arrivals": f"bimodal:slow={slow},share=0.1", "byzantine": 0}
        for config in _each(base, **settings):
            yield Cell(facet, slow, config)
        for method in waiting:
            config = dataclasses.replace(base, methods=(method,), **settings)
            yield Cell(facet, slow, config, f"{method}, waits for all")
        fastest = f"fastest:wait={4 * base.workers // 5}"
        config = dataclasses.replace(base, methods=("sgd",), rounds=fastest, **settings)
        yield Cell(facet, slow, config, "sgd, waits for 4 of 5")


def _heavy_tails(base: PanelConfig) -> Iterable[Cell]:
    for shape in (5, 3, 2.5, 2, 1.5, 1.1):
        for config in _each(base, arrivals=f"pareto:shape={shape}", byzantine=0):
            yield Cell(_facet(base, 0), shape, config)


_WEIGHTED = ("far_sign", "far_sign:arrival_rates=known", "far_sign:arrival_rates=estimate")
_CAPPED = "far_sign:rate_cap=1.2"


def _voting(base: PanelConfig) -> str:
    q = base.byzantine
    return f"far_sign:vote=nnm:f={q}+trimmed_mean:f={q}"


def _uneven(base: PanelConfig) -> Iterable[Cell]:
    fast = base.workers // 5
    settings = {"partition": "two_camps", "byzantine": 0, "events": 2 * base.events}
    settings |= {"methods": (*_WEIGHTED, _voting(base), "async_sgd")}
    heterogeneous = dataclasses.replace(base, **settings)
    for spread in (1, 4, 16, 64):
        for config in _each(heterogeneous, arrivals=f"exponential:spread={spread},fast={fast}"):
            yield Cell(f"{fast} fast workers have half of the labels", spread, config)
    settings = {"attacks": ("sign_flip",), "methods": (*_WEIGHTED, _CAPPED, _voting(base))}
    flooded = dataclasses.replace(base, **settings)
    for rate in (1, 2, 4, 8, 16):
        settings = {"arrivals": "exponential", "timing_attack": f"flood:rate={rate}"}
        for config in _each(flooded, **settings, events=base.flood_events(rate)):
            yield Cell("Byzantine workers flood, and report that they do not", rate, config)


def _timing(base: PanelConfig) -> Iterable[Cell]:
    rules = [
        m for m in base.methods if m != "async_zo_sgd"
    ]  # `replay` cannot forge its answers
    own = ["far_sign", _CAPPED, "far_sign:arrival_rates=estimate", _voting(base)]
    rules = [*own, *rules, "sgd"]
    base = dataclasses.replace(
        base, arrivals="exponential", methods=tuple(dict.fromkeys(rules))
    )
    for attack in ("sign_flip", "replay"):
        for name, rate, settings in (
            ("", 1, {}),
            (" + flood", 5, {"timing_attack": "flood:rate=5"}),
            (
                " + flood, one buffer",
                5,
                {"timing_attack": "flood:rate=5", "byzantine_placement": "one_buffer"},
            ),
            (" + burst", 1, {"timing_attack": "burst:silence=15,size=15"}),
            (" + max_stale", 0, {"timing_attack": "max_stale:lag=20"}),
            (" + withhold", 0, {"timing_attack": "withhold"}),
            (
                " + withhold, one buffer",
                0,
                {"timing_attack": "withhold", "byzantine_placement": "one_buffer"},
            ),
        ):
            if attack == "replay" and name not in ("", " + flood"):
                continue  # a worker that hardly answers has nothing to replay
            settings = {"attacks": (attack,), "events": base.flood_events(rate)} | settings
            for config in _each(base, **settings):
                wait = f"fastest:wait={base.workers - base.byzantine}"
                line = "sgd, waits for 4 of 5" if config.in_rounds else ""
                config = dataclasses.replace(config, rounds=wait)
                yield Cell(_facet(base, base.byzantine), attack + name, config, line)


PANELS = {
    "a": Figure(
        _staleness, "Accuracy against staleness", "mean staleness in the long run, answers"
    ),
    "b": Figure(
        _stragglers,
        "Who waits for stragglers",
        "slowness of the stragglers, times the others",
        f"virtual seconds to {TARGET:.0%}",
    ),
    "c": Figure(
        _heavy_tails,
        "Heavy tails: below shape 2, staleness has no second moment",
        "shape of the Pareto service times",
    ),
    "d": Figure(_uneven, "Uneven arrivals", "speed, times the others"),
    "e": Figure(_timing, "Attacks on messages and on time", "attack"),
}


def _check(config: PanelConfig) -> None:
    for name in ("attacks", "aggregators"):
        given = getattr(config, name)
        require(
            len(given) == 1,
            f"the panels need one of --{name}: got {', '.join(given)}",
        )
    require(config.workers >= 5, f"the panels need workers >= 5: got {config.workers}")


def asynchrony() -> pathlib.Path | None:
    base = configure(CONFIG, SMOKE)
    _check(base)
    return run_figures("asynchrony", base, PANELS)


if __name__ == "__main__":
    main(asynchrony, many=True, base=CONFIG, own=("panels",), reads=READ)
