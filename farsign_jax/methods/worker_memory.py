"""Workers that keep d numbers between answers, such as a momentum or an error to send later."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from farsign_jax.base import Array, Key, PyTree, Query, Shard, Worker
from farsign_jax.validation import check_integer, require, sanitize

Remember = Callable[[Array, Array, Query], tuple[Array, Array]]


def with_memory(
    method: str, worker: Worker, dim: int, dtype: Any, remember: Remember
) -> Worker:
    """Returns a worker that answers with its gradient and what it remembers.

    Args:
        method: the name for error messages.
        worker: a worker that answers with whole gradients f32[d].
        dim: d.
        dtype: the type of the memory, that of the gradients.
        remember: `(memory, gradient, query) -> (memory, answer)`, each f32[d]; the memory is
            zero at first. The gradient is sanitised: one that overflows would stay for ever.

    Returns:
        A `Worker` whose state is that of `worker` and the memory.

    Raises:
        InvalidConfig: if d < 1, the worker encodes what it sends, or (when it is asked) it does
            not answer with f32[d].
    """
    d = check_integer(method, "dim", dim, 1)
    rule = f"{method} needs a worker that sends the gradient it measures: this one encodes"
    require(worker.encode is None, rule)

    def init(shard: Shard) -> PyTree:
        return worker.init(shard), jnp.zeros((d,), dtype)

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        inner, memory = state
        inner, gradient = worker.respond(inner, query, shard, key)
        shape = list(gradient.shape)
        require(shape == [d], f"{method} needs gradients f32[{d}]: got {shape}")
        memory, answer = remember(memory, sanitize(gradient), query)
        return (inner, memory), answer

    return worker._replace(init=init, respond=respond)
