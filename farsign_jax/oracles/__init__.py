"""Honest workers: how a question is answered.

`zeroth_order` chooses the fastest two-point oracle for the problem and the directions.
"""

from typing import Any

from farsign_jax.base import Problem, Schedule, Worker
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.oracles.coordinate_mlp import Changes, coordinate_two_point
from farsign_jax.oracles.first_order import directional_derivative, stochastic_gradient
from farsign_jax.oracles.random_two_point import random_two_point
from farsign_jax.oracles.saga import saga_gradient
from farsign_jax.oracles.zeroth_order import two_point

__all__ = [
    "Changes",
    "coordinate_two_point",
    "directional_derivative",
    "random_two_point",
    "saga_gradient",
    "stochastic_gradient",
    "two_point",
    "zeroth_order",
]


def zeroth_order(
    problem: Problem,
    dictionary: Dictionary,
    *,
    batch_size: int,
    delta: float | Schedule = 1e-3,
    coupled: bool = True,
    noise_std: float = 0.0,
    scheme: str = "central",
) -> Worker:
    """Returns the fastest worker that answers with two-point differences.

    This is `coordinate_two_point` for coordinates of an MLP or of a subspace, and `two_point`
    otherwise.

    Args:
        problem: what is minimised.
        dictionary: the directions, those of the server.
        batch_size: b, the number of examples in a mini-batch.
        delta: the perturbation; this and the other arguments are those of `two_point`.
        coupled: whether both points share one mini-batch.
        noise_std: the standard deviation of further noise on each evaluation.
        scheme: "central" or "forward".
    """
    options: Any = {"batch_size": batch_size, "delta": delta, "coupled": coupled}
    options |= {"noise_std": noise_std, "scheme": scheme}
    if problem.structure is not None and dictionary.coordinates:
        return coordinate_two_point(problem.structure, **options, k=dictionary.per_query)
    if problem.loss_changes is not None and dictionary.coordinates:
        own = Changes(problem.losses, problem.loss_changes)
        return coordinate_two_point(own, **options, k=dictionary.per_query)
    return two_point(problem.losses, dictionary, **options)
