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
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array

# A loop over so many rows is unrolled, so that XLA fuses it into one pass over the numbers; a
# longer one is compiled as a loop, whose program does not grow with the number of rows.
UNROLLED = 32

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


def one_part_of(parts: float, dtype: Any) -> Array:
    """1 / parts, f[], for numbers that are made smaller before they are added.

    The value is hidden from the compiler, because XLA turns a / 2 + b / 2 into (a + b) / 2 on
    a GPU if it knows the power of two, and the sum may overflow.
    """
    return jax.lax.optimization_barrier(jnp.asarray(1 / parts, dtype))


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
    """The rank of each value in ascending order, i32[..., n]; ties are broken by index.

    Up to 64 values are compared in pairs: XLA takes six times as long to sort them on a CPU.
    The values are no NaN.
    """
    n = values.shape[-1]
    if n <= 2 * UNROLLED:
        own, other = values[..., :, None], values[..., None, :]
        earlier = np.tri(n, k=-1, dtype=bool).reshape((1,) * (values.ndim - 1) + (n, n))
        before = (other < own) | ((other == own) & earlier)
        return before.sum(axis=-1, dtype=jnp.int32)
    order = jnp.argsort(values, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


# The functions below take the rows f[d] one by one: on a CPU a reduction along the rows of one
# array is fifty times slower. Up to UNROLLED rows may be a list, more are an array f[n, d].
Rows = Sequence[Any] | Array


def each(function: Callable[..., Array], *rows: Rows) -> Rows:
    """function(a, b, ...) for the first rows a, b, ... of the arguments, then the second."""
    n = len(rows[0])
    if n <= UNROLLED:
        return [function(*(r[i] for r in rows)) for i in range(n)]
    return jax.vmap(function)(*rows)


def fold(function: Callable[..., Any], start: Any, *rows: Rows) -> Any:
    """start <- function(start, a, b, ...) for the first rows a, b, ..., then for the second."""
    n = len(rows[0])
    if n <= UNROLLED:
        for i in range(n):
            start = function(start, *(r[i] for r in rows))
        return start
    return jax.lax.scan(lambda total, row: (function(total, *row), ()), start, rows)[0]


def add_up(function: Callable[..., Array], *rows: Rows) -> Array:
    """The sum of function(a, b, ...) over the rows, added from the first to the last."""
    if len(rows[0]) <= UNROLLED:
        return functools.reduce(operator.add, each(function, *rows))
    term = jax.eval_shape(function, *(r[0] for r in rows))
    zero = jnp.zeros(term.shape, term.dtype)
    return fold(lambda total, *row: total + function(*row), zero, *rows)


def listed(x: Array, present: Array, other: float = 0, scale: float = 1) -> Rows:
    """The rows f[d], divided by `scale`, with `other` in those that do not count."""
    part = 1 if scale == 1 else one_part_of(scale, x.dtype)
    return each(lambda row, p: jnp.where(p, row * part, other), x, present)


def pull(x: Array, weights: Array, center: Array) -> Array:
    """sum_i w_i (x_i - center), f[d], for rows x f[n, d] and weights f[n]."""
    return add_up(lambda row, w: w * (row - center), x, weights)


def mean_of(x: Array, keep: Array) -> Array:
    """The mean of the rows for which keep bool[n] is true, f[d]; zeros where there is none.

    It is computed as the first of these rows plus the mean difference to it, so that the mean
    of equal rows is exactly that row.
    """
    scale = headroom(x.shape[0])
    rows = listed(x, keep, scale=scale)
    first = pick(rows, jnp.argmax(keep))
    total = add_up(lambda row, kept: jnp.where(kept, row - first, 0), rows, keep)
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
    """Sorts each coordinate in ascending order over up to UNROLLED rows, by the network."""
    rows = list(rows)
    for low, high in network(len(rows)):
        a, b = rows[low], rows[high]
        swap = b < a
        rows[low], rows[high] = jnp.where(swap, b, a), jnp.where(swap, a, b)
    return rows


def _bisect(x: Array, places: Sequence[Array]) -> list[Array]:
    """The values at these places of the sorted columns, by bisection of their binary codes.

    Ordered as unsigned integers, the codes below are ordered as the numbers. From the highest
    bit down, a bit of the value at place p is set if no more than p codes are below the trial.
    That is O(n d) for each bit; `jnp.sort` takes ten times as long for 1,000 rows on a CPU.
    """
    bits = jnp.finfo(x.dtype).bits
    unsigned = jnp.uint32 if bits == 32 else jnp.uint64
    sign = unsigned(1 << (bits - 1))
    code = jax.lax.bitcast_convert_type(x, unsigned)
    code = jnp.where(code >= sign, ~code, code | sign)
    rank = jnp.stack(places)[:, None]

    def decide(i: Array, found: Array) -> Array:
        trial = found | (sign >> i.astype(unsigned))
        below = add_up(lambda row: (row[None] < trial).astype(jnp.int32), code)
        return jnp.where(below <= rank, trial, found)

    start = jnp.zeros((len(places), x.shape[1]), unsigned)
    found = jax.lax.fori_loop(0, bits, decide, start)
    found = jnp.where(found >= sign, found ^ sign, ~found)
    return list(jax.lax.bitcast_convert_type(found, x.dtype))


def ranked(rows: Rows, *places: Array) -> list[Array]:
    """The values f[d] at these places i32[], counted from 0, of the sorted coordinates."""
    if isinstance(rows, jax.Array):
        return _bisect(rows, places)
    ordered = sort_rows(rows)
    return [pick(ordered, place) for place in places]


def listed_last(x: Array, present: Array, scale: float = 1) -> Rows:
    """As `listed`, with the rows that do not count above the others, to be sorted last."""
    return listed(x, present, float(jnp.finfo(x.dtype).max), scale)


def pick(rows: Rows, place: Array) -> Array:
    """rows[place], for a place i32[] that may be traced; the first row for a negative place."""
    if isinstance(rows, jax.Array):
        return rows[jnp.maximum(place, 0)]
    found = rows[0]
    for i, row in enumerate(rows[1:], start=1):
        found = jnp.where(place == i, row, found)
    return found


def middle_of(rows: Rows, n: Array, even: str = "mean") -> Array:
    """The median of the n rows that count, f[d].

    Args:
        rows: n or more rows f[d]; those that do not count have larger values.
        n: i32[], the number of rows that count.
        even: what an even number of rows gives, as for `median`. The mean of the two middle
            values is half their sum, or the sum of their halves where their sum could overflow.
            Halves of the smallest numbers are zero or not, as XLA contracts their sum to a
            multiply-add or not.
    """
    if even == "low":
        return ranked(rows, (n - 1) // 2)[0]
    low, high = ranked(rows, (n - 1) // 2, n // 2)
    half = one_part_of(2, low.dtype)
    large = jnp.maximum(jnp.abs(low), jnp.abs(high)) > jnp.finfo(low.dtype).max / 2
    return jnp.where(large, low * half + high * half, (low + high) * half)
