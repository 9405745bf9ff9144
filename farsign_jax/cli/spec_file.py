"""Settings in a JSON file, where ByzFL's dictionaries may stand for the texts of flags.

    {"aggregators": [{"name": "TrMean", "parameters": {"f": 3}}],
     "pre_aggregators": [{"name": "NNM", "parameters": {"f": 3}}],
     "attacks": [{"name": "ALittleIsEnough", "parameters": {"tau": 1.5}}],
     "partition": {"name": "dirichlet", "parameters": {"heterogeneity": 0.3}}}

may stand for "nnm:f=3+trimmed_mean:f=3", "alie:z=1.5,sign=1,ddof=1" and
"dirichlet:heterogeneity=0.3": the same runs, under the same names. `aggregator` and `attack`,
as ByzFL has them, are one each. `farsign_jax.interop.byzfl` documents the names of ByzFL.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from farsign_jax import aggregators, attacks, models
from farsign_jax.config.panel_config import usual
from farsign_jax.config.systems import parse_method
from farsign_jax.data import partitions
from farsign_jax.interop import byzfl
from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig, lookup, require

PRE = "pre_aggregators"
ONE = {"aggregator": "aggregators", "attack": "attacks"}  # keys of ByzFL that hold one entry
MORE = (PRE, *ONE)  # what a file may have beside settings
KINDS = {"aggregators": "aggregator", "attacks": "attack", "methods": "method"}


def read(
    path: str, known: Sequence[str], rules: Sequence[str], given: Sequence[str] | None = None
) -> dict[str, Any]:
    """The settings in a JSON file, in texts.

    Args:
        path: of the file.
        known: the names of settings that it may have, beside `MORE`.
        rules: the aggregators that stand behind its pre-aggregators if it names none.
        given: aggregators that stand in the place of its own; None: there are none.

    Raises:
        InvalidConfig: if the file is not there, not an object, or names what does not exist.
    """
    try:
        found = json.loads(files.expanded(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"--spec {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidConfig(f"--spec {path} is not JSON: {error}") from error
    require(isinstance(found, dict), f"--spec {path} is not an object with settings")
    rule = f"--spec {path}: a list under the name of a setting varies it: leave 'vary' out"
    require("vary" not in found, rule)
    for name in found:
        lookup("setting", name, dict.fromkeys((*known, *MORE)))
    return in_texts(found, rules, given)


def in_texts(
    settings: Mapping[str, Any], rules: Sequence[str], given: Sequence[str] | None = None
) -> dict[str, Any]:
    """The same settings, with texts for dictionaries.

    `pre_aggregators` go before every rule of `aggregators`, or of `rules` if there are none;
    a list of lists of them is as many chains, each before every rule. Rules that are `given`
    stand in the place of `aggregators`.

    Raises:
        InvalidConfig: naming the dictionary that cannot be read, or names what does not exist.
    """
    found = {n: _texts(n, value) for n, value in settings.items() if n not in MORE}
    for one, name in ONE.items():
        if one in settings:
            require(name not in settings, f"{one} and {name} are given: need one of them")
            rule = f"{one} is one dictionary or text, {name} a list: got {settings[one]!r}"
            require(isinstance(settings[one], dict | str), rule)
            found[name] = [_text(name, settings[one], one)]
    if given is not None:
        found["aggregators"] = list(given)
    if PRE in settings:
        own = found.get("aggregators", list(rules))
        own = own if isinstance(own, list) else [own]
        chains = [*_chains(settings[PRE])]
        found["aggregators"] = ["+".join((*chain, rule)) for chain in chains for rule in own]
    return found


def listed(name: str, text: str) -> list[str]:
    """The texts for a flag of that name: JSON of a dictionary, of several, or of their list.

    Raises:
        InvalidConfig: as `in_texts`, and if it is not JSON.
    """
    try:
        entries = json.loads(text if text.lstrip()[0] == "[" else f"[{text}]")
    except ValueError as error:
        rule = f"--{name} {text} is not JSON (names have a --{name} of their own): {error}"
        raise InvalidConfig(rule) from None
    found = _texts(name, entries)
    for made in found:
        rule = f"--{name} has names and dictionaries: got {made!r}"
        require(isinstance(made, str), rule)
    return found


def _texts(name: str, value: Any) -> Any:
    """A setting with texts for dictionaries; what has none stays as it is."""
    if isinstance(value, list):
        return [_text(name, one, f"{name}[{i}]") for i, one in enumerate(value)]
    return _text(name, value, name)


def _text(name: str, entry: Any, where: str) -> Any:
    stages = name == "aggregators" and isinstance(entry, list)
    if not isinstance(entry, dict) and not stages:
        return entry
    with _naming(where, entry):
        made = byzfl.text(KINDS.get(name, name), entry)
        _check(name, made)
    return made


def _chains(value: Any) -> Iterator[list[str]]:
    """The texts of one chain of pre-aggregators, or of several."""
    require(isinstance(value, list), f"{PRE} is a list of dictionaries: got {value!r}")
    several = bool(value) and all(isinstance(one, list) for one in value)
    for chain in value if several else [value]:
        texts = []
        for number, entry in enumerate(chain):
            with _naming(f"{PRE}[{number}]", entry):
                texts.append(byzfl.text("aggregator", entry))
                aggregators.make(texts[-1] + "+mean")
        yield texts


def _check(name: str, text: str) -> None:
    """Raises `InvalidConfig` on what no other setting can make right."""
    if name == "aggregators":
        aggregators.make(usual(name, text))
    elif name == "attacks":
        attack, options = attacks.parse(text)
        attacks.make(attack, **options)
    elif name == "methods":
        parse_method(text)
    elif name == "model":
        models.make(text)
    elif name == "partition":
        partitions.parse(text)


@contextlib.contextmanager
def _naming(where: str, entry: Any) -> Iterator[None]:
    """Puts the place of an entry before the message about it."""
    try:
        yield
    except InvalidConfig as error:
        raise InvalidConfig(f"{where} {json.dumps(entry)}: {error}") from None
