"""What can be known to be wrong with a configuration before any data is loaded.

The checks and their messages are the same for flags, JSON files, records and Python.
"""

import dataclasses
import types
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from farsign_jax import aggregators, attacks, models, problems, simulation, specs
from farsign_jax.aggregators.rule import Count
from farsign_jax.config import schedules, systems
from farsign_jax.config.settings import NO_SUBSPACE, PLACEMENTS, RunSettings, members
from farsign_jax.data import datasets, partitions
from farsign_jax.methods import options_of
from farsign_jax.validation import InvalidConfig, lookup, require


def check_settings(settings: RunSettings) -> None:
    """Raises `InvalidConfig` if the settings that all runs share cannot run."""
    _check_types(settings)
    require(settings.workers > 0, f"need workers > 0: got {settings.workers}")
    attacks.byzantine_mask(settings.workers, settings.byzantine)  # which names the rule
    datasets.parse(settings.dataset)
    if not isinstance(settings.model, nn.Module):
        models.make(settings.model)
    if settings.subspace != NO_SUBSPACE:
        problems.parse_subspace(settings.subspace)
    lookup("partition", settings.partition, partitions.PARTITIONS)
    simulation.depth(settings.delivery)
    lookup("byzantine_placement", settings.byzantine_placement, PLACEMENTS)
    schedules.round_options(settings)
    _check_time(settings)
    for field in dataclasses.fields(settings):
        if field.metadata.get("positive"):
            name, value = field.name, getattr(settings, field.name)
            require(0 < value < 2**31, f"need 0 < {name} < 2147483648: got {value}")
    require(0 < settings.decay <= 1, f"need 0 < decay <= 1: got {settings.decay}")
    step, held = settings.step_size, settings.validation
    require(step is None or 0 < step < np.inf, f"need a finite step_size > 0: got {step}")
    require(0 <= held < 1, f"need 0 <= validation < 1: got {held}")


_WANTED = {int: "an integer", float: "a number", str: "a name", tuple: "a tuple"}


def _check_types(settings: RunSettings) -> None:
    for field in dataclasses.fields(settings):
        value, allowed = getattr(settings, field.name), members(field.type)
        if Any in allowed or (value is None and types.NoneType in allowed):
            continue
        kind: Any = getattr(allowed[0], "__origin__", allowed[0])
        accepted = (int, float, np.integer, np.floating) if kind is float else kind
        accepted = (int, np.integer) if kind is int else accepted
        good = isinstance(value, accepted) and not isinstance(value, bool)
        require(good, f"{field.name} is {_WANTED[kind]}: got {value!r}")


def _check_time(settings: RunSettings) -> None:
    """Arrivals, and what Byzantine workers do with them."""
    attack = settings.timing_attack
    rule = "a timing attack is by the same workers at all events: got timing_attack "
    rule += f"{attack!r}, byzantine_placement rotating"
    require(settings.byzantine_placement != "rotating" or attack == "none", rule)
    rule = f"timing_attack none takes no options: got {attack!r}"
    require(not attack.startswith("none:"), rule)
    name, options = schedules.arrival_options(settings)
    if name == "trace":
        require(set(options) == {"path"}, "trace needs a file: trace:path=FILE")
        require(attack == "none", "a recorded order of arrivals allows no timing_attack")
        return
    rule = f"arrivals {name!r} have no clock, which timing_attack needs: try exponential"
    require(name not in schedules.CLOCKLESS or attack == "none", rule)
    schedules.delay_models(settings)


def check_method(settings: RunSettings, text: str, rules: Sequence[str]) -> None:
    """Raises `InvalidConfig` if a method cannot run in these settings.

    Args:
        settings: of the runs.
        text: the method with its options.
        rules: the aggregators that it runs with, if it takes one.
    """
    name, options, _ = systems.parse_method(text, settings.preset)
    entry, takes, q = systems.method_of(text), options_of(name), settings.byzantine
    received = schedules.round_options(settings).get("wait", settings.workers)
    rows = received
    if "buffers" in takes:
        rows = options.get("buffers", settings.buffers)
        require(rows >= 2 * q + 1, f"{name} needs buffers >= 2q + 1: got buffers={rows}, q={q}")
        rule = "byzantine_placement one_buffer is about the buffers that all methods share, "
        rule += f"buffers={settings.buffers}: got {text!r}"
        shared = settings.byzantine_placement != "one_buffer" or rows == settings.buffers
        require(shared, rule)
    if "aggregator" in takes:
        for rule in rules:  # which must be able to take that many rows
            aggregators.make(rule).check(Count(rows, rows))
    else:
        rules = (entry.fixed_aggregator,) if entry.fixed_aggregator else ()
    robust = [rule for rule in rules if rule != "mean"]
    if entry.works_in_rounds and robust:
        rule = f"{name} with {robust[0]} needs q < m/2: got q={q}, m={received}"
        require(2 * q < received, rule)
    trace = specs.parse(settings.arrivals)[0] == "trace"
    require(not (entry.works_in_rounds and trace), "rounds need a model of delays, not a trace")


def check_attack(settings: RunSettings, text: str) -> None:
    """Raises `InvalidConfig` if an attack cannot be made, or not with so many workers."""
    name, options = attacks.parse(text)
    attacks.make(name, **options)
    if options.get("among") == "honest":
        honest = settings.workers - settings.byzantine
        rule = f"{text!r} needs target < honest workers: got {honest} of these"
        require(options["target"] < honest, rule)


def check_seed(seed: Any) -> None:
    """Raises `InvalidConfig` unless the seed is a whole number in 0..2147483647."""
    good = isinstance(seed, int | np.integer) and 0 <= seed < 2**31
    require(good and not isinstance(seed, bool), f"seeds are 0..2147483647: got {seed!r}")


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Raises `InvalidConfig` if a list is empty, or names something twice."""
    require(len(values) > 0, f"{name} names none")
    rule = f"{name} names one twice: {','.join(map(str, values))}"
    require(len(set(values)) == len(values), rule)


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as `parse_seeds` takes them: a count, or a list, of a single seed with a comma."""
    if list(seeds) == list(range(len(seeds))):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` as the seeds 0..4; `0,3,7`, or `7,`, as they are."""
    try:
        seeds = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise InvalidConfig(f"seeds is a count or a list like 0,3,7: got {text!r}") from None
    if "," not in text:
        require(seeds[0] > 0, f"need at least one seed: got {text}")
        return tuple(range(seeds[0]))
    check_distinct("seeds", seeds)
    for seed in seeds:
        check_seed(seed)
    return seeds
