"""Checks of what users and workers hand over, and the errors that failed checks raise."""

import contextlib
import contextvars
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from farsign_jax.base import Array

_conditions: contextvars.ContextVar[list[Array] | None] = contextvars.ContextVar(
    "conditions", default=None
)


class InvalidConfig(ValueError):
    """A configuration cannot run; the message names the value and the rule, in one line."""


class DataError(Exception):
    """A data set is not available; the message says what was tried and what to do."""


def is_concrete(value: Any) -> bool:
    """Returns whether a value, or every leaf of a tree, is known now and not a tracer."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def require(condition: Any, message: str) -> None:
    """Raises `InvalidConfig(message)` if a condition is false.

    A condition that is being traced passes, unless `check_points` collects it.
    """
    if is_concrete(condition):
        if not np.all(condition):
            raise InvalidConfig(message)
    elif (collected := _conditions.get()) is not None:
        collected.append(jnp.all(condition))


@contextlib.contextmanager
def _collecting() -> Iterator[list[Array]]:
    collected: list[Array] = []
    token = _conditions.set(collected)
    try:
        yield collected
    finally:
        _conditions.reset(token)


def compiled_conditions(
    build: Callable[..., Any], inspect: Callable[[Any], Any] | None = None
) -> Callable[..., Array]:
    """Compiles what `build` requires: `(shared, points) -> bool[P, conditions]`.

    Args:
        build: called with what is shared and one point.
        inspect: called with what `build` returns, whose numbers are tracers, when it is traced.
    """

    def conditions(shared: tuple[Any, ...], point: Any) -> Array:
        with _collecting() as collected:
            built = build(*shared, point)
        if inspect is not None:
            inspect(built)
        return jnp.stack([jnp.asarray(True), *collected])

    return jax.jit(jax.vmap(conditions, in_axes=(None, 0)))


def check_points(
    build: Callable[..., Any],
    points: Any,
    shared: tuple[Any, ...] = (),
    compiled: Callable[..., Array] | None = None,
) -> None:
    """Checks many points of hyper-parameters by building what depends on them once.

    `build` runs in one compiled program, under `vmap`, and what it requires is collected. If
    some point does not satisfy it, `build` runs for this point alone, so that the message names
    the value. Points that are being traced are not checked, unless it is another `check_points`
    that traces them.

    Args:
        build: called with `shared` and one point.
        points: a pytree with leaves [P, ...], P > 0.
        shared: arguments that all points have in common.
        compiled: the `compiled_conditions` of `build`, if there are some.

    Raises:
        InvalidConfig: the one that `build` raises for the first point that is not valid.
    """
    if not is_concrete(points) and _conditions.get() is None:
        return
    if not jax.tree.leaves(points):
        build(*shared, points)
        return
    satisfied = (compiled or compiled_conditions(build))(shared, points)
    if not is_concrete(satisfied):
        require(satisfied, "the hyper-parameters are valid")
        return
    invalid = np.flatnonzero(~np.all(satisfied, axis=1))
    if len(invalid):
        build(*shared, jax.tree.map(lambda leaf: leaf[invalid[0]], points))
        raise InvalidConfig(f"hyper-parameters {invalid[0]} are invalid: got {points!r}")


def sanitize(numbers: Array, largest: float = 1e6) -> Array:
    """Returns numbers from a worker as finite ones: NaN and infinity as 0, others clipped.

    Args:
        numbers: of any shape.
        largest: magnitude to which larger numbers are clipped.
    """
    clipped = jnp.clip(numbers, -largest, largest)
    return jnp.where(jnp.isfinite(numbers), clipped, jnp.zeros((), numbers.dtype))


def lookup(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """Returns `table[name]`.

    Raises:
        InvalidConfig: if there is no such name; the message suggests the closest one.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InvalidConfig(f"unknown {kind} {name!r}: {hint}known: {', '.join(sorted(table))}")


def check_integer(name: str, option: str, value: Any, least: int) -> Any:
    """Returns `value` as an int, or as the tracer that it is.

    Raises:
        InvalidConfig: unless it is an integer >= `least`.
    """
    rule = f"{name} needs a whole number {option} >= {least}: got {value!r}"
    if not is_concrete(value):
        if _conditions.get() is not None:
            require((value == jnp.round(value)) & (value >= least), rule)
        return value
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidConfig(rule) from None
    require(number == value and number >= least and not isinstance(value, bool), rule)
    return number


def check_key(key: Any) -> None:
    """Raises `InvalidConfig` unless `key` is one typed key, as of `jax.random.key(seed)`."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    rule = "a key is that of jax.random.key(seed), or a role of keys.split(seed)"
    got = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array) else type(key).__name__
    require(typed and key.ndim == 0, f"{rule}: got {got}")


def check_positive(name: str, option: str, value: Any) -> Any:
    """Returns `value`.

    Raises:
        InvalidConfig: if it is known and not a number > 0.
    """
    rule = f"{name} needs {option} > 0: got {value!r}"
    if is_concrete(value):
        require(isinstance(value, int | float | np.number | np.ndarray | jax.Array), rule)
        require(np.ndim(value) == 0, rule)
        require(value > 0, rule)
    elif _conditions.get() is not None:
        require(value > 0, rule)
    return value


def check_platform() -> None:
    """Raises `InvalidConfig` if JAX_PLATFORMS asks for a device that is not there."""
    asked: str | None = getattr(jax.config, "jax_platforms")  # noqa: B009, untyped in JAX
    if not asked or asked == "cpu":  # which every machine has
        return
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # an assertion where a plug-in is missing
        reason = str(error).partition(" (set ")[0] or "its plug-in is not installed"
        raise InvalidConfig(f"JAX_PLATFORMS={asked} has no device here: {reason}") from None
