"""First-order answers: directional derivatives and gradients on a mini-batch.

Y_j = a_j . grad F(x; xi)                                                        eq. (7)
"""

import jax
import jax.numpy as jnp

from farsign_jax.base import Worker
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.oracles.zeroth_order import Losses, check_question
from farsign_jax.validation import require


def directional_derivative(
    losses: Losses, dictionary: Dictionary, *, batch_size: int, mode: str = "jvp"
) -> Worker:
    """A worker that answers with derivatives along k directions.

    Args:
        losses: per-example losses `(x f32[d], batch) -> f32[b]`.
        dictionary: the directions, those of the server.
        batch_size: b, the number of examples in a mini-batch, drawn with replacement from the
            shard.
        mode: "jvp", k forward-mode derivatives; "grad", one gradient and its projections, which
            is cheaper for more than a few directions. Both give the same numbers up to
            rounding.

    Raises:
        InvalidConfig: if batch_size < 1, or the mode is unknown.
    """
    require(batch_size >= 1, f"need batch_size >= 1: got {batch_size}")
    require(mode in ("jvp", "grad"), f"mode is 'jvp' or 'grad': got {mode!r}")

    def respond(state, query, shard, key):
        check_question(query, dictionary.per_query)
        batch = shard.batch(key, batch_size)
        x, i = query.params, query.worker

        def mean_loss(x):
            return losses(x, batch).mean()

        def along(j):
            one = jnp.ones((1,), x.dtype)
            tangent = dictionary.move(jnp.zeros_like(x), i, j[None], one)
            return jax.jvp(mean_loss, (x,), (tangent,))[1]

        with jax.default_matmul_precision("highest"):
            if mode == "grad":
                value = dictionary.project(jax.grad(mean_loss)(x), i, query.direction)
            else:
                value = jax.lax.map(along, query.direction).astype(x.dtype)
        return state, value

    evaluations = dictionary.per_query if mode == "jvp" else 1
    return Worker(lambda shard: (), respond, evaluations, batch_size)


def stochastic_gradient(losses: Losses, *, batch_size: int) -> Worker:
    """A worker that answers with the gradient of the mean loss on a mini-batch, f32[d].

    Args:
        losses: per-example losses `(x f32[d], batch) -> f32[b]`.
        batch_size: b, the number of examples in a mini-batch, drawn with replacement from the
            shard.

    Raises:
        InvalidConfig: if batch_size < 1.
    """
    require(batch_size >= 1, f"need batch_size >= 1: got {batch_size}")

    def respond(state, query, shard, key):
        batch = shard.batch(key, batch_size)
        gradient = jax.grad(lambda x: losses(x, batch).mean())(query.params)
        return state, gradient

    return Worker(lambda shard: (), respond, 1, batch_size)
