"""Momentum at the workers: each sends a moving average of its gradients.

    v_i <- (1 - b) * g_i + b * v_i;   sends v_i                             v_i = 0 at first

The variance of what honest workers send falls by the factor (1 - b) / (1 + b), so that an
attack that hides within it, such as ALIE, can move an aggregate less; in return, each answer
is about earlier iterates too. The server needs no change.

References:
    Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
    2021, Algorithm 2.
"""

from typing import Any

import jax.numpy as jnp

from farsign_jax.base import Array, Key, PyTree, Query, Shard, Worker
from farsign_jax.validation import check_integer, require, sanitize


def worker_momentum(
    worker: Worker,
    dim: int,
    momentum: float | Array = 0.9,
    dtype: Any = jnp.float32,
    method: str = "worker_momentum",
) -> Worker:
    """The honest worker that sends a moving average of the gradients of another worker.

    Args:
        worker: a worker that answers with whole gradients f32[d], such as
            `oracles.stochastic_gradient`.
        dim: d.
        momentum: b, a number or a tracer; with 0 the gradients are sent.
        dtype: the type of the average, that of the gradients.
        method: the name for error messages.

    Returns:
        A `Worker` whose state is that of `worker` and v f32[d], and whose answer is v.

    Raises:
        InvalidConfig: if the momentum is outside [0, 1), the worker encodes what it sends, or
            (when it is asked) it does not answer with f32[d].
    """
    d = check_integer(method, "dim", dim, 1)
    rule = f"{method} needs 0 <= momentum < 1: got {momentum}"
    require((momentum >= 0) & (momentum < 1), rule)
    rule = f"{method} needs a worker that sends the gradient it measures: this one encodes"
    require(worker.encode is None, rule)

    def init(shard: Shard) -> PyTree:
        return worker.init(shard), jnp.zeros((d,), dtype)

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        inner, v = state
        inner, gradient = worker.respond(inner, query, shard, key)
        shape = list(gradient.shape)
        require(shape == [d], f"{method} needs gradients f32[{d}]: got {shape}")
        b = jnp.asarray(momentum, v.dtype)
        # Sanitised: one gradient that overflows would stay in v for ever.
        v = (1 - b) * sanitize(gradient) + b * v
        return (inner, v), v

    return worker._replace(init=init, respond=respond)
