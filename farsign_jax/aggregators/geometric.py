"""Aggregators that minimise distances by an iteration: geometric median, RFA, clipping."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import (
    cleaned,
    listed_last,
    mean_of,
    middle_of,
    norms,
    number,
    pull,
    shorten,
    square_distances,
)
from farsign_jax.aggregators.rule import Rule, without_options
from farsign_jax.base import Array, Key
from farsign_jax.validation import check_integer, check_positive, require


def _minimiser(x: Array, present: Array) -> tuple[Array, Array]:
    """Whether one of the rows is the geometric median, bool[], and the best row, f[d].

    A row is the geometric median if it is the row of least total distance, and the pull of
    the other rows on it is below the number of rows at its place.
    """
    distances = jnp.sqrt(square_distances(x, present))
    totals = jnp.where(present[None], distances, 0).sum(axis=1)
    near = jnp.argmin(jnp.where(present, totals, jnp.inf))
    # Where some rows are far away, the totals are equal up to rounding, but their excess over
    # that of `near` is not: |x_i - x_j| - |x_i - x_k| is computed from z = x - x_k as the
    # difference of the squares divided by the sum.
    z = x - x[near][None]
    products = jnp.matmul(z, z.T, precision="highest")
    both = distances + distances[near][None]
    more = (jnp.diagonal(products)[:, None] - 2 * products) / jnp.where(both > 0, both, 1)
    more = jnp.where(present[None], more, 0).sum(axis=1)
    best = jnp.argmin(jnp.where(present, more, jnp.inf))
    away = distances[best]
    others = present & (away > 0)
    weights = jnp.where(others, 1 / jnp.where(others, away, 1), 0)
    same = number(present & (away == 0)).astype(x.dtype)
    excess = norms(pull(x, weights, x[best])[None])[0] - same
    # An excess of exactly 0 is left out: the row is then one end of a segment of minimisers.
    slack = 4 * x.shape[0] * jnp.finfo(x.dtype).eps
    return present.any() & (excess < -slack), x[best]


class Weiszfeld(NamedTuple):
    """The state of Weiszfeld's iteration."""

    z: Array  # f[d]
    steps: Array  # i32[], steps so far
    length: Array  # f[], of the last step; inf before the first
    goes_on: Array  # bool[]


@jax.jit
def _geometric_median(x: Array, mask: Array, iterations: Array, tolerance: Array) -> Array:
    x, present = cleaned(x, mask)
    found, row = _minimiser(x, present)
    z = middle_of(listed_last(x, present), number(present))
    z = jnp.where(present.any(), jnp.where(found, row, z), 0)
    half = jnp.maximum(number(present) - 1, 0) // 2

    def step(state: Weiszfeld) -> Weiszfeld:
        z, steps, before, _ = state
        r = norms(x - z[None])
        here = present & (r == 0)
        weights = jnp.where(present & ~here, 1 / jnp.where(r > 0, r, 1), 0)
        force = pull(x, weights, z)
        held = number(here).astype(x.dtype)
        strength = jnp.sqrt((force**2).sum())
        stay = jnp.where(strength > held, held / jnp.where(strength > 0, strength, 1), 1)
        total = weights.sum()
        change = (1 - stay) * force / jnp.where(total > 0, total, 1)
        length = jnp.sqrt((change**2).sum())
        # Half of the rows are as near as this: fewer Byzantine rows than that cannot move it
        # beyond the distances of honest rows.
        spread = jnp.sort(jnp.where(present, r, jnp.inf))[half]
        # Lengths of steps shrink by a factor q, so that a way of length * q / (1 - q) is left.
        left = length * jnp.maximum(length / jnp.maximum(before - length, 0), 1)
        goes_on = (left > tolerance * spread) & (z + change != z).any()
        return Weiszfeld(z + change, steps + 1, length, goes_on)

    def going(state: Weiszfeld) -> Array:
        return state.goes_on & (state.steps < iterations)

    start = Weiszfeld(z, jnp.int32(0), jnp.asarray(jnp.inf, x.dtype), present.any() & ~found)
    return jax.lax.while_loop(going, step, start).z


def geometric_median(iterations: int | Array = 1000, tolerance: float | Array = 1e-8) -> Rule:
    """argmin_z sum_i |z - x_i|. It tolerates f < n / 2; O(n^2 d), and O(n d) per iteration.

    The rule first tests whether one of the rows is the minimiser. The row x_j of least total
    distance is, if the pull R_j = |sum of (x_i - x_j) / |x_i - x_j| over the others| is less
    than the number of rows at x_j. Otherwise it runs Weiszfeld's iteration,
    z <- sum(x_i / r_i) / sum(1 / r_i) with r_i = |z - x_i|, from the coordinate-wise median.
    Where z coincides with w of the rows, it takes Vardi and Zhang's step, 1 - w / R of the
    way. It stops where the way that is left, s q / (1 - q) for a step of length s that is q
    times the one before, and s itself, are below `tolerance`, or rounding, of the median
    distance from the rows to z. f < n / 2 rows far away change neither that scale nor the
    accuracy beyond what honest rows allow.

    ByzFL's GeometricMedian is `rfa(nu=0.1, iterations=3, start="zero")`, which does not
    converge in its three iterations.

    Args:
        iterations: the largest number of iterations.
        tolerance: the length of the way that is left, relative to the median distance from
            the rows to z.

    Raises:
        InvalidConfig: if iterations is not an integer >= 1, or tolerance is not > 0.

    References:
        Weiszfeld, 1937; Vardi and Zhang, "The multivariate L1-median and associated data
        depth", PNAS 2000.
    """
    iterations = check_integer("geometric_median", "iterations", iterations, 1)
    check_positive("geometric_median", "tolerance", tolerance)

    def core(x: Array, mask: Array) -> Array:
        steps = jnp.asarray(iterations, jnp.int32)
        least = jnp.maximum(jnp.asarray(tolerance, x.dtype), jnp.finfo(x.dtype).eps)
        return _geometric_median(x, mask, steps, least)

    return without_options("geometric_median", core)


@functools.partial(jax.jit, static_argnames="origin")
def _rfa(x: Array, mask: Array, nu: Array, iterations: Array, origin: str) -> Array:
    x, present = cleaned(x, mask)
    if origin == "zero":
        z = jnp.zeros_like(x[0])
    elif origin == "mean":
        z = mean_of(x, present)
    else:
        z = middle_of(listed_last(x, present), number(present))
        z = jnp.where(present.any(), z, 0)

    def step(_: Array, z: Array) -> Array:
        weights = jnp.where(present, 1 / jnp.maximum(nu, norms(x - z[None])), 0)
        total = weights.sum()
        return z + pull(x, weights, z) / jnp.where(total > 0, total, 1)

    return jax.lax.fori_loop(0, iterations, step, z)


def rfa(nu: float | Array = 1e-6, iterations: int | Array = 4, start: str = "mean") -> Rule:
    """Smoothed Weiszfeld: z <- sum(b_i x_i) / sum(b_i), b_i = 1 / max(nu, |z - x_i|).

    It tolerates f < n / 2; O(n d) per iteration, for a fixed number of iterations.

    Args:
        nu: the smallest distance that is divided by; 1e-6 in the paper, 0.1 in ByzFL and
            epfml.
        iterations: the number of iterations; 4 in its authors' code, 3 in ByzFL, 8 in epfml.
        start: the first z: "mean", as the authors; "zero", as ByzFL and epfml; or "median".

    Raises:
        InvalidConfig: if nu is not > 0, iterations is not an integer >= 1, or start is none
            of these.

    References:
        Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE
        Transactions on Signal Processing, 2022.
    """
    check_positive("rfa", "nu", nu)
    iterations = check_integer("rfa", "iterations", iterations, 1)
    known = ("mean", "zero", "median")
    require(start in known, f"rfa needs start of {', '.join(known)}: got {start!r}")

    def core(x: Array, mask: Array) -> Array:
        steps = jnp.asarray(iterations, jnp.int32)
        return _rfa(x, mask, jnp.asarray(nu, x.dtype), steps, origin=start)

    return without_options("rfa", core)


@jax.jit
def _centered_clipping(
    x: Array, mask: Array, start: Array, tau: Array, iterations: Array
) -> Array:
    x, present = cleaned(x, mask)
    n = jnp.maximum(number(present), 1).astype(x.dtype)

    def step(_: Array, v: Array) -> Array:
        weights = jnp.where(present, shorten(norms(x - v[None]), tau), 0)
        return v + pull(x, weights, v) / n

    v = jax.lax.fori_loop(0, iterations, step, start)
    return jnp.where(present.any(), v, 0)


def centered_clipping(tau: float | Array = 10.0, iterations: int | Array = 1) -> Rule:
    """v <- v + (1 / n) sum_i (x_i - v) min(1, tau / |x_i - v|), from v = `start`.

    n counts the rows present. `start` is the previous output, which the caller keeps; it is
    replaced by zeros where none is given or one of its numbers is not finite. One iteration
    moves v by at most tau. The rule tolerates f < n / 2 (the theory: about n / 10); O(n d)
    per iteration.

    Args:
        tau: the clipping radius; 10 in the paper, 10 / (1 - beta) with momentum beta; 100 in
            ByzFL, which keeps v in the object (its `m`).
        iterations: the number of iterations; 1 in the paper; L in ByzFL.

    Raises:
        InvalidConfig: if tau is not > 0, or iterations is not an integer >= 1.

    References:
        Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust
        Optimization", ICML 2021.
    """
    check_positive("centered_clipping", "tau", tau)
    iterations = check_integer("centered_clipping", "iterations", iterations, 1)

    def core(x: Array, mask: Array, start: Any, key: Key | None) -> Array:
        v = jnp.zeros_like(x[0]) if start is None else jnp.asarray(start, x.dtype)
        v = jnp.where(jnp.isfinite(v).all(), v, 0)  # otherwise it would never recover
        rule = f"centered_clipping needs a start of shape {x.shape[1:]}: got {v.shape}"
        require(v.shape == x.shape[1:], rule)
        steps = jnp.asarray(iterations, jnp.int32)
        return _centered_clipping(x, mask, v, jnp.asarray(tau, x.dtype), steps)

    return Rule("centered_clipping", core)
