# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Aggregators by name, and pipelines of pre-aggregators and a rule.

A robust aggregation rule turns n vectors, of which up to f may be Byzantine, into one. Each
function of `AGGREGATORS` returns a `Rule`, a pure function
`rule(x, mask=None, *, start=None, key=None) -> f[d]` of the rows x f[n, d], one per worker,
and the mask bool[n] of the rows that count, None for all. `start` f[d] is the previous output,
from which `centered_clipping` continues; the caller keeps it. `key` is for pre-aggregators that
draw (`bucketing`). Every rule accepts all four arguments, so that a server can call any of them
in the same way, under `jit`, `vmap`, `lax.cond` and `lax.scan`.

    rule = aggregators.make("nnm+trimmed_mean", f=3)
    update = rule(gradients)

The docstring of `row_ops` describes what all rules share. In short, the result is that of
x[mask] without rows that hold NaN, infinities or numbers too large to be squared; a broken
precondition raises `InvalidConfig` with its numbers; and no input gives a non-finite result.

Where the field disagrees, the definition of the original paper is the default and the others
are options. To add a rule, write a function whose parameters are its options and which returns
a `Rule`, and enter it in `AGGREGATORS`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax import specs
from farsign_jax.aggregators.block_median import block_geometric_median
from farsign_jax.aggregators.comparative_elimination import comparative_elimination
from farsign_jax.aggregators.coordinatewise import (
    majority_vote,
    meamed,
    mean,
    median,
    phocas,
    trimmed_mean,
)
from farsign_jax.aggregators.distance_based import bulyan, krum, multi_krum
from farsign_jax.aggregators.filtering import iterative_filtering
from farsign_jax.aggregators.geometric import centered_clipping, geometric_median, rfa
from farsign_jax.aggregators.minimum_diameter import mda
from farsign_jax.aggregators.preaggregators import PREAGGREGATORS, PreAggregator
from farsign_jax.aggregators.rule import Count, Rule, RuleFactory
from farsign_jax.base import Array, Key
from farsign_jax.validation import lookup, require

AGGREGATORS: dict[str, RuleFactory] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "meamed": meamed,
    "phocas": phocas,
    "majority_vote": majority_vote,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "mda": mda,
    "comparative_elimination": comparative_elimination,
    "iterative_filtering": iterative_filtering,
    "geometric_median": geometric_median,
    "block_geometric_median": block_geometric_median,
    "rfa": rfa,
    "centered_clipping": centered_clipping,
}


# Names of ByzFL and of papers, in upper or lower case. An alias stands for the name only: the
# options keep the defaults of this library. `GeometricMedian` is ByzFL's rule of that name, a
# few smoothed iterations; `geometric_median` is exact.
ALIASES = {
    "Average": "mean",
    "CWMed": "median",
    "TrMean": "trimmed_mean",
    "CWTM": "trimmed_mean",
    "TrimmedMean": "trimmed_mean",
    "MultiKrum": "multi_krum",
    "GeometricMedian": "rfa",
    "BGMD": "block_geometric_median",
    "CenteredClipping": "centered_clipping",
    "CC": "centered_clipping",
    "MajorityVote": "majority_vote",
    "SignMV": "majority_vote",
}


# Other names of options: ByzFL's T and L, and flower's beta.
PARAMETERS = {"T": "iterations", "L": "iterations", "beta": "fraction"}


Stage = tuple[str, dict[str, Any]]  # name, options


def _canonical(name: Any) -> str:
    known = {n.lower(): n for n in (*AGGREGATORS, *PREAGGREGATORS)}
    known |= {alias.lower(): n for alias, n in ALIASES.items()}
    return lookup("aggregator", str(name).lower(), known)


def _texts(text: str) -> list[str]:
    """The stages of a description, each `name:option=value,...`."""
    return re.split(r"\+(?![0-9])", text)  # the + of 1e+5 joins no stages


def parse(text: str) -> tuple[Stage, ...]:
    """The stages of `name:option=value,...+name:...`, with the names of the registries.

    The grammar is that of `farsign_jax.specs`: options have the types that the factory of the
    stage declares for them.

    Raises:
        InvalidConfig: if a name is unknown, or an option cannot be read.
    """
    return tuple(_stage(part) for part in _texts(text))


def _stage(text: str) -> Stage:
    name, options = specs.parse(text)
    name = _canonical(name)
    known = specs.parameters(_factory(name))
    typed = {}
    for option, value in options.items():
        parameter = PARAMETERS.get(option, option)
        if parameter in known:
            (value,) = specs.typed(name, {parameter: value}, known).values()
        else:
            value = specs.number(value)
        typed[option] = value
    return name, typed


def _factory(name: str) -> Callable[..., Any]:
    return AGGREGATORS.get(name) or PREAGGREGATORS[name]


def canonical(text: str) -> str:
    """The same description in the registries' names: `nnm:f=2+krum` for `NNM:f=2+Krum`."""
    names = [name for name, _ in parse(text)]
    rest = (part.strip().partition(":")[1:] for part in _texts(text))
    return "+".join(name + "".join(tail) for name, tail in zip(names, rest, strict=True))


def _stages(spec: Any) -> tuple[Stage, ...]:
    """The stages of a text, of ByzFL's dict, or of a list of either."""
    if isinstance(spec, str):
        return parse(spec)
    if isinstance(spec, Mapping):
        extra = sorted(map(str, set(spec) - {"name", "parameters"}))
        require("name" in spec, f"an aggregator needs a name: got {dict(spec)!r}")
        require(not extra, f"an aggregator has a name and parameters: got {', '.join(extra)}")
        return ((_canonical(spec["name"]), dict(spec.get("parameters") or {})),)
    known = "an aggregator is a text, a dict with name and parameters, or a list of them"
    require(isinstance(spec, Sequence) and len(spec) > 0, f"{known}: got {spec!r}")
    return tuple(stage for item in spec for stage in _stages(item))


def _build(
    name: str, own: Mapping[str, Any], shared: Mapping[str, Any]
) -> tuple[Any, set[str]]:
    """One stage from its own and the shared options, and the shared options that it takes."""
    factory = _factory(name)
    takes = specs.parameters(factory)
    taken = {o: PARAMETERS.get(o, o) for o in shared if PARAMETERS.get(o, o) in takes}
    options = {taken[o]: shared[o] for o in taken}
    named: dict[str, Any] = {}
    for option, value in own.items():
        known = PARAMETERS.get(option, option)
        rule = f"{name} has no option {option!r}: it has {', '.join(takes) or 'none'}"
        require(known in takes, rule)
        require(known not in named, f"{name} is given {known} twice")
        named[known] = value
    options |= named
    missing = [o for o, p in takes.items() if p.default is p.empty and o not in options]
    require(not missing, f"{name} needs {', '.join(missing)}")
    return factory(**options), set(taken)


def _compose(pres: Sequence[PreAggregator], rule: Rule) -> Rule:
    """The rule that applies the stages in turn; the caller's mask is that of the first one."""
    if not pres:
        return rule
    draws = sum(pre.draws for pre in pres)

    def check(count: Count) -> None:
        for pre in pres:
            pre.check(count)
            count = pre.left(count)
        rule.check(count)

    def core(x: Array, mask: Array, start: Any, key: Key | None) -> Array:
        # Each stage that draws gets a key; a single one gets the caller's key itself.
        several = key is not None and draws > 1
        keys = iter(jax.random.split(jnp.asarray(key), draws) if several else [key] * draws)
        for pre in pres:
            x, mask = pre.core(x, mask, next(keys) if pre.draws else None)
        return rule.core(x, mask, start, None)

    return Rule("+".join(stage.name for stage in (*pres, rule)), core, check)


def make(spec: Any, **options: Any) -> Rule:
    """The rule that a text, a dictionary or a list describes.

        make("krum", f=2)
        make("nnm+krum", f=2)  # pre-aggregators first
        make("clipping:c=2+nnm:f=3+trimmed_mean:f=3")
        make({"name": "TrMean", "parameters": {"f": 3}})  # as ByzFL, or a list of such

    Args:
        spec: the description. Names may be in upper or lower case, and may be those of ByzFL
            and of papers (`ALIASES`).
        options: options for every stage that has them. The options that the description gives
            to a stage itself take precedence.

    Returns:
        A `Rule`, with the pre-aggregators in front of it.

    Raises:
        InvalidConfig: if a name or an option does not exist, an option is missing, the last
            stage is not a rule, or another stage is one.
    """
    stages = _stages(spec)
    names = [name for name, _ in stages]
    require(names[-1] in AGGREGATORS, f"{names[-1]} is a pre-aggregator: a rule must follow")
    for name in names[:-1]:
        require(name in PREAGGREGATORS, f"{name} is a rule: only the last stage can be one")
    built: list[Any] = []
    taken: set[str] = set()
    for name, own in stages:
        stage, took = _build(name, own, options)
        built.append(stage)
        taken |= took
    for option in options:
        known = f"{'+'.join(names)} has no option {option!r}"
        if len(names) == 1:
            takes = specs.parameters(AGGREGATORS[names[0]])
            known += f": it has {', '.join(takes) or 'none'}"
        require(option in taken, known)
    return _compose(built[:-1], built[-1])
