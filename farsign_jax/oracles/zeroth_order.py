"""Two-point finite differences of any loss along any directions.

    Y_j = [F(x + delta a_j; xi+) - F(x - delta a_j; xi-)] / (2 delta)               eq. (8)

F(.; xi) is the mean loss on a mini-batch. Coupled answers use one mini-batch (and one noise)
for both points, CN in the paper; otherwise each point has its own, DN.

Forward differences, [F(x + delta a_j; xi+) - F(x; xi-)] / delta, share the evaluation at x: k
answers cost k + 1 evaluations instead of 2 k. Their bias is delta/2 times the curvature along
a_j, while that of eq. (8) is of the order of delta^2; both vanish with delta.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key, PyTree, Query, Schedule, Worker
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.oracles.precision import check_precision
from farsign_jax.step_sizes import as_schedule
from farsign_jax.validation import lookup, require

SCHEMES = ("central", "forward")

Losses = Callable[[Array, PyTree], Array]  # (x f32[d], batch) -> per-example losses f32[b]


def check(batch_size: int, delta: float | Schedule, scheme: str = "central") -> None:
    """Raises `InvalidConfig` on an invalid batch size, perturbation or scheme."""
    lookup("scheme", scheme, dict.fromkeys(SCHEMES))
    require(batch_size >= 1, f"need batch_size >= 1: got {batch_size}")
    if not callable(delta):
        rule = f"need a finite perturbation delta > 0: got {delta}"
        require((delta > 0) & (delta < float("inf")), rule)


def check_question(query: Query, k: int) -> None:
    """Raises `InvalidConfig` unless the server asks about k directions."""
    asked = np.shape(query.direction)
    what = "the whole gradient" if asked == (0,) else asked
    rule = f"this worker answers about k={k} directions: the server asks about {what}"
    require(asked == (k,), rule)


def evaluations(k: int, scheme: str) -> int:
    """Returns the number of evaluations of the loss for k directions."""
    return 2 * k if scheme == "central" else k + 1


def evaluation_noise(
    key: Key, k: int, std: float, coupled: bool, dtype: Any, scheme: str = "central"
) -> Array | float:
    """Returns xi+ - xi-, the additive noise of both evaluations, f[k]; 0 if coupled."""
    if coupled or not std:
        return 0.0
    plus, minus = jnp.asarray(std, dtype) * jax.random.normal(key, (2, k), dtype)
    return plus - (minus if scheme == "central" else minus[:1])


def two_point(
    losses: Losses,
    dictionary: Dictionary,
    *,
    batch_size: int,
    delta: float | Schedule = 1e-3,
    coupled: bool = True,
    noise_std: float = 0.0,
    scheme: str = "central",
) -> Worker:
    """A worker that evaluates the loss 2k times, for any model and dictionary.

    Args:
        losses: per-example losses `(x f32[d], batch) -> f32[b]`.
        dictionary: the directions, those of the server.
        batch_size: b, the number of examples in a mini-batch, drawn with replacement from the
            shard.
        delta: the perturbation: a number, a tracer or a schedule of the server step at which
            the worker was asked.
        coupled: whether both points share one mini-batch and one noise, or have independent
            ones.
        noise_std: the standard deviation of further noise on each evaluation, which cancels if
            the points are coupled.
        scheme: "central", or "forward" for k + 1 evaluations.

    Returns:
        A `Worker` that answers with f32[k]. In float32 an answer has an error of about
        eps * loss / delta: per-example losses are subtracted before they are averaged, which is
        all that a black box allows.

    Raises:
        InvalidConfig: if batch_size < 1, delta <= 0, or the scheme is unknown; when it is
            asked, if the losses are computed in half precision (`check_precision`).
    """
    check(batch_size, delta, scheme)
    delta = as_schedule(delta)

    def respond(state, query, shard, key):
        check_question(query, dictionary.per_query)
        plus_key, minus_key, noise_key = jax.random.split(key, 3)
        plus = shard.batch(plus_key, batch_size)
        check_precision(losses, query.params, plus)
        minus = plus if coupled else shard.batch(minus_key, batch_size)
        radius = jnp.asarray(delta(query.version), query.params.dtype)

        def at(j, amount):
            return dictionary.move(query.params, query.worker, j[None], amount[None])

        def difference(j):
            above, below = losses(at(j, radius), plus), here
            if scheme == "central":
                below = losses(at(j, -radius), minus)
            return jnp.mean(above - below) if coupled else above.mean() - below.mean()

        here: Any = ()
        with jax.default_matmul_precision("highest"):  # TF32 flips signs
            if scheme == "forward":
                here = losses(query.params, minus)
            differences = jax.lax.map(difference, query.direction).astype(radius.dtype)
        k = dictionary.per_query
        noise = evaluation_noise(noise_key, k, noise_std, coupled, radius.dtype, scheme)
        apart = 2 * radius if scheme == "central" else radius
        return state, (differences + noise) / apart

    cost = evaluations(dictionary.per_query, scheme)
    return Worker(lambda shard: (), respond, cost, batch_size)
