"""The geometric median on a block of coordinates."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import functools

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.geometric import geometric_median
from farsign_jax.aggregators.row_ops import (
    add_up,
    cleaned,
    listed,
    listed_last,
    middle_of,
    number,
)
from farsign_jax.aggregators.rule import Rule, without_options
from farsign_jax.base import Array
from farsign_jax.validation import check_integer, check_positive, is_concrete, require

SCORES = ("norm", "median")


def _size(block: int | float, d: int) -> int:
    """The number of coordinates in a block, of d."""
    name = "block_geometric_median"
    if isinstance(block, int):
        require(
            block <= d, f"{name} needs a block of at most d coordinates: got {block}, d={d}"
        )
        return block
    return max(int(block * d), 1)


@functools.partial(jax.jit, static_argnames=("size", "score"))
def _block_geometric_median(
    x: Array, mask: Array, iterations: Array, tolerance: Array, size: int, score: str
) -> Array:
    x, present = cleaned(x, mask)
    if score == "norm":
        scores = add_up(jnp.square, listed(x, present))
    else:
        scores = middle_of(listed_last(jnp.abs(x), present), number(present))
    chosen = jnp.sort(jax.lax.top_k(scores, size)[1])
    median = geometric_median(iterations, tolerance)
    z = median.core(x[:, chosen], present, None, None)
    return jnp.zeros_like(x[0]).at[chosen].set(z)


def block_geometric_median(
    block: int | float = 0.1,
    score: str = "norm",
    iterations: int | Array = 1000,
    tolerance: float | Array = 1e-8,
) -> Rule:
    """The geometric median on the k coordinates of largest norm, and 0 in the others.

    The score of coordinate j is sum_i x_ij^2 over the rows that count. The k coordinates with
    the highest scores are the block; ties go to the lowest coordinates. The result is that of
    `geometric_median` of the rows restricted to the block. It tolerates f < n / 2 within the
    block; O(n d + n^2 k), and O(n k) per iteration.

    This is the aggregation step of block coordinate geometric median descent. The method also
    adds to the rows, before the choice, what earlier rounds left out, averaged over the
    workers. This memory is left out here, as a rule has no state, and because a Byzantine row
    moves that average without bound. Without it, coordinates outside of the block stay as they
    are, and the convergence that the paper proves, which relies on the memory, is not implied.

    A Byzantine row chooses the block if it is large in the coordinates that it wants, since the
    scores are sums of squares, as published. It does not move the result beyond what the
    geometric median allows, but can keep the block away from coordinates that matter.
    score="median" is not of the paper: the scores are medians of |x_ij| over the rows, which
    stay within the range of the honest ones for f < n / 2.

    Args:
        block: the number of coordinates k if an integer, or else the fraction of them: k is
            the integer part of block d, and at least 1. It is known before compilation. The
            code of the authors was run with 0.05 to 0.5.
        score: "norm", as published, or "median".
        iterations: as for `geometric_median`.
        tolerance: as for `geometric_median`.

    Raises:
        InvalidConfig: if an option is outside of its range, or a block has more coordinates
            than there are.

    References:
        Acharya, Hashemi, Jain, Sanghavi, Dhillon and Topcu, "Robust Training in High Dimensions
        via Block Coordinate Geometric Median Descent", AISTATS 2022, arXiv 2106.08882. The
        selection is that of the authors' code; the text of the paper was not available.
    """
    name = "block_geometric_median"
    require(is_concrete(block), f"{name} needs a block that is known before compilation")
    if isinstance(block, float):
        require(0 < block <= 1, f"{name} needs a fraction 0 < block <= 1: got {block:g}")
    else:
        block = check_integer(name, "block", block, 1)
    require(score in SCORES, f"{name} needs score of {', '.join(SCORES)}: got {score!r}")
    iterations = check_integer(name, "iterations", iterations, 1)
    check_positive(name, "tolerance", tolerance)

    def core(x: Array, mask: Array) -> Array:
        steps, least = jnp.asarray(iterations, jnp.int32), jnp.asarray(tolerance, x.dtype)
        size = _size(block, x.shape[1])
        return _block_geometric_median(x, mask, steps, least, size=size, score=score)

    return without_options(name, core)
