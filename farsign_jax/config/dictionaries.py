"""Settings that are dictionaries, as ByzFL has them, as texts of the flags.

    {"aggregators": [{"name": "TrMean", "parameters": {"f": 3}}],
     "pre_aggregators": [{"name": "NNM", "parameters": {"f": 3}}],
     "attacks": [{"name": "ALittleIsEnough", "parameters": {"tau": 1.5}}],
     "partition": {"name": "dirichlet", "parameters": {"heterogeneity": 0.3}}}

may stand for "nnm:f=3+trimmed_mean:f=3", "alie:z=1.5,sign=1,ddof=1" and "dirichlet:heterogeneity=0.3":
the same runs, under the same names. `aggregator` and `attack`, as ByzFL has them, are one
each. What names of ByzFL mean, `farsign_jax.interop.byzfl` says.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from farsign_jax import aggregators, models
from farsign_jax.config.panel_config import PAPER_AGGREGATORS, parse_attack, parse_method
from farsign_jax.data.partitions import PARTITIONS
from farsign_jax.interop import byzfl
from farsign_jax.specs import parse
from farsign_jax.validation import InvalidConfig, lookup, require

PRE = "pre_aggregators"


ONE = {"aggregator": "aggregators", "attack": "attacks"}  # ByzFL's keys, of one entry


MORE = (PRE, *ONE)  # what a file may have beside settings


KINDS = {"aggregators": "aggregator", "attacks": "attack", "methods": "method"}


def plain(
    told: dict[str, Any], usual: Sequence[str], given: Sequence[str] | None = None
) -> dict[str, Any]:
    """The same settings in texts.

    `pre_aggregators` go before every rule of `aggregators`, or of `usual` where there are none;
    a list of lists of them are as many chains, each before every rule. Rules that are
    `given` stand in the place of `aggregators`.

    Raises:
        InvalidConfig: naming the dictionary that cannot be read, or names what there is not.
    """
    found = {n: _texts(n, value) for n, value in told.items() if n not in MORE}
    for one, name in ONE.items():
        if one in told:
            require(name not in told, f"{one} and {name} are given: need one of them")
            rule = f"{one} is one dictionary or text, {name} a list: got {told[one]!r}"
            require(isinstance(told[one], dict | str), rule)
            found[name] = [_text(name, told[one], one)]
    if given is not None:
        found["aggregators"] = list(given)
    if PRE in told:
        rules = found.get("aggregators", list(usual))
        rules = rules if isinstance(rules, list) else [rules]
        chains = [*_chains(told[PRE])]
        found["aggregators"] = ["+".join((*chain, rule)) for chain in chains for rule in rules]
    return found


def listed(name: str, text: str) -> list[str]:
    """The texts for a flag of that name: JSON of a dictionary, of several, or of their list.

    Raises:
        InvalidConfig: as `plain`, and where it is not JSON.
    """
    try:
        told = json.loads(text if text.lstrip()[0] == "[" else f"[{text}]")
    except ValueError as error:
        rule = f"--{name} {text} is not JSON (names have a --{name} of their own): {error}"
        raise InvalidConfig(rule) from None
    found = _texts(name, told)
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
    """Raises `InvalidConfig` on what no setting can make right."""
    if name == "aggregators":
        usual = {one.partition(":")[0]: one for one in PAPER_AGGREGATORS}
        aggregators.make(usual.get(aggregators.canonical(text), text))
    elif name == "attacks":
        parse_attack(text)
    elif name == "methods":
        parse_method(text)
    elif name == "model":
        models.make(text)
    elif name == "partition":
        kind, options = parse(text)
        lookup("partition", kind, PARTITIONS)
        for option, _ in options:
            lookup("option of partitions", option, {"heterogeneity": None})


@contextlib.contextmanager
def _naming(where: str, entry: Any) -> Iterator[None]:
    """Says of what cannot be read where it stands."""
    try:
        yield
    except InvalidConfig as error:
        raise InvalidConfig(f"{where} {json.dumps(entry)}: {error}") from None
