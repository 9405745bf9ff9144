"""Attacks on timing: when a Byzantine worker answers, given the delays of an honest one.

Each function takes the delay model of the honest worker and returns that of the attacker. To
add an attack, write such a function, whose further parameters are its options, and enter it in
`TIMING_ATTACKS`.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from farsign_jax.arrivals.delays import (
    DelayModel,
    check_nonnegative_number,
    check_positive_number,
    make_checked,
)
from farsign_jax.validation import check_integer


def flood(honest: DelayModel, rate: float = 10.0) -> DelayModel:
    """Answers `rate` times as often as the honest worker.

    Args:
        honest: the delay model of the honest worker.
        rate: the factor, > 0; a rate below 1 makes answers rarer.

    Raises:
        InvalidConfig: if the rate is not finite and > 0.
    """
    check_positive_number("flood", rate=rate)
    return honest.at_speed(rate)


def withhold(honest: DelayModel, after: float = 0.0) -> DelayModel:
    """Stops answering for good after `after` seconds; by default it never answers.

    Args:
        honest: the delay model of the honest worker.
        after: seconds since the start, >= 0.

    Raises:
        InvalidConfig: if `after` is not finite and >= 0.
    """
    check_nonnegative_number("withhold", after=after)
    cut = tuple((begin, min(end, after)) for begin, end in honest.windows if begin < after)
    return honest.within(*cut)


def max_stale(honest: DelayModel, lag: float = 10.0) -> DelayModel:
    """Holds every answer back for `lag` seconds, so that answers are rare and very stale.

    Args:
        honest: the delay model of the honest worker.
        lag: seconds in addition to the delay of an honest answer, > 0.

    Raises:
        InvalidConfig: if the lag is not finite and > 0.
    """
    check_positive_number("max_stale", lag=lag)

    def draw(rng: np.random.Generator, first: int, count: int) -> np.ndarray:
        return lag + honest.draw(rng, first, count)

    return dataclasses.replace(honest, draw=draw, typical=lag + honest.typical)


def burst(honest: DelayModel, silence: float = 10.0, size: int = 10) -> DelayModel:
    """Alternates between `silence` seconds without an answer and `size` answers at once.

    Args:
        honest: the delay model of the honest worker.
        silence: seconds, > 0.
        size: the number of answers in a burst, >= 1.

    Raises:
        InvalidConfig: if an option is out of range.
    """
    check_positive_number("burst", silence=silence)
    size = check_integer("burst", "size", size, 1)

    def draw(rng: np.random.Generator, first: int, count: int) -> np.ndarray:
        number = np.arange(first, first + count)
        return np.where(number % size == 0, silence, 0.0)

    return dataclasses.replace(honest, draw=draw, typical=silence / size)


class TimingAttack(Protocol):
    """A function in `TIMING_ATTACKS`: its parameters after the first one are its options."""

    def __call__(self, honest: DelayModel, /, *args: Any, **options: Any) -> DelayModel: ...


TIMING_ATTACKS: dict[str, TimingAttack] = {
    "flood": flood,
    "withhold": withhold,
    "max_stale": max_stale,
    "burst": burst,
}


def apply_timing_attack(honest: DelayModel, name: str, **options: Any) -> DelayModel:
    """The delay model of a Byzantine worker.

    Args:
        honest: the delay model that the worker would have if it were honest.
        name: one of `TIMING_ATTACKS`.
        options: the options of the attack.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value is refused.
    """
    return make_checked("timing attack", name, TIMING_ATTACKS, honest, **options)
