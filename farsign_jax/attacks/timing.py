"""Attacks on time: what a Byzantine worker does with the delays that it would have had."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from farsign_jax.arrivals.delays import NUMBER, DelayModel, check_positive_number, make_checked
from farsign_jax.validation import check_integer, require


# Attacks on time: what a liar does with the service it would have had.
def flood(honest: DelayModel, rate: float = 10.0) -> DelayModel:
    """Answers `rate` times as often.

    Args:
        rate: a factor, > 0; below 1, less often.
    """
    check_positive_number("flood", rate=rate)
    return honest.at_speed(rate)


def withhold(honest: DelayModel, after: float = 0.0) -> DelayModel:
    """Falls silent for good after so many seconds: by default, never says a word.

    Args:
        after: seconds since the start, >= 0.
    """
    rule = f"withhold needs a finite after >= 0: got {after}"
    require(isinstance(after, NUMBER) and 0 <= after < np.inf, rule)
    cut = tuple((begin, min(end, after)) for begin, end in honest.windows if begin < after)
    return honest.within(*cut)


def max_stale(honest: DelayModel, lag: float = 10.0) -> DelayModel:
    """Sits on every answer for `lag` seconds: rare, and as stale as can be.

    Args:
        lag: seconds on top of the time an answer takes, > 0.
    """
    check_positive_number("max_stale", lag=lag)

    def draw(rng, first, count):
        return lag + honest.draw(rng, first, count)

    return dataclasses.replace(honest, draw=draw, typical=lag + honest.typical)


def burst(honest: DelayModel, silence: float = 10.0, size: int = 10) -> DelayModel:
    """Silent for so many seconds, then `size` answers at once, and again.

    Args:
        silence: seconds, > 0.
        size: answers in a burst, >= 1.
    """
    check_positive_number("burst", silence=silence)
    size = check_integer("burst", "size", size, 1)

    def draw(rng, first, count):
        number = np.arange(first, first + count)
        return np.where(number % size == 0, silence, 0.0)

    return dataclasses.replace(honest, draw=draw, typical=silence / size)


TIMING_ATTACKS: dict[str, Callable[..., DelayModel]] = {
    "flood": flood,
    "withhold": withhold,
    "max_stale": max_stale,
    "burst": burst,
}


def apply_timing_attack(honest: DelayModel, name: str, **options: Any) -> DelayModel:
    """What the attack on time of that name makes of an honest service."""
    return make_checked("attack on time", name, TIMING_ATTACKS, honest, **options)
