"""Minimum diameter averaging, which compares all subsets of rows."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import mean_of, number, square_distances, usable
from farsign_jax.aggregators.rule import MAJORITY, Count, Rule
from farsign_jax.base import Array, Key
from farsign_jax.validation import check_integer, is_concrete, require

MDA_SUBSETS = 200_000  # the largest number of subsets that `mda` compares


def _subsets(n: int, f: int) -> Array:
    """All ways to keep n - f of n rows, bool[C(n, f), n], in lexicographic order.

    The r-th subset is r written in the combinatorial number system, so that no table is
    stored in the program. It is counted from the end, so that the rows dropped first have
    high indices.
    """
    rest = jnp.arange(math.comb(n, f), dtype=jnp.int32)
    kept = jnp.ones((rest.size, n), bool)
    for size in range(f, 0, -1):
        below = jnp.asarray([min(math.comb(c, size), 2**31 - 1) for c in range(n)], jnp.int32)
        c = jnp.searchsorted(below, rest, side="right").astype(jnp.int32) - 1
        rest = rest - below[c]
        kept &= jnp.arange(n, dtype=jnp.int32)[None] != n - 1 - c[:, None]
    return kept


@functools.partial(jax.jit, static_argnames="f")
def _mda(x: Array, mask: Array, f: int) -> Array:
    present = usable(x, mask, squares=True)
    n = x.shape[0]
    distances = square_distances(x, present)
    kept = _subsets(n, f)
    # Where f shrinks, rows that do not count may be among those dropped.
    size = (kept & present[None]).sum(axis=1, dtype=jnp.int32)
    kept &= present[None]
    target = number(present) - MAJORITY.clamp(jnp.int32(f), present)

    def widen(i: Array, diameter: Array) -> Array:
        reach = jnp.where(kept, distances[i][None], 0).max(axis=1)
        return jnp.maximum(diameter, jnp.where(kept[:, i], reach, 0))

    diameter = jax.lax.fori_loop(0, n, widen, jnp.zeros(kept.shape[0], x.dtype))
    return mean_of(x, kept[jnp.argmin(jnp.where(size == target, diameter, jnp.inf))])


def mda(f: int) -> Rule:
    """Minimum diameter averaging: the mean of the n - f rows that lie closest together.

    These are the set of rows whose largest distance between two of them is smallest; of
    several such sets, the lexicographically first. It needs n > 2f; O(n^2 d + C(n, f) n^2).
    More than 200,000 sets are refused.

    Args:
        f: the number of Byzantine rows to tolerate, known before compilation.

    Raises:
        InvalidConfig: if f is traced, or not an integer >= 0.

    References:
        Rousseeuw, "Multivariate Estimation with High Breakdown Point", 1985; El Mhamdi et
        al., "Genuinely Distributed Byzantine Machine Learning", PODC 2020. As in ByzFL.
    """
    require(is_concrete(f), "mda needs an f that is known before compilation")
    f = check_integer("mda", "f", f, 0)

    def check(count: Count) -> None:
        MAJORITY.check("mda", count, f)
        sets = math.comb(count.rows, f)
        rule = f"mda tries all C(n, f) <= {MDA_SUBSETS:,} sets: got n={count.rows}, f={f}"
        require(sets <= MDA_SUBSETS, f"{rule}, {sets:,} sets")

    def core(x: Array, mask: Array, start: Any, key: Key | None) -> Array:
        return _mda(x, mask, f)

    return Rule("mda", core, check)
