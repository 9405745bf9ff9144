"""Two-point finite differences of any loss along any directions.

    Y_j = [F(x + delta a_j; xi+) - F(x - delta a_j; xi-)] / (2 delta)               eq. (8)

F(.; xi) is the mean loss on a mini-batch. Coupled answers use one mini-batch (and one noise)
for both points, the paper's CN; otherwise each point has its own, DN.

Forward differences, [F(x + delta a_j; xi+) - F(x; xi-)] / delta, share the evaluation at x: k
answers cost k + 1 evaluations instead of 2 k. Their bias is delta/2 times the curvature along
a_j where that of eq. (8) is of the order of delta^2; both vanish with delta.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key, Query, Schedule, Worker
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.step_sizes import as_schedule
from farsign_jax.validation import lookup, require

SCHEMES = ("central", "forward")


def check(batch_size: int, delta: float | Schedule, scheme: str = "central") -> None:
    """Raises `InvalidConfig` on a batch or a perturbation that no two-point oracle can use."""
    lookup("scheme", scheme, dict.fromkeys(SCHEMES))
    require(batch_size >= 1, f"need batch_size >= 1: got {batch_size}")
    if not callable(delta):
        rule = f"need a finite perturbation delta > 0: got {delta}"
        require((delta > 0) & (delta < float("inf")), rule)


def check_question(query: Query, k: int) -> None:
    """Raises `InvalidConfig` where the server asks something else than k directions."""
    asked = np.shape(query.direction)
    what = "the whole gradient" if asked == (0,) else asked
    rule = f"this worker answers about k={k} directions: the server asks about {what}"
    require(asked == (k,), rule)


def evaluations(k: int, scheme: str) -> int:
    """Of the loss, for k answers."""
    return 2 * k if scheme == "central" else k + 1


def evaluation_noise(
    key: Key, k: int, std: float, coupled: bool, scheme: str = "central"
) -> Array | float:
    """xi+ - xi-, the additive noise of both evaluations, f32[k]: nothing where coupled."""
    if coupled or not std:
        return 0.0
    plus, minus = std * jax.random.normal(key, (2, k))
    return plus - (minus if scheme == "central" else minus[:1])


def two_point(
    losses,
    dictionary: Dictionary,
    *,
    batch_size: int,
    delta: float | Schedule = 1e-3,
    coupled: bool = True,
    noise_std: float = 0.0,
    scheme: str = "central",
) -> Worker:
    """The generic oracle: 2k evaluations of the loss, for any model and dictionary.

    Args:
        losses: per-example losses `(x f32[d], batch) -> f32[b]`.
        dictionary: the directions, the server's own.
        batch_size: b, examples per mini-batch, drawn with replacement from the shard.
        delta: perturbation: number, tracer or schedule of the step at which it was asked.
        coupled: one mini-batch and one noise for both points, or independent ones.
        noise_std: standard deviation of further noise on each evaluation (cancels if coupled).
        scheme: "central", or "forward" for k + 1 evaluations.

    In float32 the answer carries an error of about eps * loss / delta: per-example losses
    are subtracted before they are averaged, which is all a black box allows.

    Raises:
        InvalidConfig: on batch_size < 1, delta <= 0 or an unknown scheme.
    """
    check(batch_size, delta, scheme)
    delta = as_schedule(delta)

    def respond(state, query, shard, key):
        check_question(query, dictionary.per_query)
        plus_key, minus_key, noise_key = jax.random.split(key, 3)
        plus = shard.batch(plus_key, batch_size)
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
            differences = jax.lax.map(difference, query.direction)
        k = dictionary.per_query
        noise = evaluation_noise(noise_key, k, noise_std, coupled, scheme)
        return state, (differences + noise) / (2 * radius if scheme == "central" else radius)

    cost = evaluations(dictionary.per_query, scheme)
    return Worker(lambda shard: (), respond, cost, batch_size)
