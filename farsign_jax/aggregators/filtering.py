"""Iterative filtering, which lowers the weights of rows that widen the spread."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import cleaned, number, pull, square_distances
from farsign_jax.aggregators.rule import MAJORITY, Rule, without_options
from farsign_jax.base import Array
from farsign_jax.validation import check_integer, require

POWER_STEPS = 30  # of the power iteration that finds the direction of largest variance
ROUNDING = 1e-5  # of (y_i . v)^2 relative to the largest one


def _over(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is not positive."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def _spread(distances: Array, weights: Array) -> tuple[Array, Array]:
    """The direction in which weighted rows vary most.

    With D the squared distances, the rows y centered at their weighted mean have the products
    y_i . y_j = (K)_ij, K = -J D J^T / 2, J = I - 1 w^T / sum(w). The iteration z <- K (w z)
    is the power iteration of the covariance matrix, as z_i = y_i . v for its vector v, and no
    array has d columns. It starts from v = y_j, for the row of largest w_j |y_j|^2, whatever
    the order of the rows.

    Args:
        distances: f[n, n], the squared distances.
        weights: f[n], at least one of which is positive.

    Returns:
        (y_i . v)^2, f[n], as a share of its largest value over the rows with a weight, and the
        weighted variance along v, f[].
    """
    total = weights.sum()
    counted = weights > 0
    # Distances relative to the largest one neither overflow nor vanish when they are squared.
    distances = jnp.where(counted[:, None] & counted[None], distances, 0)
    scale = distances.max()
    distances = _over(distances, scale)

    def product(q: Array) -> Array:
        z = -jnp.matmul(distances, q, precision="highest") / 2
        return z - (weights * z).sum() / total

    def normed(z: Array) -> tuple[Array, Array]:
        size = jnp.where(counted, jnp.abs(z), 0).max()
        return _over(z, size), size

    apart = jnp.matmul(distances, weights, precision="highest") / total
    squares = apart - (weights * apart).sum() / (2 * total)  # of the norms |y_i|
    first = jnp.zeros_like(weights).at[jnp.argmax(weights * squares)].set(1)
    start = normed(product(first - weights / total))

    def step(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, z, _ = state
        return z, *normed(product(weights * z))

    before, z, size = jax.lax.fori_loop(0, POWER_STEPS, step, (start[0], *start))
    # z = K (w z') / size has y_i . v = size z_i / |u|, where |u|^2 = (w z')^T K (w z').
    length = (weights * before * z).sum()
    variance = scale * size * _over((weights * z**2).sum(), length * total)
    return jnp.where(counted, z**2, 0), variance


class Filter(NamedTuple):
    """The state of the filter."""

    weights: Array  # f[n]
    goes_on: Array  # bool[]


@jax.jit
def _iterative_filtering(x: Array, mask: Array, f: Array, threshold: Array) -> Array:
    x, present = cleaned(x, mask)
    distances = square_distances(x, present)
    least = (number(present) - 2 * MAJORITY.clamp(f, present)).astype(x.dtype)

    def step(state: Filter) -> Filter:
        shares, variance = _spread(distances, state.weights)
        # Rows that are equal up to rounding lose their weight together: what rounding leaves of
        # a far row would hide the others in the next step.
        shares = jnp.where(shares > 1 - ROUNDING, 1, shares)
        taken = (state.weights * shares).sum()
        most = state.weights.sum() - least
        part = jnp.minimum(_over(most, taken), 1)
        varies = variance > threshold
        weights = jnp.where(varies, state.weights * (1 - part * shares), state.weights)
        return Filter(weights, varies & (taken < most))

    start = Filter(present.astype(x.dtype), present.any())
    weights = jax.lax.while_loop(lambda state: state.goes_on, step, start).weights
    center = x[jnp.argmax(weights)]
    return center + _over(pull(x, weights, center), weights.sum())


def iterative_filtering(f: int | Array, threshold: float | Array = 0.0) -> Rule:
    """The mean of the rows with weights that are lowered until no direction varies much.

    All rows begin with c_i = 1. Each step computes the weighted mean, the unit vector v in
    which the weighted covariance is largest, and the squared deviations along it,

        tau_i = (v . (x_i - mean))^2,    c_i <- c_i (1 - tau_i / max_j tau_j).

    The result is the weighted mean once the variance along v is at most `threshold`, or the
    total weight is n - 2f; the last step takes only a part of what it would, so that the weight
    is not less. Every other step takes all weight from a row, so that there are at most n. The
    rule needs n > 2f; O(n^2 d), and O(n^2) per iteration of the power method, which takes 30
    for each step, from the row with the largest c_i |x_i - mean|^2. It would miss v if that row
    were exactly orthogonal to it, which the deviations of honest rows make improbable only.

    The published algorithms know a bound on the covariance of honest rows and stop by
    `threshold` alone. The limit on what is removed is derived here, and makes the rule usable
    without that bound, with threshold=0. While Byzantine rows contribute at least half of the
    variance along v, a step takes at least half of what it removes from them, and together
    those steps remove at most 2f. So where more would be removed, honest rows dominate the
    variance at that step or an earlier one, and it does not grow afterwards, except by the
    normalisation with the total weight. If f / n is small, the result is then within the order
    of sqrt(f / n) times the largest standard deviation of honest rows in any direction,
    however large d is. f close to n / 2 is accepted, but nothing is promised there.

    Neither limit is moved by Byzantine values. With f = 0 the result is the mean.

    Args:
        f: the number of Byzantine rows to tolerate.
        threshold: the variance along v, in squared units of x, at which the filter stops. The
            variance of honest rows, or a small multiple, keeps the weights of honest rows.

    Raises:
        InvalidConfig: if f is not an integer >= 0, or threshold is negative.

    References:
        Steinhardt, Charikar and Valiant, "Resilience: A Criterion for Learning in the Presence
        of Arbitrary Outliers", ITCS 2018; Diakonikolas et al., "Being Robust (in High
        Dimensions) Can Be Practical", ICML 2017. For gradients: Su and Xu, "Securing
        Distributed Gradient Descent in High Dimensional Statistical Learning", 2018; Data and
        Diggavi, "Byzantine-Resilient SGD in High Dimensions on Heterogeneous Data", ISIT 2021.
        Su and Xu also drop rows whose weight falls below 1 / 2 and find v by a saddle point
        problem; here the weights stay, as in the later papers.
    """
    name = "iterative_filtering"
    f = check_integer(name, "f", f, 0)
    require(threshold >= 0, f"{name} needs threshold >= 0: got {threshold!r}")

    def core(x: Array, mask: Array, f: Array) -> Array:
        return _iterative_filtering(x, mask, f, jnp.asarray(threshold, x.dtype))

    return without_options(name, core, MAJORITY, f)
