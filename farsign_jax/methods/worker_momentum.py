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

from farsign_jax.base import Array, Query, Worker
from farsign_jax.methods.worker_memory import with_memory
from farsign_jax.validation import require


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
    rule = f"{method} needs 0 <= momentum < 1: got {momentum}"
    require((momentum >= 0) & (momentum < 1), rule)

    def remember(v: Array, gradient: Array, query: Query) -> tuple[Array, Array]:
        del query
        b = jnp.asarray(momentum, v.dtype)
        v = (1 - b) * gradient + b * v
        return v, v

    return with_memory(method, worker, dim, dtype, remember)
