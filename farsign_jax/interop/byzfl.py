"""What ByzFL says in dictionaries, in the texts of this library.

    byzfl.text("aggregator", {"name": "TrMean", "parameters": {"f": 3}})  # trimmed_mean:f=3
    byzfl.text("attack", {"name": "ALittleIsEnough"})  # alie:z=1.5,sign=1,ddof=1

A name that is spelled as a class of ByzFL (0.0.11) means what that class does, with its
defaults and its conventions, but for what is listed below, or is refused with the reason. Any
other name is one of ours, and the dictionary another way to write `name:option=value,...`.
(In texts, and in `aggregators.make`, ByzFL's names are aliases: numbers and conventions are
ours there.)

What is different, beside that:

    Krum, MultiKrum      need n >= 2f + 3 here, n > 2f there
    NNM, ARC             need n > 2f here; n > f, or n >= f for ARC, there
    every aggregator     leaves out rows that are not finite here; there they count (only
                         GeometricMedian leaves out those with infinities)
    GeometricMedian      T = 0 is refused here; zeros there
    CenteredClipping     L = 0 is refused here; the start there
    f                    must be written down here; 0 by default there
    ARC                  rounds its count of rows exactly here; a product of floats there

Two more things have no translation, as there are no rounds in which all liars speak together. A
liar of ByzFL sees the honest gradients of the round, ours what honest workers last said. And
ByzFL's liars all send the same vector: of `Gaussian` one draw, here each has its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from farsign_jax.validation import InvalidConfig, require


class Peer(NamedTuple):
    """What a class of ByzFL is here.

    Attributes:
        name: in our registries.
        takes: its parameters, as they are called here.
        told: our options that make it ByzFL's; a parameter that is given comes first.
        fixed: parameters that can only be what they are by default.
    """

    name: str
    takes: Mapping[str, str] = {}
    told: Mapping[str, Any] = {}
    fixed: Mapping[str, Any] = {}


_F = {"f": "f"}


AGGREGATORS = {
    "Average": Peer("mean"),
    "Median": Peer("median"),
    "TrMean": Peer("trimmed_mean", _F),
    "Krum": Peer("krum", _F, {"neighbours": "n-f-1"}),
    "MultiKrum": Peer("multi_krum", _F, {"m": "n-f", "neighbours": "n-f-1"}),
    "GeometricMedian": Peer(
        "rfa",
        {"nu": "nu", "T": "iterations"},
        {"nu": 0.1, "iterations": 3, "start": "zero"},
    ),
    "CenteredClipping": Peer(
        "centered_clipping",
        {"tau": "tau", "L": "iterations"},
        {"tau": 100.0, "iterations": 1},
        {"m": None},
    ),
    "MDA": Peer("mda", _F),
    "Meamed": Peer("meamed", _F),
    "NNM": Peer("nnm", _F),
    "ARC": Peer("arc", _F),
    "Bucketing": Peer("bucketing", {"s": "s"}, {"s": 1}),
    "Clipping": Peer("clipping", {"c": "c"}, {"c": 2.0}),
}


ATTACKS = {
    "NoAttack": Peer("none"),
    "SignFlipping": Peer("sign_flip", {}, {"source": "honest_mean"}),
    "InnerProductManipulation": Peer("ipm", {"tau": "epsilon"}, {"epsilon": 2.0}),
    "ALittleIsEnough": Peer("alie", {"tau": "z"}, {"z": 1.5, "sign": 1, "ddof": 1}),
    "Mimic": Peer("mimic", {"epsilon": "target"}, {"target": 0, "among": "honest"}),
    "Gaussian": Peer("gaussian", {"sigma": "std"}, {"std": 1.0}, {"mu": 0.0}),
    "Inf": Peer("nonfinite", {}, {"kind": "inf"}),
}


_SEARCH = "it searches for tau against one aggregator in every round: give a tau to {}"


REFUSED = {
    "Optimal_InnerProductManipulation": _SEARCH.format("InnerProductManipulation"),
    "Optimal_ALittleIsEnough": _SEARCH.format("ALittleIsEnough"),
    "LabelFlipping": "it spoils what workers learn from; attacks here are on what they say",
    "MoNNA": "it trusts one of the workers, of its own choice",
    "CAF": "its result depends on a random start that it does not let one choose",
    "SMEA": "its result depends on a random start that it does not let one choose",
}


PEERS = {"aggregator": AGGREGATORS, "attack": ATTACKS}


def text(kind: str, entry: Any) -> str:
    """The text for a dictionary; of aggregators, for a list of stages too.

    Args:
        kind: what it names: "aggregator", "attack", or anything else that ByzFL has no
            dictionaries for here ("method", "model", "partition", ...).
        entry: `{"name": ..., "parameters": {...}}`, or a text, which stays what it is.

    Raises:
        InvalidConfig: on anything else, on what cannot be written as a text, and on classes of
            ByzFL, or parameters of these, that mean something that is not to be had here.
    """
    if isinstance(entry, str):
        return entry
    if kind == "aggregator" and isinstance(entry, Sequence) and entry:
        return "+".join(text(kind, stage) for stage in entry)
    rule = f"is a text or a dictionary with name and parameters: got {entry!r}"
    if not (isinstance(entry, Mapping) and "name" in entry):
        raise InvalidConfig(f"{kind} {rule}")
    extra = sorted(map(str, set(entry) - {"name", "parameters"}))
    require(not extra, f"{kind} has a name and parameters: got {', '.join(extra)}")
    name, given = entry["name"], entry.get("parameters") or {}
    require(isinstance(name, str) and isinstance(given, Mapping), f"{kind} {rule}")
    if name in REFUSED and kind in PEERS:
        raise InvalidConfig(f"ByzFL's {name} is not to be had here: {REFUSED[name]}")
    options, peer = dict(given), PEERS.get(kind, {}).get(name)
    if peer is not None:
        name, options = peer.name, _translated(name, peer, given)
    told = ",".join(f"{_word(o)}={_word(v)}" for o, v in options.items())
    return f"{_word(name)}:{told}" if told else _word(name)


def _translated(name: str, peer: Peer, given: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for those of ByzFL."""
    options: dict[str, Any] = {}
    for parameter, value in given.items():
        if parameter in peer.fixed:
            only = peer.fixed[parameter]
            require(
                value == only, f"{name} is to be had with {parameter}={only}: got {value!r}"
            )
            continue
        known = ", ".join((*peer.takes, *peer.fixed)) or "none"
        require(parameter in peer.takes, f"{name} has no {parameter!r}: it has {known}")
        options[peer.takes[parameter]] = value
    if "f" in peer.takes:
        rule = f"{name} needs f (ByzFL's run_benchmark fills it in, here it is written down)"
        require("f" in options, rule)
    return options | {o: v for o, v in peer.told.items() if o not in options}


def _word(value: Any) -> str:
    """A name or a number as it stands in a text; widths of layers as in 256x128."""
    whole = isinstance(value, list) and value and all(type(one) is int for one in value)
    if whole:
        return "x".join(map(str, value))
    good = isinstance(value, str | int | float)
    if isinstance(value, float):
        good = bool(np.isfinite(value))
    elif isinstance(value, str):
        good = bool(value) and not re.search(r"[\s,:+=]", value)
    require(good, f"a name or a finite number stands in parameters: got {value!r}")
    return str(value).lower() if isinstance(value, bool) else str(value)
