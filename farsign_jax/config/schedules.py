"""Who answers when: delays of workers, timing attacks, rounds, and the schedules of a run."""

import inspect
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from farsign_jax import arrivals, specs
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.base import Key
from farsign_jax.config.settings import RunSettings
from farsign_jax.methods import OracleConfig
from farsign_jax.validation import lookup, require

# The speeds of workers, an option of every model of delays.
SPEEDS: specs.Parameters = specs.option("spread", float, 1.0) | specs.option("fast", int, None)

# Orders of arrival that have no clock, and their options.
CLOCKLESS: dict[str, specs.Parameters] = {"uniform": {}, "weighted": SPEEDS}

TRACE: specs.Parameters = specs.option("path", str)


class Round(NamedTuple):
    """Whom a server that works in rounds waits for, and the options that say so."""

    summary: str
    options: Mapping[str, inspect.Parameter] = types.MappingProxyType({})


ROUNDS = {
    "barrier": Round("For all workers"),
    "fastest": Round("For the first `wait` answers", specs.option("wait", int)),
    "partial": Round(
        "For the workers that take part, each with probability `participation`",
        specs.option("participation", float),
    ),
}


def arrival_options(settings: RunSettings) -> tuple[str, dict[str, Any]]:
    """The order of arrivals and its options."""
    name, options = specs.parse(settings.arrivals)
    if name == "trace":
        return name, specs.typed(name, options, TRACE)
    table: dict[str, Any] = {**CLOCKLESS, **delays.DELAYS, "trace": None}
    found = lookup("arrivals", name, table)
    if name not in CLOCKLESS:
        found = specs.parameters(found) | SPEEDS
    return name, specs.typed(name, options, found)


def round_options(settings: RunSettings) -> dict[str, Any]:
    """What ends a round, as the options of `arrivals.rounds`.

    Raises:
        InvalidConfig: if the options are not those of the kind of round, or out of range.
    """
    name, texts = specs.parse(settings.rounds)
    known = lookup("rounds", name, ROUNDS).options
    rule = f"rounds {name!r} needs {', '.join(known) or 'no options'}: got {settings.rounds!r}"
    require(set(texts) == set(known), rule)
    options, m = specs.typed(name, texts, dict(known)), settings.workers
    wait, participation = options.get("wait", 1), options.get("participation", 1)
    require(1 <= wait <= m, f"need 1 <= wait <= workers: got {wait}, workers={m}")
    require(0 < participation <= 1, f"need 0 < participation <= 1: got {participation}")
    return options


def answers_per_round(settings: RunSettings) -> float:
    """How many answers a round has on average."""
    options = round_options(settings)
    return options.get("wait") or settings.workers * options.get("participation", 1.0)


def oracle_config(settings: RunSettings) -> OracleConfig:
    """How workers are asked."""
    return OracleConfig(
        batch_size=settings.batch_size,
        directions=settings.directions,
        delta=settings.delta,
        decay=settings.decay,
        decay_every=settings.decay_every,
        per_round=answers_per_round(settings),
    )


def honest_delays(settings: RunSettings) -> list[delays.DelayModel]:
    """The delays of the workers, if nobody attacked time."""
    name, options = arrival_options(settings)
    m, given = settings.workers, "spread" in options
    spread, fast = options.pop("spread", 1.0), options.pop("fast", None)
    speeds = delays.geometric_speeds(m, spread)
    # Some order, the same for all seeds: speed has nothing to do with who is Byzantine.
    speeds = np.random.default_rng(0).permutation(speeds)
    if fast is not None:
        require(0 <= fast <= m, f"fast is a number of workers, 0..{m}: got {fast}")
        require(given, f"fast={fast} needs spread, how many times as fast these workers are")
        speeds = np.where(np.arange(m) < fast, 1.0, 1 / spread)
    model = delays.exponential() if name in CLOCKLESS else delays.make(name, **options)
    return [model.at_speed(speed) for speed in speeds]


def delay_models(settings: RunSettings) -> list[delays.DelayModel]:
    """The delays of the workers, those of Byzantine ones as their timing attack has them."""
    honest = honest_delays(settings)
    if settings.timing_attack == "none":
        return honest
    name, texts = specs.parse(settings.timing_attack)
    attack = lookup("timing_attack", name, timing.TIMING_ATTACKS)
    options = specs.typed(name, texts, specs.parameters(attack, skip=1))
    mask = settings.byzantine_mask()
    return [
        attack(one, **options) if byzantine else one
        for one, byzantine in zip(honest, mask, strict=True)
    ]


def claimed_rates(settings: RunSettings) -> tuple[float, ...]:
    """How often each worker claims to answer, relative to the others.

    Raises:
        InvalidConfig: if an answer takes no time.
    """
    typical = [model.typical for model in honest_delays(settings)]
    rule = f"arrivals {settings.arrivals!r} have no rate: an answer takes {typical[0]} s"
    require(np.array(typical) > 0, rule)
    return tuple(1 / seconds for seconds in typical)


def schedule(settings: RunSettings, key: Key, in_rounds: bool = False) -> arrivals.Schedule:
    """The schedule of a run, event by event, or as many answers in rounds.

    Args:
        settings: of the run.
        key: of its schedule, from `keys.split(seed)`.
        in_rounds: whether an event is a round.
    """
    if in_rounds:
        return _rounds(settings, key)
    (name, options), m, events = arrival_options(settings), settings.workers, settings.events
    if name == "uniform":
        return arrivals.Schedule(arrivals.uniform(key, m, events))
    if name == "weighted":
        return arrivals.Schedule(arrivals.weighted(key, claimed_rates(settings), events))
    if name == "trace":
        return arrivals.trace(options["path"], m, events)
    return arrivals.by_time(key, delay_models(settings), events)


def _rounds(settings: RunSettings, key: Key) -> arrivals.Schedule:
    rounds = max(round(settings.events / max(answers_per_round(settings), 1)), 1)
    models = delay_models(settings)
    found = arrivals.rounds(key, models, rounds, **round_options(settings))
    clockless = specs.parse(settings.arrivals)[0] in CLOCKLESS
    return found._replace(times=None) if clockless else found
