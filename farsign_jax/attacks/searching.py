"""Attacks that try several lies on the aggregator in use and send the one that does most harm.

Harm is measured by the inner product of what is aggregated with the mean of the honest answers:
where it is negative, the server moves uphill. The honest answers are what workers last
reported, and the Byzantine workers send the same message. A method that takes an aggregator
tells it to the attack; others have "mean", or what the option says.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable

import jax
import jax.numpy as jnp

from farsign_jax import aggregators
from farsign_jax.attacks.distances import DIRECTIONS, unit
from farsign_jax.attacks.honest import deviations, statistics
from farsign_jax.attacks.stateless import stateless
from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import check_integer

Candidates = Callable[[Report, View], Array]  # f[c, k]


def fall_of_empires(aggregator: str = "mean", candidates: int = 9) -> Attack:
    """Sends -epsilon * mean with the epsilon that harms the aggregate most.

    Args:
        aggregator: the aggregator in use.
        candidates: how many values of epsilon are tried, from 1/16 to 16 in a geometric
            sequence.

    Raises:
        InvalidConfig: if there is no such aggregator, or fewer than two candidates.

    References:
        Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019, where epsilon is given.
    """
    count = check_integer("fall_of_empires", "candidates", candidates, 2)
    factors = [2.0 ** (8 * i / (count - 1) - 4) for i in range(count)]

    def tried(report: Report, view: View) -> Array:
        mean, _ = statistics(report, view)
        return -jnp.asarray(factors, mean.dtype)[:, None] * mean[None]

    return _most_harmful(aggregator, tried)


def inner_max(aggregator: str = "mean", candidates: int = 4) -> Attack:
    """Sends the lie inside the ball of the honest answers that harms the aggregate most.

    The ball is around their mean and contains all of them. Along each of the directions of
    `min_max`, lies at several distances from the centre are tried, the farthest on the border.

    Args:
        aggregator: the aggregator in use.
        candidates: how many distances are tried along each direction, each half of the next.

    Raises:
        InvalidConfig: if there is no such aggregator, or no candidate.
    """
    count = check_integer("inner_max", "candidates", candidates, 1)
    factors = [0.5**i for i in range(count)]

    def tried(report: Report, view: View) -> Array:
        _, std = statistics(report, view)
        mean, around = deviations(report, view)
        scale = jnp.abs(around).max(initial=jnp.finfo(around.dtype).tiny)
        radius = scale * jnp.sqrt(jnp.max(jnp.sum((around / scale) ** 2, axis=1)))
        units = jnp.stack([unit(of(mean, std)) for of in DIRECTIONS.values()])
        steps = jnp.asarray(factors, mean.dtype)[:, None, None] * units[None]
        return mean[None] + radius * steps.reshape(count * len(DIRECTIONS), mean.shape[-1])

    return _most_harmful(aggregator, tried)


def _most_harmful(aggregator: str, candidates: Candidates) -> Attack:
    """The attack that sends the candidate with the smallest <aggregate, mean>."""
    rule = aggregators.make(aggregator)

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, around = deviations(report, view)
        lies = candidates(report, view)

        def harm(lie: Array) -> Array:
            rows = jnp.where(view.byzantine[:, None], lie[None], mean[None] + around)
            found = rule(rows, key=key)
            length = jnp.maximum(jnp.abs(found).max(initial=0), jnp.finfo(found.dtype).tiny)
            return length * jnp.sum(found / length * unit(mean))

        return lies[jnp.argmin(jax.lax.map(harm, lies))]

    return stateless(forge, omniscient=True)
