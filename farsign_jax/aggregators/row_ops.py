"""Operations on rows f[n, d] with a mask of the rows that count.

Rules and pre-aggregators share these operations, and with them the following properties.

Absent rows. A row outside the mask counts for nothing: the result is that of x[mask]. A row
with NaN or an infinity is treated like an absent one. Where distances or norms matter, so is
a row with a finite number too large to be squared and summed, above
sqrt(largest number) / 2^14, which is 1e15 in float32. Small numbers are not treated
specially: distances below 1e-19 are 0 in float32.

Why that keeps the guarantee. Honest rows are finite, so of f Byzantine rows the k rows left
out were Byzantine, and at most f - k of the n - k that stay are. The rule then runs with
min(f, the most Byzantine rows that n - k rows admit). Where n rows admitted f, n - k rows
admit f - k, so what is used is never less than the Byzantine rows that stay. Beyond f bad
rows nothing can be promised but finite numbers, and those are delivered; zeros where no row
is left.

Checks. Shapes and the entries of a concrete mask are known when a rule is called: a broken
precondition raises `InvalidConfig` with its numbers. Under `jit` a mask is not known, and f
shrinks instead, as above. f and other numbers may be traced; they are then not checked
either, and a sweep over f compiles once.

Types. float32 and float64 inputs keep their type; integers, booleans and half precision are
computed and returned in float32. Ties go to the lowest index.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import functools
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from farsign_jax.base import Array

NETWORK_ROWS = 64  # a sorting network for more rows takes seconds to compile

# Columns per step of a loop over all pairs. 25 rows of them fit into a cache of 2 MiB, and a
# step takes long enough to hide the cost of the loop: 60 ms for 25 x 1,000,000 numbers on two
# cores, against 1.4 s for all columns at once and 0.23 s row by row.
BLOCK = 1 << 14


def number(present: Array) -> Array:
    """The number of true entries of bool[n], i32[]."""
    return present.sum(dtype=jnp.int32)


def usable(x: Array, mask: Array, squares: bool = False) -> Array:
    """The rows that count, bool[n]: those inside the mask whose numbers are all usable.

    Args:
        x: f[n, d], the rows.
        mask: bool[n], the rows that are present.
        squares: whether the numbers will be squared, which lowers the limit on their size.
    """
    limit = float(jnp.finfo(x.dtype).max)
    if squares:
        limit = limit**0.5 / 2**14
    return mask & (jnp.abs(x) <= limit).all(axis=1)  # false for NaN


def cleaned(x: Array, mask: Array, squares: bool = True) -> tuple[Array, Array]:
    """x with zeros in the rows that do not count, and bool[n], the rows that do."""
    present = usable(x, mask, squares)
    return jnp.where(present[:, None], x, 0), present


def headroom(n: int) -> float:
    """A power of two by which n numbers are divided so that their sum cannot overflow."""
    return 2.0 ** (2 * n).bit_length()


def square_distances(x: Array, present: Array | None = None) -> Array:
    """The squared distances between rows, f[n, n], in O(n^2 d).

    They are sums of squared differences, so that identical rows have distance 0. The formula
    |a|^2 + |b|^2 - 2ab is not used: in float32 it loses all digits for rows that are close
    together and far from the origin. Rows that do not count are replaced by zeros block by
    block, as a copy of all of x would take a third of the time.
    """
    n, d = x.shape
    blocks = d // BLOCK
    counted = jnp.ones(n, bool) if present is None else present

    def of_block(block: Array) -> Array:
        block = jnp.where(counted[:, None], block, 0)
        return ((block[:, None] - block[None]) ** 2).sum(axis=2)

    def add(i: Array, total: Array) -> Array:
        return total + of_block(jax.lax.dynamic_slice(x, (0, i * BLOCK), (n, BLOCK)))

    if not blocks:
        return of_block(x)
    total = jax.lax.fori_loop(0, blocks, add, jnp.zeros((n, n), x.dtype))
    return total + of_block(x[:, blocks * BLOCK :])


def norms(x: Array) -> Array:
    """The Euclidean norms of the rows, f[n]."""
    return jnp.sqrt((x**2).sum(axis=1))


def shorten(size: Array, longest: Array) -> Array:
    """The factor min(1, longest / size) that clips a vector of norm `size`; 1 at size 0."""
    return jnp.where(size > longest, longest / jnp.where(size > 0, size, 1), 1)


def positions(values: Array) -> Array:
    """The rank of each value in ascending order, i32[..., n]; ties are broken by index."""
    order = jnp.argsort(values, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


# The functions below take the rows one by one: on a CPU a reduction along the rows of one array
# is fifty times slower.


def listed(x: Array, present: Array, other: float = 0, scale: float = 1) -> list[Array]:
    """A list of the rows f[d], divided by `scale`, with `other` in those that do not count.

    Sums over the list fuse into one pass over the numbers.
    """
    return [jnp.where(p, x[i] / scale, other) for i, p in enumerate(present)]


def add_up(terms: Iterable[Array]) -> Array:
    """The sum of the terms, added from the first to the last."""
    return functools.reduce(operator.add, terms)


def pull(x: Array, weights: Array, center: Array) -> Array:
    """sum_i w_i (x_i - center), f[d], for rows x f[n, d] and weights f[n]."""
    return add_up(w * (x[i] - center) for i, w in enumerate(weights))


def mean_of(x: Array, keep: Array) -> Array:
    """The mean of the rows for which keep bool[n] is true, f[d]; zeros where there is none.

    It is computed as the first of these rows plus the mean difference to it, so that the mean
    of equal rows is exactly that row.
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
    """The pairs to compare and exchange, in order, to sort n values.

    The network is Batcher's odd-even merge sort (AFIPS 1968). Pairs beyond n are left out, as
    they would compare with +inf.
    """
    pairs: list[tuple[int, int]] = []
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
    """Sorts each coordinate in ascending order over the rows."""
    if len(rows) > NETWORK_ROWS:
        return list(jnp.sort(jnp.stack(rows), axis=0))
    rows = list(rows)
    for low, high in network(len(rows)):
        a, b = rows[low], rows[high]
        swap = b < a
        rows[low], rows[high] = jnp.where(swap, b, a), jnp.where(swap, a, b)
    return rows


def listed_last(x: Array, present: Array, scale: float = 1) -> list[Array]:
    """As `listed`, with the rows that do not count above the others, to be sorted last."""
    return listed(x, present, float(jnp.finfo(x.dtype).max), scale)


def pick(rows: Sequence[Array], place: Array) -> Array:
    """rows[place], for a place i32[] that may be traced."""
    found = rows[0]
    for i, row in enumerate(rows[1:], start=1):
        found = jnp.where(place == i, row, found)
    return found


def middle_of(ordered: Sequence[Array], n: Array, even: str = "mean") -> Array:
    """The median of the first n of sorted rows, f[d].

    Args:
        ordered: rows f[d], sorted by `sort_rows`.
        n: i32[], the number of rows that count.
        even: what an even number of rows gives, as for `median`. The mean of the two middle
            values adds their halves, which cannot overflow.
    """
    low = pick(ordered, (n - 1) // 2)
    return low if even == "low" else low / 2 + pick(ordered, n // 2) / 2
