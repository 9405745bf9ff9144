"""Pre-aggregators: rows in, better rows out, for a rule of `aggregators` to follow.

A pre-aggregator is a pure callable `pre(x, mask=None, *, key=None) -> (x', mask')` with x
f[n, d], one row per worker, and mask bool[n], which rows count (None: all).
`aggregators.make("nnm+krum", f=2)` joins one and a rule. `rows` says what holds for all of
them: absent rows, non-finite numbers, checks, types.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import (
    cleaned,
    headroom,
    norms,
    number,
    positions,
    shorten,
    square_distances,
)
from farsign_jax.aggregators.rule import MAJORITY, Count, validate_rows
from farsign_jax.base import Array, Key
from farsign_jax.validation import check_integer, check_positive, is_concrete, require


@dataclasses.dataclass(frozen=True)
class Pre:
    """A pre-aggregator: `check` sees the sizes, `core` the numbers, `left` counts rows."""

    name: str
    core: Callable[[Array, Array, Any], tuple[Array, Array]]
    check: Callable[[Count], None] = lambda count: None
    left: Callable[[Count], Count] = lambda count: count
    draws: bool = False  # does it use the key?

    def __call__(self, x: Any, mask: Any = None, *, key: Key | None = None):
        x, mask, count = validate_rows(self.name, x, mask)
        self.check(count)
        return self.core(x, mask, key)


@jax.jit
def _nnm(x, mask, f):
    x, present = cleaned(x, mask)
    keep = number(present) - MAJORITY.clamp(f, present)
    nearest = positions(jnp.where(present[None], square_distances(x), jnp.inf)) < keep
    weights = (nearest & present[:, None] & present[None]).astype(x.dtype)
    total = jnp.matmul(weights, x, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(keep, 1).astype(x.dtype), present


def nnm(f: Any) -> Pre:
    """Nearest-neighbour mixing: row i becomes the mean of the n - f rows nearest to it.

    Itself included. Then any rule with the same f. Needs n > 2f; O(n^2 d).

    Args:
        f: liars to tolerate.

    References:
        Allouah et al., "Fixing by Mixing", AISTATS 2023. ByzFL has the same definition.
    """
    f = check_integer("nnm", "f", f, 0)
    return Pre(
        "nnm",
        lambda x, mask, key: _nnm(x, mask, jnp.asarray(f, jnp.int32)),
        lambda count: MAJORITY.check("nnm", count, f),
    )


def _bucketing(x, mask, key, s):
    x, present = cleaned(x, mask, squares=False)
    n = x.shape[0]
    factor = headroom(n)
    x = x / factor
    order = jnp.arange(n) if key is None else jax.random.permutation(key, n)
    # Rows that count come first: n' of them fill ceil(n' / s) groups, however many do not.
    order = order[jnp.argsort(~present[order], stable=True)]
    groups = -(-n // s)
    total = jnp.zeros((groups, x.shape[1]), x.dtype)
    size = jnp.zeros(groups, jnp.int32)
    for member in range(min(s, n)):
        rows = order[member::s]
        short = groups - rows.size  # the last group may have fewer members
        total += jnp.pad(x[rows], ((0, short), (0, 0)))
        size += jnp.pad(present[rows], (0, short)).astype(jnp.int32)
    mean = total / jnp.maximum(size, 1).astype(x.dtype)[:, None]
    return mean * factor, size > 0


_bucketing = jax.jit(_bucketing, static_argnames="s")


def bucketing(s: int = 2) -> Pre:
    """Means of groups of s rows, shuffled by `key`; without one, in the order given.

    n rows become ceil(n / s), the last group may be smaller. A liar spoils one group, so
    the rule that follows takes the same f and needs f < ceil(n / s) / 2. O(n d).

    Args:
        s: rows per group, a number known before compilation; 2 in the paper and ByzFL
            ("2-bucketing"), 1 changes nothing but the order.

    References:
        Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing", ICLR 2022.
    """
    require(is_concrete(s), "bucketing needs an s that is known before compilation")
    s = check_integer("bucketing", "s", s, 1)
    return Pre(
        "bucketing",
        lambda x, mask, key: _bucketing(x, mask, key, s),
        left=lambda count: Count(-(-count.present // s), -(-count.rows // s)),
        draws=True,
    )


@jax.jit
def _clipping(x, mask, c):
    x, present = cleaned(x, mask)
    return x * shorten(norms(x), c.astype(x.dtype))[:, None], present


def clipping(c: Any = 2.0) -> Pre:
    """x_i min(1, c / |x_i|): no row is longer than c. O(n d).

    ByzFL's has the same default, and overwrites its argument; this one does not.

    Args:
        c: the largest length of a row, in the units of what is aggregated.
    """
    check_positive("clipping", "c", c)
    return Pre("clipping", lambda x, mask, key: _clipping(x, mask, jnp.asarray(c, x.dtype)))


@jax.jit
def _arc(x, mask, f):
    x, present = cleaned(x, mask)
    n, f = number(present), MAJORITY.clamp(f, present)
    clipped = 2 * f * (n - f) // jnp.maximum(n, 1)
    size = norms(x)
    ordered = jnp.sort(jnp.where(present, size, jnp.inf))
    longest = ordered[jnp.maximum(n - clipped - 1, 0)]
    return x * shorten(size, longest)[:, None], present


def arc(f: Any) -> Pre:
    """Adaptive robust clipping: the k longest rows get the length of the one after them.

    k = floor(2 (f / n) (n - f)), in whole numbers, and the length is the (n - k)-th
    smallest. Scale-free, unlike `clipping`. Needs n > 2f; O(n d).

    Args:
        f: liars to tolerate.

    References:
        Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR
        2025, as in ByzFL, which rounds the product of floats instead.
    """
    f = check_integer("arc", "f", f, 0)
    return Pre(
        "arc",
        lambda x, mask, key: _arc(x, mask, jnp.asarray(f, jnp.int32)),
        lambda count: MAJORITY.check("arc", count, f),
    )


PREAGGREGATORS = {"nnm": nnm, "bucketing": bucketing, "clipping": clipping, "arc": arc}
