"""Rows: what rules and pre-aggregators share, f[n, d] with a mask of the rows that count.

What holds for every rule of `aggregators` and every one of `preaggregators`:

Who is absent. A row outside the mask counts for nothing: the result is the one of x[mask].
A row with NaN or an infinity is treated like an absent one, and so is, where distances or
norms matter, a finite number too large to be squared and summed: above
sqrt(largest number) / 2^14, 1e15 in float32. (Nothing is done about the other end: distances
below 1e-19 are 0 in float32.)

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

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.base import Array

NETWORK_ROWS = 64  # a sorting network for more rows takes seconds to compile


# Columns per step of a loop over all pairs: 25 rows of them fit into a cache of 2 MiB, and
# a step is long beside the cost of a loop (25 x 1,000,000 numbers on two cores: 60 ms; all
# columns at once 1.4 s, row by row 0.23 s).
BLOCK = 1 << 14


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


# Rows one by one: on a CPU a reduction along the rows is fifty times slower.
def listed(x: Array, present: Array, other: float = 0, scale: float = 1) -> list[Array]:
    """The rows one by one, divided by `scale`; `other` in those that do not count.

    Sums over a list of rows fuse into one pass; a reduction along the rows is far slower.
    """
    return [jnp.where(p, x[i] / scale, other) for i, p in enumerate(present)]


def add_up(terms: Any) -> Array:
    return functools.reduce(operator.add, terms)


def pull(x: Array, weights: Array, center: Array) -> Array:
    """f[d], sum_i w_i (x_i - center)."""
    return add_up(w * (x[i] - center) for i, w in enumerate(weights))


def mean_of(x: Array, keep: Array) -> Array:
    """f[d], the mean of some rows, as the first of them plus the mean difference to it.

    Equal rows then have exactly that mean; zeros where there is none.
    """
    scale = headroom(x.shape[0])
    rows = listed(x, keep, scale=scale)
    first = pick(rows, jnp.argmax(keep))
    total = add_up(
        jnp.where(kept, row - first, 0) for row, kept in zip(rows, keep, strict=True)
    )
    return (first + total / jnp.maximum(number(keep), 1).astype(x.dtype)) * scale


@functools.cache
def network(n: int) -> tuple[tuple[int, int], ...]:
    """Pairs to compare and exchange, in order, to sort n values.

    Batcher's odd-even merge sort (AFIPS 1968), with pairs beyond n left out: they would
    compare with +inf.
    """
    pairs = []
    run = 1
    while run < n:
        reach = run
        while reach:
            for base in range(reach % run, n - reach, 2 * reach):
                for low in range(base, min(base + reach, n - reach)):
                    if low // (2 * run) == (low + reach) // (2 * run):
                        pairs.append((low, low + reach))
            reach //= 2
        run *= 2
    return tuple(pairs)


def sort_rows(rows: Sequence[Array]) -> list[Array]:
    """Each coordinate in ascending order over the rows."""
    if len(rows) > NETWORK_ROWS:
        return list(jnp.sort(jnp.stack(rows), axis=0))
    rows = list(rows)
    for low, high in network(len(rows)):
        a, b = rows[low], rows[high]
        swap = b < a
        rows[low], rows[high] = jnp.where(swap, b, a), jnp.where(swap, a, b)
    return rows


def listed_last(x: Array, present: Array, scale: float = 1) -> list[Array]:
    """The rows divided by `scale`, those that do not count above all that do."""
    return listed(x, present, float(jnp.finfo(x.dtype).max), scale)


def pick(rows: Sequence[Array], place: Array) -> Array:
    """rows[place] for an index that is known only later."""
    found = rows[0]
    for i, row in enumerate(rows[1:], start=1):
        found = jnp.where(place == i, row, found)
    return found


def middle_of(ordered: Sequence[Array], n: Array, even: str = "mean") -> Array:
    """The median of the first n of sorted rows; halves are added, so nothing overflows."""
    low = pick(ordered, (n - 1) // 2)
    return low if even == "low" else low / 2 + pick(ordered, n // 2) / 2
