"""Aggregators that treat each coordinate by itself, from the mean to the majority vote."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.aggregators.row_ops import (
    add_up,
    headroom,
    listed,
    listed_last,
    mean_of,
    middle_of,
    number,
    pick,
    sort_rows,
    usable,
)
from farsign_jax.aggregators.rule import MAJORITY, Rule, without_options
from farsign_jax.base import Array
from farsign_jax.validation import check_integer, is_concrete, require


@jax.jit
def _present_mean(x, mask):
    return mean_of(x, usable(x, mask))


def mean() -> Rule:
    """The average, (1 / n) sum x_i: no liar is tolerated. O(n d)."""
    return without_options("mean", _present_mean)


# Coordinate by coordinate.
def _median(x, mask, even):
    present = usable(x, mask)
    middle = middle_of(sort_rows(listed_last(x, present)), number(present), even)
    return jnp.where(present.any(), middle, 0)


_median = jax.jit(_median, static_argnames="even")


def median(even: str = "mean") -> Rule:
    """The coordinate-wise median. Tolerates f < n / 2; O(n d log^2 n).

    Args:
        even: of an even number of values, "mean", the mean of the two in the middle (Yin et
            al.; ByzFL, flower, epfml); or "low", the lower of them (torch.median; byzpy,
            krum).

    References:
        Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
        Rates", ICML 2018.
    """
    require(even in ("mean", "low"), f"median needs even 'mean' or 'low': got {even!r}")
    return without_options("median", functools.partial(_median, even=even))


@jax.jit
def _trimmed_mean(x, mask, f):
    present = usable(x, mask)
    f, n = MAJORITY.clamp(f, present), number(present)
    scale = headroom(x.shape[0])
    ordered = sort_rows(listed_last(x, present, scale))
    lowest = pick(ordered, f)
    # Differences to a value that is kept: no large outlier touches the sum.
    kept = ((f <= i) & (i < n - f) for i in range(len(ordered)))
    total = add_up(jnp.where(k, row - lowest, 0) for k, row in zip(kept, ordered, strict=True))
    result = lowest + total / jnp.maximum(n - 2 * f, 1).astype(x.dtype)
    return jnp.where(n > 0, result * scale, 0)


def _share(fraction: Any, n: int) -> np.ndarray:
    """i32[n + 1], floor(fraction k) for k = 0..n; 0.29 * 100 = 28.999... counts as 29."""
    return np.floor(float(fraction) * np.arange(n + 1) + 1e-9).astype(np.int32)


def trimmed_mean(f: Any = None, fraction: Any = None) -> Rule:
    """Per coordinate, the mean of what is left without the f lowest and f highest values.

    Needs n > 2f; f = 0 is the mean, n = 2f + 1 the median. O(n d log^2 n).

    Args:
        f: how many to drop on each side (ByzFL, byzpy, epfml).
        fraction: instead of f, of the rows present, rounded down (flower's beta).

    References:
        Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
        Rates", ICML 2018. Not the mean around the median that goes by the same name in the
        code of "A Little Is Enough": that is `meamed`.
    """
    require((f is None) != (fraction is None), "trimmed_mean needs f, or a fraction")
    if fraction is None:
        f = check_integer("trimmed_mean", "f", f, 0)
        return without_options("trimmed_mean", _trimmed_mean, MAJORITY, f)
    if is_concrete(fraction):
        rule = f"trimmed_mean needs 0 <= fraction < 0.5: got {fraction!r}"
        require(np.ndim(fraction) == 0 and np.isreal(fraction), rule)
        require(0 <= fraction < 0.5, rule)

    def core(x, mask, start, key):
        n = number(mask)
        if is_concrete(fraction):
            drop = jnp.asarray(_share(fraction, x.shape[0]))[n]
        else:
            drop = jnp.floor(fraction * n.astype(fraction.dtype) + 1e-5).astype(jnp.int32)
        return _trimmed_mean(x, mask, drop)

    return Rule("trimmed_mean", core)


def around_median(x: Array, present: Array, keep: Array) -> Array:
    """Per coordinate, the mean of the `keep` values nearest to the median of those present.

    The distance of the last one kept comes from a second sort; of those at exactly that
    distance the first are taken.
    """
    scale, n = headroom(x.shape[0]), number(present)
    middle = middle_of(sort_rows(listed_last(x, present, scale)), n)
    rows = listed(x, present, 0, scale)
    top = jnp.finfo(x.dtype).max
    away = [
        jnp.where(p, jnp.abs(row - middle), top) for row, p in zip(rows, present, strict=True)
    ]
    farthest = pick(sort_rows(away), keep - 1)
    left = keep - add_up((a < farthest).astype(jnp.int32) for a in away)
    total = jnp.zeros_like(middle)
    for row, distance in zip(rows, away, strict=True):
        tie = distance == farthest
        total += jnp.where((distance < farthest) | (tie & (left > 0)), row - middle, 0)
        left -= tie.astype(jnp.int32)
    result = middle + total / jnp.maximum(keep, 1).astype(x.dtype)
    return jnp.where(n > 0, result * scale, 0)


@jax.jit
def _meamed(x, mask, f):
    present = usable(x, mask)
    return around_median(x, present, number(present) - MAJORITY.clamp(f, present))


def meamed(f: Any) -> Rule:
    """Mean around the median: per coordinate, of the n - f values nearest to the median.

    Needs n > 2f; O(n d log^2 n). Values at the same distance: the lowest index first.

    Args:
        f: liars to tolerate.

    References:
        Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", 2018; as in ByzFL.
        The code of "A Little Is Enough" calls it the trimmed mean, and keeps n - f - 1.
    """
    return without_options("meamed", _meamed, MAJORITY, check_integer("meamed", "f", f, 0))


@jax.jit
def _majority_vote(x, mask):
    return jnp.sign(add_up(jnp.sign(row) for row in listed(x, usable(x, mask))))


def majority_vote() -> Rule:
    """sign(sum_i sign(x_i)): each row has one vote per coordinate, a tie is 0. O(n d).

    References:
        Bernstein et al., "signSGD with Majority Vote is Communication Efficient and Fault
        Tolerant", ICLR 2019.
    """
    return without_options("majority_vote", _majority_vote)
