"""From the texts of a configuration to systems: the method, its numbers, and the attack."""

from typing import Any

from farsign_jax import attacks, specs
from farsign_jax.config import schedules
from farsign_jax.config.settings import RunSettings
from farsign_jax.methods import METHODS, Method, SystemSpec, hyper_of, options_of
from farsign_jax.methods.registry import parse
from farsign_jax.validation import lookup, require

Options = dict[str, Any]


def parse_method(text: str, preset: str = "paper") -> tuple[str, Options, Options]:
    """The name of a method, its options, and its hyper-parameters, as far as they are given.

    Raises:
        InvalidConfig: if one of them does not exist or has another type.
    """
    name, found = parse(text, preset)
    rule = f"the aggregator of a method is a setting of its own: got {text!r}"
    require("aggregator" not in found, rule)
    hyper = hyper_of(name, preset)
    numbers = {option: value for option, value in found.items() if option in hyper}
    return name, {o: v for o, v in found.items() if o not in numbers}, numbers


def method_of(text: str) -> Method:
    """The entry of a method in the registry."""
    return lookup("method", specs.parse(text)[0], METHODS)


def takes_aggregator(text: str) -> bool:
    """Whether a method aggregates by a rule that one may choose."""
    return "aggregator" in options_of(specs.parse(text)[0])


def hyper_parameters(settings: RunSettings, method: str, aggregator: str = "") -> Options:
    """The hyper-parameters of a method: of its text, else the settings, else the preset."""
    name, _, given = parse_method(method, settings.preset)
    hyper = hyper_of(name, settings.preset, aggregator)
    if settings.step_size is not None:
        hyper["step_size"] = settings.step_size
    return hyper | given


def system_spec(
    settings: RunSettings, method: str, aggregator: str = "", attack: str = "none"
) -> SystemSpec:
    """The system of a method under an attack; `aggregator` is used by methods that take one.

    A method that has the options `buffers` or `byzantine` takes them from the settings, unless
    its own text gives them.
    """
    name, options, _ = parse_method(method, settings.preset)
    known = options_of(name)
    for shared in ("buffers", "byzantine"):
        if shared in known and shared not in options:
            options[shared] = getattr(settings, shared)
    if options.get("arrival_rates") == "known":
        options["arrival_rates"] = schedules.claimed_rates(settings)
    if "aggregator" in known:
        options["aggregator"] = aggregator
    attack_name, attack_options = attacks.parse(attack)
    oracle = schedules.oracle_config(settings)
    taken = tuple(attack_options.items())
    return SystemSpec(name, attack_name, taken, oracle, tuple(options.items()))


def poisons(attack: str) -> bool:
    """Whether an attack changes the examples of Byzantine workers."""
    return attacks.make(attack).poison is not None


def in_lockstep(method: str) -> bool:
    """Whether all aggregators and attacks of a method advance in one program."""
    return takes_aggregator(method) or method_of(method).attacks_in_lockstep
