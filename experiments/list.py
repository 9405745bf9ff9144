"""Lists every name that the flags accept, with a one-line description.

    python -m experiments.list
    python -m experiments.list attacks krum

Without arguments, the command prints the names of all registries. With names of registries, or
of entries, it also prints the options with the defaults, which are given as
in `alie:z=0.5,ddof=1`, and what a bare name stands for where that differs. It writes no
files.
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

# The options by which workers differ in speed, whatever the model of delays.
SPEEDS = {"spread": 1, "fast": None}


class Entry(NamedTuple):
    """One name of a registry.

    Attributes:
        name: The name.
        description: One line.
        options: The default of each option; None where it is not set, `...` where it must be
            given.
        usual: What the name alone stands for on the command line, if not for the defaults.
    """

    name: str
    description: str
    options: Mapping[str, Any] = {}
    usual: str = ""


def _first_sentence(documented: Any) -> str:
    text = " ".join((inspect.getdoc(documented) or "").split())
    return re.split(r"\. (?=[A-Z])|: i32|\.$", text)[0]


def _options(factory: Callable[..., Any], skip: int = 0) -> dict[str, Any]:
    """The parameters of a factory after the first `skip`, as `Entry.options`."""
    parameters = list(inspect.signature(factory).parameters.values())[skip:]
    return {p.name: ... if p.default is p.empty else p.default for p in parameters}


def _methods() -> list[Entry]:
    found = []
    for name, method in METHODS.items():
        options = defaults_of(name)
        options = {n: v for n, v in options.items() if n not in ("aggregator", "byzantine")}
        found.append(Entry(name, _first_sentence(method.build), options))
    return found


def _functions(
    registry: Mapping[str, Callable[..., Any]], usual: tuple[str, ...] = (), skip: int = 0
) -> list[Entry]:
    """The entries of a registry of factories; `usual` are names with the options that they
    stand for on the command line."""
    bare = {text.partition(":")[0]: text for text in usual if ":" in text}
    return [
        Entry(name, _first_sentence(factory), _options(factory, skip), bare.get(name, ""))
        for name, factory in registry.items()
    ]


def _attacks() -> list[Entry]:
    return [
        entry._replace(options={**entry.options, "space": ATTACKS[entry.name]().space})
        for entry in _functions(ATTACKS, PAPER_ATTACKS)
    ]


def _clockless() -> list[Entry]:
    named = {"uniform": arrivals.uniform, "weighted": arrivals.weighted}
    found = [
        Entry(
            name,
            _first_sentence(factory),
            {option: v for option, v in SPEEDS.items() if option in CLOCKLESS[name]},
        )
        for name, factory in named.items()
    ]
    return [*found, Entry("trace", _first_sentence(arrivals.trace), {"path": ...})]


def _partitions() -> list[Entry]:
    return [
        Entry(
            name,
            _first_sentence(split),
            {} if name == "iid" else {"heterogeneity": heterogeneity},
        )
        for name, (split, heterogeneity) in PARTITIONS.items()
    ]


def _delays() -> list[Entry]:
    delays = _functions(DELAYS)
    return [*_clockless(), *(e._replace(options={**e.options, **SPEEDS}) for e in delays)]


REGISTRIES: dict[str, Callable[[], list[Entry]]] = {
    "methods": _methods,
    "aggregators": lambda: _functions(AGGREGATORS, PAPER_AGGREGATORS),
    "preaggregators": lambda: _functions(PREAGGREGATORS),
    "attacks": _attacks,
    "timing_attacks": lambda: _functions(TIMING_ATTACKS, skip=1),
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


def _shown(value: Any) -> str:
    if isinstance(value, tuple):  # as the command line accepts it
        return "x".join(map(str, value))
    return "?" if value is ... else f"{value:g}" if isinstance(value, float) else str(value)


def _lines(entry: Entry, width: int, with_options: bool) -> list[str]:
    """The lines of an entry, whose name is padded to `width`."""
    indent = " " * (width + 4)
    wrapping: dict[str, Any] = {"width": WIDTH, "subsequent_indent": indent}
    wrapping |= {"break_on_hyphens": False, "break_long_words": False}
    lines = textwrap.wrap(f"  {entry.name:{width}}  {entry.description}", **wrapping)
    if not with_options:
        return lines
    options = entry.options.items()
    unset = ", ".join(name for name, value in options if value is None)
    parts = [", ".join(f"{n}={_shown(v)}" for n, v in options if v is not None)]
    parts.append(f"not set: {unset}" if unset else "")
    parts.append(f"{entry.name} alone is {entry.usual}" if entry.usual else "")
    text = "; ".join(filter(None, parts))
    return lines + textwrap.wrap(text, initial_indent=indent, **wrapping)


def show(*names: str) -> None:
    """Prints the registries and the entries of these names, or all registries."""
    made = {name: make() for name, make in REGISTRIES.items()}
    chosen: dict[str, list[Entry]] = {} if names else made
    for name in names:
        if name in made:
            chosen[name] = made[name]
            continue
        lookup("name", name, {e.name: e for each in made.values() for e in each} | made)
        for registry, entries in made.items():
            found = [entry for entry in entries if entry.name == name]
            if found:
                chosen[registry] = [*chosen.get(registry, []), *found]
    for name, entries in chosen.items():
        print(name)
        width = max(len(entry.name) for entry in entries)
        for entry in entries:
            print("\n".join(_lines(entry, width, bool(names))))
    if not names:
        print("For options and their defaults, name a registry or an entry, as in")
        print("    python -m experiments.list attacks krum")


if __name__ == "__main__":
    main(show, reads=(), positional=True)
