"""Attacks that lie as far as a distance to honest answers lets them, in O(m^2 k) per message.

The lie is mean + gamma * p along a direction p, with the largest gamma for which it is no
farther from honest answers than these are from each other. The paper finds gamma by bisection;
here it is solved for.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable

import jax.numpy as jnp

from farsign_jax.attacks.honest import deviations, statistics
from farsign_jax.attacks.stateless import stateless
from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import lookup

# From the mean and the standard deviation of the honest answers to a direction.
DIRECTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "std": lambda mean, std: -std,
    "sign": lambda mean, std: -jnp.sign(mean),
    "mean": lambda mean, std: -mean,
}


def min_max(direction: str = "std") -> Attack:
    """As far along a direction as the largest distance between two honest answers allows.

    gamma is the largest number with max_i |mean + gamma p - u_i| <= max_ij |u_i - u_j|, over
    the honest answers u.

    Args:
        direction: p: "std", minus the standard deviation of the honest answers; "sign", minus
            the sign of their mean; "mean", minus their mean.

    Raises:
        InvalidConfig: if there is no such direction.

    References:
        Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning
        Attacks and Defenses for Federated Learning", NDSS 2021, eq. (7).
    """

    def gamma(p: Array, around: Array) -> Array:
        products = jnp.matmul(around, around.T, precision="highest")
        squares = jnp.diagonal(products)
        between = jnp.max(squares[:, None] + squares[None] - 2 * products)
        along = jnp.matmul(around, p, precision="highest")
        room = jnp.maximum(between - squares, 0)
        return jnp.min(along + jnp.sqrt(along**2 + room))

    return _along(direction, gamma)


def min_sum(direction: str = "std") -> Attack:
    """As far along a direction as the largest sum of squares of such distances allows.

    gamma is the largest number with sum_i |mean + gamma p - u_i|^2 <= max_i sum_j |u_i - u_j|^2
    over the honest answers u. As their differences from the mean add up to 0, the lie is as far
    from the mean as the farthest honest answer.

    Args:
        direction: p, as of `min_max`.

    Raises:
        InvalidConfig: if there is no such direction.

    References:
        Shejwalkar and Houmansadr, NDSS 2021, eq. (8).
    """

    def gamma(p: Array, around: Array) -> Array:
        return jnp.sqrt(jnp.max(jnp.sum(around**2, axis=1)))

    return _along(direction, gamma)


def _along(direction: str, gamma: Callable[[Array, Array], Array]) -> Attack:
    """The attack that sends mean + gamma(p, u - mean) * p with |p| = 1."""
    direction_of = lookup("direction", direction, DIRECTIONS)

    def forge(report: Report, view: View, key: Key) -> Array:
        _, std = statistics(report, view)
        mean, around = deviations(report, view)
        p = unit(direction_of(mean, std))
        # Of differences of at most 1, no square over- or underflows.
        scale = jnp.abs(around).max(initial=jnp.finfo(around.dtype).tiny)
        return mean + scale * gamma(p, around / scale) * p

    return stateless(forge, omniscient=True)


def unit(vector: Array) -> Array:
    """A vector divided by its length; 0 if it is 0."""
    # Not the smallest number: XLA multiplies two divisors, and their product would be 0.
    largest = jnp.abs(vector).max(initial=0)
    vector = vector / jnp.where(largest > 0, largest, 1)
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1)
