"""Every name that a command line can say, each with a line of what it is.

    python -m experiments.list
    python -m experiments.list attacks aggregators

Without a word, all registries; with the name of one or more of them, options with their
defaults, too, as in `alie:z=0.5,ddof=1`, and what a bare name stands for where that differs.
Writes nothing.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from farsign_jax import arrivals, simulation
from farsign_jax.aggregators.preaggregators import PREAGGREGATORS
from farsign_jax.aggregators.registry import AGGREGATORS
from farsign_jax.arrivals.delays import DELAYS
from farsign_jax.attacks.registry import ATTACKS
from farsign_jax.attacks.timing import TIMING_ATTACKS
from farsign_jax.cli.help import WIDTH
from farsign_jax.config.panel_config import PAPER_AGGREGATORS, PAPER_ATTACKS, PRESETS
from farsign_jax.config.schedules import CLOCKLESS, ROUNDS
from farsign_jax.config.settings import PLACEMENTS
from farsign_jax.data.datasets import DATASETS
from farsign_jax.data.partitions import PARTITIONS
from farsign_jax.harness.command import main
from farsign_jax.methods import METHODS, defaults_of
from farsign_jax.models.networks import MODELS
from farsign_jax.validation import lookup


class Entry(NamedTuple):
    """A name, what it is, its options and their defaults, and what a bare name stands for."""

    name: str
    says: str
    options: Mapping[str, Any] = {}
    usual: str = ""


def _first(of: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(of) or "").split())
    return re.split(r"\. (?=[A-Z])|: i32|\.$", text)[0]


def _options(of: Callable, skip: int = 0) -> dict[str, Any]:
    """Parameters and their defaults; `...` where one must be given."""
    takes = list(inspect.signature(of).parameters.values())[skip:]
    return {p.name: ... if p.default is p.empty else p.default for p in takes}


def _methods() -> list[Entry]:
    found = []
    for name, method in METHODS.items():
        told = defaults_of(name)
        told = {n: v for n, v in told.items() if n not in ("aggregator", "byzantine")}
        found.append(Entry(name, _first(method.build), told))
    return found


def _functions(
    table: Mapping[str, Callable], usual: tuple[str, ...] = (), skip: int = 0
) -> list[Entry]:
    bare = {text.partition(":")[0]: text for text in usual if ":" in text}
    return [
        Entry(name, _first(of), _options(of, skip), bare.get(name, ""))
        for name, of in table.items()
    ]


def _attacks() -> list[Entry]:
    return [
        entry._replace(options={**entry.options, "space": ATTACKS[entry.name]().space})
        for entry in _functions(ATTACKS, PAPER_ATTACKS)
    ]


def _clockless() -> list[Entry]:
    named = {"uniform": arrivals.uniform, "weighted": arrivals.weighted}
    given = {"spread": 1, "fast": None}
    found = [
        Entry(name, _first(of), {o: v for o, v in given.items() if o in CLOCKLESS[name]})
        for name, of in named.items()
    ]
    return [*found, Entry("trace", _first(arrivals.trace), {"path": ...})]


def _partitions() -> list[Entry]:
    return [
        Entry(name, _first(split), {} if name == "iid" else {"heterogeneity": heterogeneity})
        for name, (split, heterogeneity) in PARTITIONS.items()
    ]


def _delays() -> list[Entry]:
    told = {"spread": 1, "fast": None}
    return [
        *_clockless(),
        *(e._replace(options={**e.options, **told}) for e in _functions(DELAYS)),
    ]


REGISTRIES: dict[str, Callable[[], list[Entry]]] = {
    "methods": _methods,
    "aggregators": lambda: _functions(AGGREGATORS, PAPER_AGGREGATORS),
    "preaggregators": lambda: _functions(PREAGGREGATORS),
    "attacks": _attacks,
    "timings": lambda: _functions(TIMING_ATTACKS, skip=1),
    "byzantine_placement": lambda: [Entry(*pair) for pair in PLACEMENTS.items()],
    "arrivals": _delays,
    "delivery": lambda: [Entry(*pair) for pair in simulation.DELIVERIES.items()],
    "rounds": lambda: [
        Entry(name, each.summary, dict.fromkeys(each.options, ...))
        for name, each in ROUNDS.items()
    ],
    "datasets": lambda: [Entry(name, source.description) for name, source in DATASETS.items()],
    "partitions": _partitions,
    "models": lambda: _functions(MODELS, skip=1),
    "presets": lambda: [Entry(name, each.summary) for name, each in PRESETS.items()],
}


def _said(value: Any) -> str:
    if isinstance(value, tuple):  # as a command line takes it
        return "x".join(map(str, value))
    return "?" if value is ... else f"{value:g}" if isinstance(value, float) else str(value)


def _text(entry: Entry, left: int, whole: bool) -> list[str]:
    """Lines of an entry, the options among them if `whole`."""
    indent = " " * (left + 4)
    rest: dict[str, Any] = {"width": WIDTH, "subsequent_indent": indent}
    rest |= {"break_on_hyphens": False, "break_long_words": False}
    lines = textwrap.wrap(f"  {entry.name:{left}}  {entry.says}", **rest)
    if not whole:
        return lines
    given = [f"{n}={_said(v)}" for n, v in entry.options.items() if v is not None]
    unset = [name for name, value in entry.options.items() if value is None]
    told = [", ".join(given), f"not set: {', '.join(unset)}" if unset else ""]
    told.append(f"{entry.name} alone is {entry.usual}" if entry.usual else "")
    said = "; ".join(filter(None, told))
    return lines + textwrap.wrap(said, initial_indent=indent, **rest)


def show(*names: str) -> None:
    """Prints the registries of these names, or all of them."""
    chosen = {name: lookup("registry", name, REGISTRIES)() for name in names or REGISTRIES}
    for name, entries in chosen.items():
        print(name)
        left = max(len(entry.name) for entry in entries)
        for entry in entries:
            print("\n".join(_text(entry, left, bool(names))))
    if not names:
        print(
            "Options and their defaults: python -m experiments.list NAME, as in list attacks."
        )


if __name__ == "__main__":
    main(show, reads=(), positional=True)
