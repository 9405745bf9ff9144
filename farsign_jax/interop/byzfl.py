"""Translates the dictionaries of ByzFL into the descriptions of this library.

    byzfl.text("aggregator", {"name": "TrMean", "parameters": {"f": 3}})  # trimmed_mean:f=3
    byzfl.text("attack", {"name": "ALittleIsEnough"})  # alie:z=1.5,sign=1,ddof=1

A name that is spelled as a class of ByzFL (0.0.11) stands for what that class does, with its
defaults and conventions, apart from the differences listed below; classes that cannot be
reproduced are refused with the reason. Any other name is a name of this library, and the
dictionary is another way to write `name:option=value,...`. (In texts, and in
`aggregators.make`, the names of ByzFL are aliases, with the defaults and conventions of this
library.)

The remaining differences are:

    Krum, MultiKrum      need n >= 2f + 3 here, n > 2f in ByzFL
    NNM, ARC             need n > 2f here; n > f, or n >= f for ARC, in ByzFL
    every aggregator     leaves out rows that are not finite here; in ByzFL they count (only
                         GeometricMedian leaves out those with infinities)
    GeometricMedian      T = 0 is refused here, and gives zeros in ByzFL
    CenteredClipping     L = 0 is refused here, and gives the start in ByzFL
    f                    must be given here, and is 0 by default in ByzFL
    ARC                  computes its count of rows in integers here, in floats in ByzFL

Two more differences follow from the absence of rounds in which all Byzantine workers act
together. A Byzantine worker of ByzFL sees the honest gradients of the round; here it sees what
honest workers last reported. And the Byzantine workers of ByzFL all send the same vector, with
one draw of `Gaussian`; here each has its own. With `LabelFlipping`, that vector is the mean of
the gradients that honest workers compute with flipped labels; here each Byzantine worker flips
the labels of its own examples.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from farsign_jax.validation import InvalidConfig, require


class Peer(NamedTuple):
    """The counterpart of a class of ByzFL.

    Attributes:
        name: its name in the registries of this library.
        takes: the names of its parameters here, by their names in ByzFL.
        defaults: options that make it equal to ByzFL's; parameters that are given override
            them.
        fixed: parameters of ByzFL that can only have their default value here.
    """

    name: str
    takes: Mapping[str, str] = {}
    defaults: Mapping[str, Any] = {}
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
    "LabelFlipping": Peer("label_flip"),
}

_SEARCH = "it searches for tau against one aggregator in every round: give a tau to {}"

REFUSED = {
    "Optimal_InnerProductManipulation": _SEARCH.format("InnerProductManipulation"),
    "Optimal_ALittleIsEnough": _SEARCH.format("ALittleIsEnough"),
    "MoNNA": "it trusts one of the workers, which it chooses itself",
    "CAF": "its result depends on a random start that cannot be chosen",
    "SMEA": "its result depends on a random start that cannot be chosen",
}

PEERS = {"aggregator": AGGREGATORS, "attack": ATTACKS}


def text(kind: str, entry: Any) -> str:
    """The description `name:option=value,...` for a dictionary or a list of stages.

    Args:
        kind: what is described: "aggregator", for which a list of stages is accepted too,
            "attack", or a kind without translation from ByzFL ("method", "model", "partition",
            ...).
        entry: `{"name": ..., "parameters": {...}}`, or a text, which is returned unchanged.

    Raises:
        InvalidConfig: if the entry has another form or a value that cannot be written as text,
            or if it is a class of ByzFL, or has a parameter, without counterpart here.
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
        raise InvalidConfig(f"ByzFL's {name} is not available here: {REFUSED[name]}")
    options, peer = dict(given), PEERS.get(kind, {}).get(name)
    if peer is not None:
        name, options = peer.name, _translated(name, peer, given)
    rest = ",".join(f"{_word(o)}={_word(v)}" for o, v in options.items())
    return f"{_word(name)}:{rest}" if rest else _word(name)


def _translated(name: str, peer: Peer, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of this library for the parameters of a class of ByzFL."""
    options: dict[str, Any] = {}
    for parameter, value in given.items():
        if parameter in peer.fixed:
            only = peer.fixed[parameter]
            require(
                value == only,
                f"{name} is available with {parameter}={only} only: got {value!r}",
            )
            continue
        known = ", ".join((*peer.takes, *peer.fixed)) or "none"
        require(parameter in peer.takes, f"{name} has no {parameter!r}: it has {known}")
        options[peer.takes[parameter]] = value
    if "f" in peer.takes:
        rule = f"{name} needs f (ByzFL's run_benchmark adds it, here it must be given)"
        require("f" in options, rule)
    return options | {o: v for o, v in peer.defaults.items() if o not in options}


def _word(value: Any) -> str:
    """A name or a number as part of a description; a list of widths becomes 256x128."""
    if isinstance(value, list) and value and all(type(width) is int for width in value):
        return "x".join(map(str, value))
    good = isinstance(value, str | int | float)
    if isinstance(value, float):
        good = bool(np.isfinite(value))
    elif isinstance(value, str):
        good = bool(value) and not re.search(r"[\s,:+=]", value)
    require(good, f"parameters are names and finite numbers: got {value!r}")
    return str(value).lower() if isinstance(value, bool) else str(value)
