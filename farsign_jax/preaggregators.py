"""Pre-aggregators: rows in, better rows out; and the door that every rule's rows come through.

A pre-aggregator is a pure callable `pre(x, mask=None, *, key=None) -> (x', mask')` with x
f[n, d], one row per worker, and mask bool[n], which rows count (None: all). A rule of
`aggregators` follows it; `aggregators.make("nnm+krum", f=2)` joins them.

What holds for all of them, and for all rules of `aggregators`:

Who is absent. A row outside the mask counts for nothing: the result is the one of x[mask].
A row with NaN or an infinity is treated like an absent one, and so is, where distances or
norms matter, a finite number too large to be squared and summed: above
sqrt(largest number) / 2^14, 1e15 in float32.

Why that keeps the guarantee. Honest rows are finite, so of f liars the k rows left out were
liars, and at most f - k of the n - k that stay are. The rule then runs with
min(f, the most liars that n - k rows admit). Where n rows admitted f, n - k rows admit
f - k, so what is used is never less than the liars that stay. Beyond f bad rows nothing can
be promised but finite numbers, and those are delivered; zeros where no row is left.

What is checked. Shapes and the numbers of a concrete mask are known when a rule is called:
a broken precondition is an `InvalidConfig` with its numbers. Under `jit` a mask is not
known, and f shrinks instead, as above. f and other numbers may be traced, then they are not
checked either: a sweep over f compiles once.

Types. float32 and float64 stay what they are; integers, booleans and half precision are
computed, and returned, in float32. Ties go to the lowest index.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, InvalidConfig, Key, is_concrete, require

# Columns per step of a loop over all pairs: 25 rows of them fit into a cache of 2 MiB, and
# a step is long beside the cost of a loop (25 x 1,000,000 numbers on two cores: 60 ms; all
# columns at once 1.4 s, row by row 0.23 s).
BLOCK = 1 << 14


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


@dataclasses.dataclass(frozen=True)
class Pre:
    """A pre-aggregator: `check` sees the sizes, `core` the numbers, `left` counts rows."""

    name: str
    core: Callable[[Array, Array, Any], tuple[Array, Array]]
    check: Callable[[Count], None] = lambda count: None
    left: Callable[[Count], Count] = lambda count: count
    draws: bool = False  # does it use the key?

    def __call__(self, x: Any, mask: Any = None, *, key: Key | None = None):
        x, mask, count = enter(self.name, x, mask)
        self.check(count)
        return self.core(x, mask, key)


def whole(name: str, option: str, value: Any, least: int) -> Any:
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


def positive(name: str, option: str, value: Any) -> Any:
    """`value`; an `InvalidConfig` where it is known and not a number > 0."""
    if is_concrete(value):
        rule = f"{name} needs {option} > 0: got {value!r}"
        require(isinstance(value, int | float | np.number | np.ndarray | jax.Array), rule)
        require(value > 0, rule)
    return value


def enter(name: str, x: Any, mask: Any) -> tuple[Array, Array, Count]:
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


def number(present: Array) -> Array:
    """i32[], how many."""
    return present.sum(dtype=jnp.int32)


def usable(x: Array, mask: Array, squares: bool = False) -> Array:
    """bool[n], which rows count: see the top of this file."""
    limit = float(jnp.finfo(x.dtype).max)
    if squares:
        limit = limit**0.5 / 2**14
    return mask & (jnp.abs(x) <= limit).all(axis=1)  # false for NaN


def cleaned(x: Array, mask: Array, squares: bool = True) -> tuple[Array, Array]:
    """x with zeros in the rows that do not count, and which do."""
    present = usable(x, mask, squares)
    return jnp.where(present[:, None], x, 0), present


def headroom(n: int) -> float:
    """A power of two: numbers divided by it can be subtracted and n of them summed."""
    return 2.0 ** (2 * n).bit_length()


def square_distances(x: Array, present: Array | None = None) -> Array:
    """f[n, n], squared distances between rows, from differences: identical rows have 0.

    Rows that do not count are taken as zeros, block by block: a copy of all of x would take
    a third of the time. Never |a|^2 + |b|^2 - 2ab: in float32 that loses all digits for
    rows that are close together and far from the origin. O(n^2 d).
    """
    n, d = x.shape
    blocks = d // BLOCK
    some = jnp.ones(n, bool) if present is None else present

    def part(block):
        block = jnp.where(some[:, None], block, 0)
        return ((block[:, None] - block[None]) ** 2).sum(axis=2)

    def add(i, total):
        return total + part(jax.lax.dynamic_slice(x, (0, i * BLOCK), (n, BLOCK)))

    if not blocks:
        return part(x)
    total = jax.lax.fori_loop(0, blocks, add, jnp.zeros((n, n), x.dtype))
    return total + part(x[:, blocks * BLOCK :])


def norms(x: Array) -> Array:
    """f[n], Euclidean norms of rows."""
    return jnp.sqrt((x**2).sum(axis=1))


def shorten(size: Array, longest: Array) -> Array:
    """The factor min(1, longest / size) that clips a vector of that size; 1 at size 0."""
    return jnp.where(size > longest, longest / jnp.where(size > 0, size, 1), 1)


def positions(values: Array) -> Array:
    """i32[..., n], the place of each value in ascending order, ties by index."""
    order = jnp.argsort(values, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


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

    References:
        Allouah et al., "Fixing by Mixing", AISTATS 2023. ByzFL has the same definition.
    """
    f = whole("nnm", "f", f, 0)
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
    s = whole("bucketing", "s", s, 1)
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
    """
    positive("clipping", "c", c)
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

    References:
        Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR
        2025, as in ByzFL, which rounds the product of floats instead.
    """
    f = whole("arc", "f", f, 0)
    return Pre(
        "arc",
        lambda x, mask, key: _arc(x, mask, jnp.asarray(f, jnp.int32)),
        lambda count: MAJORITY.check("arc", count, f),
    )


PREAGGREGATORS = {"nnm": nnm, "bucketing": bucketing, "clipping": clipping, "arc": arc}
