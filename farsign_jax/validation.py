"""Checks of what users and workers hand over, and the error that a failed check raises."""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from farsign_jax.base import Array


class InvalidConfig(ValueError):
    """What was asked for cannot run; the message names the value and the rule, in one line."""


def is_concrete(value: Any) -> bool:
    """Whether a value, or all of a tree, is known now: everything but a tracer."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def require(condition: Any, message: str) -> None:
    """Raises `InvalidConfig(message)` when a concrete condition is false; tracers pass."""
    if is_concrete(condition) and not np.all(condition):
        raise InvalidConfig(message)


def sanitize(numbers: Array, largest: float = 1e6) -> Array:
    """What a server makes of numbers from a worker, so that its own stay numbers: those that
    are not finite count as 0, huge ones are clipped."""
    sane = jnp.clip(numbers, -largest, largest)
    return jnp.where(jnp.isfinite(numbers), sane, jnp.zeros((), numbers.dtype))


def lookup(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or an `InvalidConfig` that names the closest known names."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InvalidConfig(f"unknown {kind} {name!r}: {hint}known: {', '.join(sorted(table))}")


def check_integer(name: str, option: str, value: Any, least: int) -> Any:
    """`value` as an int, or the tracer it is; an `InvalidConfig` unless whole and >= least."""
    if not is_concrete(value):
        return value
    rule = f"{name} needs a whole number {option} >= {least}: got {value!r}"
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidConfig(rule) from None
    require(number == value and number >= least and not isinstance(value, bool), rule)
    return number


def check_positive(name: str, option: str, value: Any) -> Any:
    """`value`; an `InvalidConfig` where it is known and not a number > 0."""
    if is_concrete(value):
        rule = f"{name} needs {option} > 0: got {value!r}"
        require(isinstance(value, int | float | np.number | np.ndarray | jax.Array), rule)
        require(np.ndim(value) == 0, rule)
        require(value > 0, rule)
    return value


class DataError(Exception):
    """The data set cannot be had; the message says what was tried and what to do."""
