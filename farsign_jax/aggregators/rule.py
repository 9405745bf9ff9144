"""The contract of an aggregation rule, its preconditions and the checks of its input."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from farsign_jax.aggregators.row_ops import number
from farsign_jax.base import Array, Key
from farsign_jax.validation import InvalidConfig, is_concrete, require


class Count(NamedTuple):
    """The number of rows that count, as far as shapes and a concrete mask tell.

    Attributes:
        present: the number of rows inside the mask.
        rows: the number of rows of the input, n.
    """

    present: int
    rows: int

    def __str__(self) -> str:
        suffix = f" present of {self.rows} rows" if self.present < self.rows else ""
        return f"n={self.present}{suffix}"


class Need(NamedTuple):
    """The precondition n >= times * f + plus on the number of rows n.

    Attributes:
        times: the rows needed for each Byzantine row.
        plus: the rows needed in addition.
    """

    times: int
    plus: int

    def __str__(self) -> str:
        if self.plus == 1:
            return f"n > {self.times}f"
        return f"n >= {self.times}f + {self.plus}"

    def check(self, name: str, count: Count, f: int | Array) -> None:
        """Raises `InvalidConfig` if f is known and the rows that are present are too few."""
        if is_concrete(f):
            enough = count.present >= self.times * f + self.plus
            require(enough, f"{name} needs {self}: got {count}, f={f}")

    def clamp(self, f: Array, present: Array) -> Array:
        """The smaller of f and the largest f that the remaining rows admit, i32[].

        Args:
            f: i32[], the number of Byzantine rows to tolerate.
            present: bool[n], the rows that count.
        """
        return jnp.clip(jnp.minimum(f, (number(present) - self.plus) // self.times), 0)


MAJORITY = Need(2, 1)


def validate_rows(name: str, x: Any, mask: Any) -> tuple[Array, Array, Count]:
    """Converts the arguments of a rule to arrays and checks their shapes.

    Args:
        name: the name of the rule, for messages.
        x: rows [n, d], an array or nested sequences of numbers.
        mask: bool[n], the rows that count; None for all.

    Returns:
        The rows f[n, d], the mask bool[n] and the `Count` of rows.

    Raises:
        InvalidConfig: if the rows have different lengths, are not real numbers or are fewer
            than one, if the mask has another length, or if a concrete mask is false everywhere.
    """
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise InvalidConfig(f"{name} needs rows of one length and type: {error}") from None
    require(x.ndim == 2, f"{name} needs x of shape [n, d]: got shape {x.shape}")
    if x.dtype not in (jnp.float32, jnp.float64):
        require(not jnp.iscomplexobj(x), f"{name} needs real numbers: got {x.dtype}")
        x = x.astype(jnp.float32)
    n = x.shape[0]
    require(n >= 1, f"{name} needs n >= 1: got n={n}")
    if mask is None:
        return x, jnp.ones(n, bool), Count(n, n)
    shape = np.shape(mask)
    require(shape == (n,), f"{name} needs a mask of {n} rows: got shape {shape}")
    if not is_concrete(mask):
        return x, mask.astype(bool), Count(n, n)
    mask = np.asarray(mask, bool)
    present = int(mask.sum())
    require(present, f"{name} needs n >= 1: got n=0 present of {n} rows")
    return x, jnp.asarray(mask), Count(present, n)


class RuleCore(Protocol):
    """The numerical part of a rule; it is traceable and never checks its arguments.

    Args:
        x: f[n, d] in float32 or float64, one row per worker. Rows may hold any number, also
            NaN and infinities.
        mask: bool[n], the rows that count.
        start: f[d], the previous output of a rule that continues from it, or None.
        key: a key for rules that draw, or None.

    Returns:
        f[d], the aggregate, finite for every input and of the same type as `x`.
    """

    def __call__(self, x: Array, mask: Array, start: Any, key: Key | None, /) -> Array: ...


def _accept(count: Count) -> None:
    """The check of a rule without preconditions."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """An aggregation rule: n rows, of which some may be Byzantine, become one vector.

    A rule is a pure function, and works under `jit`, `vmap`, `lax.cond` and `lax.scan`.

    Attributes:
        name: the name of the rule, for messages.
        core: computes the aggregate; see `RuleCore`.
        check: receives the number of rows and raises `InvalidConfig` if they are too few.
        coordinatewise: whether each number of the result depends on its own column only.
    """

    name: str
    core: RuleCore
    check: Callable[[Count], None] = _accept
    coordinatewise: bool = False

    def __call__(
        self, x: Any, mask: Any = None, *, start: Any = None, key: Key | None = None
    ) -> Array:
        """Aggregates the rows.

        Args:
            x: [n, d], one row per worker.
            mask: bool[n], the rows that count; None for all.
            start: f[d], the previous output, from which `centered_clipping` continues.
            key: a key for rules that draw (`bucketing`).

        Returns:
            f[d], the aggregate.

        Raises:
            InvalidConfig: if the rows or the mask do not fit, or are too few for the rule.
        """
        x, mask, count = validate_rows(self.name, x, mask)
        self.check(count)
        return self.core(x, mask, start, key)


class RuleFactory(Protocol):
    """A function in `AGGREGATORS`: its parameters are the options of the rule.

    A parameter is called `f` if it is the number of Byzantine rows to tolerate. The factory
    checks its options and raises `InvalidConfig` with the value and the rule.
    """

    def __call__(self, *args: Any, **options: Any) -> Rule: ...


def without_options(
    name: str,
    core: Callable[..., Array],
    need: Need | None = None,
    f: int | Array = 0,
    coordinatewise: bool = False,
) -> Rule:
    """Makes a rule that uses neither `start` nor `key`.

    Args:
        name: the name of the rule.
        core: `core(x, mask)`, or `core(x, mask, f)` where `need` is given.
        need: the precondition on f, or None for a rule without f.
        f: the number of Byzantine rows to tolerate.
        coordinatewise: as of `Rule`.
    """
    if need is None:

        def plain(x: Array, mask: Array, start: Any, key: Key | None) -> Array:
            return core(x, mask)

        return Rule(name, plain, coordinatewise=coordinatewise)

    def tolerant(x: Array, mask: Array, start: Any, key: Key | None) -> Array:
        return core(x, mask, jnp.asarray(f, jnp.int32))

    check = functools.partial(need.check, name, f=f)
    return Rule(name, tolerant, check, coordinatewise)
