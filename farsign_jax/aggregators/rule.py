"""What all aggregators share: their type, their preconditions and the checks of their input."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from farsign_jax.aggregators.row_ops import number
from farsign_jax.base import Array, Key
from farsign_jax.validation import InvalidConfig, is_concrete, require


class Count(NamedTuple):
    """How many rows count, as far as shapes and a concrete mask tell."""

    present: int
    rows: int

    def __str__(self) -> str:
        some = f" present of {self.rows} rows" if self.present < self.rows else ""
        return f"n={self.present}{some}"


class Need(NamedTuple):
    """The precondition n >= times * f + plus."""

    times: int
    plus: int

    def __str__(self) -> str:
        if self.plus == 1:
            return f"n > {self.times}f"
        return f"n >= {self.times}f + {self.plus}"

    def check(self, name: str, count: Count, f: Any) -> None:
        if is_concrete(f):
            enough = count.present >= self.times * f + self.plus
            require(enough, f"{name} needs {self}: got {count}, f={f}")

    def clamp(self, f: Array, present: Array) -> Array:
        """i32[], f or the most that the rows left admit."""
        return jnp.clip(jnp.minimum(f, (number(present) - self.plus) // self.times), 0)


MAJORITY = Need(2, 1)


def validate_rows(name: str, x: Any, mask: Any) -> tuple[Array, Array, Count]:
    """Rows f[n, d], mask bool[n] and how many rows count, from whatever was handed over."""
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


@dataclasses.dataclass(frozen=True)
class Rule:
    """An aggregation rule: `check` sees how many rows there are, `core` the numbers."""

    name: str
    core: Callable[[Array, Array, Any, Any], Array]
    check: Callable[[Count], None] = lambda count: None

    def __call__(
        self, x: Any, mask: Any = None, *, start: Any = None, key: Key | None = None
    ) -> Array:
        x, mask, count = validate_rows(self.name, x, mask)
        self.check(count)
        return self.core(x, mask, start, key)


def without_options(
    name: str, core: Callable[..., Array], need: Need | None = None, f: Any = 0
) -> Rule:
    """A rule without state; `core(x, mask, f)` where it has a precondition on f."""
    if need is None:
        return Rule(name, lambda x, mask, start, key: core(x, mask))
    return Rule(
        name,
        lambda x, mask, start, key: core(x, mask, jnp.asarray(f, jnp.int32)),
        lambda count: need.check(name, count, f),
    )
