"""Pre-aggregators, which transform the rows before a rule aggregates them.

A pre-aggregator is a pure function `pre(x, mask=None, *, key=None) -> (x', mask')` of the rows
x f[n, d], one per worker, and the mask bool[n] of the rows that count, None for all.
`aggregators.make("nnm+krum", f=2)` puts one before a rule. The docstring of `row_ops` describes
what all of them share: absent rows, non-finite numbers, checks and types.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import (
    cleaned,
    fold,
    headroom,
    norms,
    number,
    one_part_of,
    positions,
    shorten,
    square_distances,
)
from farsign_jax.aggregators.rule import MAJORITY, Count, validate_rows
from farsign_jax.base import Array, Key
from farsign_jax.validation import check_integer, check_positive, is_concrete, require


class PreAggregatorCore(Protocol):
    """The numerical part of a pre-aggregator; it is traceable and never checks its arguments.

    Args:
        x: f[n, d] in float32 or float64, one row per worker. Rows may hold any number, also
            NaN and infinities.
        mask: bool[n], the rows that count.
        key: a key for pre-aggregators that draw, or None.

    Returns:
        The new rows f[n', d], finite and of the same type as `x`, and the mask bool[n'] of
        those that count.
    """

    def __call__(self, x: Array, mask: Array, key: Key | None, /) -> tuple[Array, Array]: ...


def _accept(count: Count) -> None:
    """The check of a pre-aggregator without preconditions."""


def _unchanged(count: Count) -> Count:
    return count


@dataclasses.dataclass(frozen=True)
class PreAggregator:
    """A function from rows to rows.

    Attributes:
        name: the name of the pre-aggregator, for messages.
        core: computes the new rows; see `PreAggregatorCore`.
        check: receives the number of rows and raises `InvalidConfig` if they are too few.
        left: the number of rows that come out, for the number of rows that go in.
        draws: whether `core` uses the key.
    """

    name: str
    core: PreAggregatorCore
    check: Callable[[Count], None] = _accept
    left: Callable[[Count], Count] = _unchanged
    draws: bool = False

    def __call__(
        self, x: Any, mask: Any = None, *, key: Key | None = None
    ) -> tuple[Array, Array]:
        """Transforms the rows.

        Args:
            x: [n, d], one row per worker.
            mask: bool[n], the rows that count; None for all.
            key: a key for pre-aggregators that draw.

        Returns:
            The new rows f[n', d] and the mask bool[n'] of those that count.

        Raises:
            InvalidConfig: if the rows or the mask do not fit, or are too few.
        """
        x, mask, count = validate_rows(self.name, x, mask)
        self.check(count)
        return self.core(x, mask, key)


class PreAggregatorFactory(Protocol):
    """A function in `PREAGGREGATORS`: its parameters are the options of the pre-aggregator."""

    def __call__(self, *args: Any, **options: Any) -> PreAggregator: ...


@jax.jit
def _nnm(x: Array, mask: Array, f: Array) -> tuple[Array, Array]:
    x, present = cleaned(x, mask)
    keep = number(present) - MAJORITY.clamp(f, present)
    nearest = positions(jnp.where(present[None], square_distances(x), jnp.inf)) < keep
    weights = (nearest & present[:, None] & present[None]).astype(x.dtype)
    total = jnp.matmul(weights, x, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(keep, 1).astype(x.dtype), present


def nnm(f: int | Array) -> PreAggregator:
    """Nearest-neighbour mixing: row i becomes the mean of the n - f rows nearest to it.

    The row itself is one of them. Any rule with the same f may follow. It needs n > 2f;
    O(n^2 d).

    Args:
        f: the number of Byzantine rows to tolerate.

    Raises:
        InvalidConfig: if f is not an integer >= 0.

    References:
        Allouah et al., "Fixing by Mixing", AISTATS 2023. ByzFL has the same definition.
    """
    f = check_integer("nnm", "f", f, 0)

    def core(x: Array, mask: Array, key: Key | None) -> tuple[Array, Array]:
        return _nnm(x, mask, jnp.asarray(f, jnp.int32))

    return PreAggregator("nnm", core, lambda count: MAJORITY.check("nnm", count, f))


@functools.partial(jax.jit, static_argnames="s")
def _bucketing(x: Array, mask: Array, key: Key | None, s: int) -> tuple[Array, Array]:
    x, present = cleaned(x, mask, squares=False)
    n = x.shape[0]
    factor = headroom(n)
    x = x * one_part_of(factor, x.dtype)
    order = jnp.arange(n) if key is None else jax.random.permutation(key, n)
    # Rows that count come first, so that n' of them fill ceil(n' / s) groups.
    order = order[jnp.argsort(~present[order], stable=True)]
    groups = -(-n // s)
    members = jnp.pad(order, (0, groups * s - n), constant_values=n).reshape(groups, s).T

    def add(state: tuple[Array, Array], rows: Array) -> tuple[Array, Array]:
        total, size = state  # the last group may have fewer members, which count as zeros
        total += x.at[rows].get(mode="fill", fill_value=0)
        there = present.at[rows].get(mode="fill", fill_value=False)
        return total, size + there.astype(jnp.int32)

    empty = jnp.zeros((groups, x.shape[1]), x.dtype), jnp.zeros(groups, jnp.int32)
    total, size = fold(add, empty, members[: min(s, n)])
    mean = total / jnp.maximum(size, 1).astype(x.dtype)[:, None]
    return mean * factor, size > 0


def bucketing(s: int = 2) -> PreAggregator:
    """The means of groups of s rows, which are shuffled by `key` if one is given.

    n rows become ceil(n / s); the last group may be smaller. A Byzantine row affects one
    group, so the rule that follows takes the same f and needs f < ceil(n / s) / 2. O(n d).

    Args:
        s: the number of rows per group, known before compilation; 2 in the paper and ByzFL
            ("2-bucketing"), 1 changes nothing but the order.

    Raises:
        InvalidConfig: if s is traced, or not an integer >= 1.

    References:
        Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing", ICLR 2022.
    """
    require(is_concrete(s), "bucketing needs an s that is known before compilation")
    s = check_integer("bucketing", "s", s, 1)

    def core(x: Array, mask: Array, key: Key | None) -> tuple[Array, Array]:
        return _bucketing(x, mask, key, s)

    def left(count: Count) -> Count:
        return Count(-(-count.present // s), -(-count.rows // s))

    return PreAggregator("bucketing", core, left=left, draws=True)


@jax.jit
def _clipping(x: Array, mask: Array, c: Array) -> tuple[Array, Array]:
    x, present = cleaned(x, mask)
    return x * shorten(norms(x), c.astype(x.dtype))[:, None], present


def clipping(c: float | Array = 2.0) -> PreAggregator:
    """x_i min(1, c / |x_i|): no row has a norm above c. O(n d).

    ByzFL's has the same default, and overwrites its argument; this one does not.

    Args:
        c: the largest norm of a row, in the units of the rows.

    Raises:
        InvalidConfig: if c is not > 0.
    """
    check_positive("clipping", "c", c)

    def core(x: Array, mask: Array, key: Key | None) -> tuple[Array, Array]:
        return _clipping(x, mask, jnp.asarray(c, x.dtype))

    return PreAggregator("clipping", core)


@jax.jit
def _arc(x: Array, mask: Array, f: Array) -> tuple[Array, Array]:
    x, present = cleaned(x, mask)
    n, f = number(present), MAJORITY.clamp(f, present)
    clipped = 2 * f * (n - f) // jnp.maximum(n, 1)
    size = norms(x)
    ordered = jnp.sort(jnp.where(present, size, jnp.inf))
    longest = ordered[jnp.maximum(n - clipped - 1, 0)]
    return x * shorten(size, longest)[:, None], present


def arc(f: int | Array) -> PreAggregator:
    """Adaptive robust clipping: the k longest rows get the norm of the next longest one.

    k = floor(2 (f / n) (n - f)) is computed in integers, and the norm is the (n - k)-th
    smallest. Unlike `clipping`, it does not depend on the scale of the rows. It needs
    n > 2f; O(n d).

    Args:
        f: the number of Byzantine rows to tolerate.

    Raises:
        InvalidConfig: if f is not an integer >= 0.

    References:
        Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR
        2025, as in ByzFL, which rounds the product of floats instead.
    """
    f = check_integer("arc", "f", f, 0)

    def core(x: Array, mask: Array, key: Key | None) -> tuple[Array, Array]:
        return _arc(x, mask, jnp.asarray(f, jnp.int32))

    return PreAggregator("arc", core, lambda count: MAJORITY.check("arc", count, f))


PREAGGREGATORS: dict[str, PreAggregatorFactory] = {
    "nnm": nnm,
    "bucketing": bucketing,
    "clipping": clipping,
    "arc": arc,
}
