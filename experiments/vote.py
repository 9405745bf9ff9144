"""Who decides a step of FAR-SIGN: the worker that answered, or all workers by a vote?

    python -m experiments.vote                  all panels, about an hour on two cores
    python -m experiments.vote --panels flood   one of them

    cases    accuracy of votes and of other servers under attacks, floods, uneven arrivals and
             unlike data
    flood    accuracy against how often Byzantine workers answer
    visits   accuracy against the number of answers per worker and direction
    tables   accuracy against the size of the table: averages of blocks of coordinates, hashed
             averages, and random directions in the place of coordinates

The experiments train softmax regression on the embedded digits, in panels `visits` and `tables`
also the MLP of Table 3. Every method runs with the same few multiples of its step size. One is
chosen on a sixth of the training set, which no worker has; what is shown is of the test set.

Writes results.csv and results.json (all runs) and, for each panel X, X.md (the figures shown)
and X.png/pdf under --out.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness.command import main
from farsign_jax.harness.figure_command import run_figures
from farsign_jax.harness.figure_grid import Cell, Figure
from farsign_jax.harness.flags import FLAGS, all_but, configure
from farsign_jax.validation import lookup, require

# The panels choose these themselves.
READ = all_but(
    "methods", "aggregators", "attacks", "arrivals", "timing_attack", "rounds", "partition",
    "byzantine_placement", "heterogeneity",
)  # fmt: skip
FLIP = "sign_flip:scale=10"
CONFIG = PanelConfig(
    seeds=(0, 1),
    dataset="mnist_subset",
    model="softmax_regression",
    aggregators=("median",),
    directions=400,
    events=4000,
    eval_every=500,
    delivery="outstanding",
    validation=1 / 6,
)


# Who decides, by name, and the options of FAR-SIGN for q Byzantine workers.
VOTES = {
    "own": "",
    "rate_cap": ":rate_cap=1.2",
    "weighted": ":arrival_rates=estimate",
    "majority": ":vote=majority_vote",
    "median": ":vote=median",
    "trimmed_mean": ":vote=trimmed_mean:f={q}",
    "nnm": ":vote=nnm:f={q}+trimmed_mean:f={q}",
    "nnm_weighted": ":vote=nnm:f={q}+trimmed_mean:f={q},arrival_rates=estimate",
    "nnm_soft": ":vote=nnm:f={q}+trimmed_mean:f={q},soft=1",
    "mean": ":vote=mean",
}
WAITING = "sgd in rounds with nnm"
OTHERS = ("basgd", "kardam:frequency=count", "zeno_pp", "aflguard", WAITING)
flags.DEFINE_list("votes", [*VOTES, *OTHERS], "Votes, and servers beside them, to run.")


def _votes(
    case: PanelConfig,
    place: tuple[str, Any],
    q: int,
    votes: Sequence[str] = tuple(VOTES),
    method: str = "far_sign_first_order",
    options: str = "",
    kind: str = "",
) -> Iterable[Cell]:
    """Cells at a place (facet, x) with votes that expect q Byzantine workers.

    Votes of a method with further options are lines of their own, named after their kind.
    """
    for line in (name for name in FLAGS.votes if name in votes):
        own = ",".join(filter(None, (VOTES[line][1:].format(q=q), options)))
        text = f"{method}:{own}" if own else method
        named = ", ".join(filter(None, (line, kind)))
        yield Cell(*place, dataclasses.replace(case, methods=(text,)), named)


def _others(base: PanelConfig, q: int) -> Iterable[tuple[str, PanelConfig]]:
    """Methods whose workers send gradients; the last one waits for all but q workers."""
    for method in (name for name in OTHERS if name in FLAGS.votes and name != WAITING):
        yield method, dataclasses.replace(base, methods=(method,))
    if WAITING not in FLAGS.votes:
        return
    wait = f"fastest:wait={base.workers - q}"
    rule = f"nnm:f={q}+trimmed_mean:f={q}"
    config = dataclasses.replace(base, methods=("sgd",), aggregators=(rule,), rounds=wait)
    yield WAITING, config


def _flooded(base: PanelConfig, attack: str, rate: float) -> PanelConfig:
    settings: dict[str, Any] = {"attacks": (attack,), "arrivals": "exponential"}
    if rate != 1:
        settings |= {"timing_attack": f"flood:rate={rate}", "events": base.flood_events(rate)}
    return dataclasses.replace(base, **settings)


def _settings(base: PanelConfig) -> Iterable[tuple[str, PanelConfig]]:
    """The cases of the first panel, by name."""
    constant = "constant:value=100"
    for attack in ("none", FLIP, constant, "alie:z=1.5", "ipm", "mimic"):
        byzantine = 0 if attack == "none" else base.byzantine
        yield attack, dataclasses.replace(base, attacks=(attack,), byzantine=byzantine)
    for attack in (FLIP, constant, "none"):
        yield f"{attack}, flood x5", _flooded(base, attack, 5)
    fast = f"exponential:spread=16,fast={base.workers // 5}"
    camps = {"partition": "two_camps", "arrivals": fast, "byzantine": 0, "attacks": ("none",)}
    yield "half of the labels 16 times as fast", dataclasses.replace(base, **camps)
    for attack in ("none", FLIP, "alie:z=1.5"):
        byzantine = 0 if attack == "none" else base.byzantine
        settings = {"attacks": (attack,), "byzantine": byzantine}
        for name, partition, batch_size in (
            ("two labels", "label_skew:heterogeneity=2", base.batch_size),
            ("dirichlet 0.1", "dirichlet:heterogeneity=0.1", 4),  # few examples
        ):
            split = {"partition": partition, "batch_size": batch_size}
            yield f"{name}, {attack}", dataclasses.replace(base, **settings, **split)
    for attack in ("none", FLIP):
        settings = {
            "attacks": (attack,),
            "byzantine": 0 if attack == "none" else base.byzantine,
        }
        yield f"fresh, {attack}", dataclasses.replace(base, delivery="fresh", **settings)
    yield (
        f"fresh, {FLIP}, flood x5",
        dataclasses.replace(_flooded(base, FLIP, 5), delivery="fresh"),
    )


def _cases(base: PanelConfig) -> Iterable[Cell]:
    for name, case in _settings(base):
        yield from _votes(case, ("", name), base.byzantine)
        for line, config in _others(case, base.byzantine):
            yield Cell("", name, config, line)


def _flood(base: PanelConfig) -> Iterable[Cell]:
    votes = ("own", "rate_cap", "weighted", "median", "nnm", "nnm_weighted")
    for rate in (1, 5, 20, 100):
        yield from _votes(_flooded(base, FLIP, rate), (FLIP, rate), base.byzantine, votes)


def _tables(base: PanelConfig) -> Iterable[Cell]:
    mlp = dataclasses.replace(base, model="mlp", directions=max(base.directions // 4, 1))
    few = dataclasses.replace(base, directions=max(base.directions // 25, 1))
    zeroth, first = ("MLP, zeroth order", "far_sign"), ("softmax", "far_sign_first_order")
    for size in (256, 2048):
        for of, (what, method), votes, options, kind in (
            (mlp, zeroth, ("own", "median"), f"storage=blocks,slots={size}", "blocks"),
            (mlp, zeroth, ("median",), f"storage=hashed,slots={size}", "hashed"),
            (few, first, ("own", "median", "nnm"), f"seeded={size}", "seeded"),
        ):
            honest = dataclasses.replace(of, byzantine=0, attacks=("none",))
            for case, attack in ((honest, "no attack"), (_flooded(of, FLIP, 5), "flood x5")):
                place = f"{what}, {attack}", size
                yield from _votes(case, place, base.byzantine, votes, method, options, kind)


def _visits(base: PanelConfig) -> Iterable[Cell]:
    mlp = dataclasses.replace(base, model="mlp")
    for name, of, method, size, asked in (
        ("softmax regression", base, "far_sign_first_order", 7850, (20, 80, 400, 2000)),
        ("MLP, zeroth order", mlp, "far_sign", 25_450, (25, 100, 400)),
    ):
        for k in asked:
            visits = round(of.events * k / (of.workers * size), 2)
            honest = dataclasses.replace(of, directions=k, byzantine=0, attacks=("none",))
            flooded = dataclasses.replace(_flooded(of, FLIP, 5), directions=k)
            for case, what in ((honest, "no attack"), (flooded, "sign flips, flood x5")):
                place = f"{name}, {what}", visits
                yield from _votes(case, place, of.byzantine, ("own", "median", "nnm"), method)


PANELS = {
    "cases": Figure(_cases, "Who decides a step", "case"),
    "flood": Figure(_flood, "Floods", "rate of the Byzantine workers, times the others"),
    "tables": Figure(_tables, "Smaller tables", "averages per worker"),
    "visits": Figure(_visits, "When votes pay", "answers per worker and direction"),
}


def vote() -> pathlib.Path | None:
    base = configure(CONFIG)
    require(base.byzantine >= 1, f"votes need byzantine >= 1: got {base.byzantine}")
    for name in FLAGS.votes:
        lookup("vote", name, VOTES | dict.fromkeys(OTHERS, ""))
    return run_figures("vote", base, PANELS)


if __name__ == "__main__":
    main(vote, many=True, base=CONFIG, own=("panels", "votes"), reads=READ)
