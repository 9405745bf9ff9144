"""Servers that also keep a sum over their updates, such as that of a gradient norm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Diagnostics, Key, Query, Report, Server


class Summed(NamedTuple):
    """The state of a server, and a sum over its updates so far."""

    params: Array  # f[d]
    step: Array  # i32[]
    server: Any
    total: Array  # f[...]


def summed(
    server: Server, term: Callable[[Any, Any], Array], shape: tuple[int, ...] = ()
) -> Server:
    """Wraps a server to keep a sum over its updates; x is unchanged.

    Args:
        server: any server.
        term: `(state before, state after) -> f[...]`, what an update adds.
        shape: of what it adds.

    Returns:
        A `Server` whose state is `Summed`.
    """

    def wrap(state: Any, total: Array) -> Summed:
        return Summed(state.params, state.step, state, total)

    def init(params: Array, key: Key | None = None) -> Summed:
        return wrap(server.init(params, key), jnp.zeros(shape, params.dtype))

    def query(state: Summed, worker: Array, key: Key) -> Query:
        return server.query(state.server, worker, key)

    def update(state: Summed, reports: Report) -> tuple[Summed, Diagnostics]:
        after, info = server.update(state.server, reports)
        return wrap(after, state.total + term(state.server, after)), info

    return server._replace(init=init, query=query, update=update)
