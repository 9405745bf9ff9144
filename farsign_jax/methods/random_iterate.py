"""A random iterate, kept on line, for methods whose theorems are about one.

Of a nonconvex function some iterate has a small gradient, but which one is not known. The
theorems therefore bound the expected gradient norm at x_R, where R = k with probability
W_k / sum_j W_j. It is drawn on line: x_k replaces the iterate kept so far with probability
W_k / sum_{j <= k} W_j.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Key, Query, Report, Server
from farsign_jax.methods.sgd import SGDState
from farsign_jax.methods.typed import key_of


class RandomIterateState(NamedTuple):
    """The state for d parameters; the first five fields are those of `sgd.SGDState`."""

    params: Array  # f32[d], x_k
    aggregate: Array  # f32[d], the last one
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far with at least one answer, k
    seed: Array  # u32[2], the seed of what is drawn
    chosen: Array  # f32[d], x_R
    chosen_at: Array  # i32[], R, -1 before the first round
    weight: Array  # f32[], log W_{k-1}
    total: Array  # f32[], log sum_{j < k} W_j

    @property
    def rounds(self) -> SGDState:
        """The part of the state that is that of `sgd`."""
        return SGDState(self.params, self.aggregate, self.num_answers, self.step, self.seed)


def random_iterate(server: Server, log_weight: Callable[[Array, Array], Array]) -> Server:
    """Returns a server that works as `sgd` does, and also keeps a random iterate.

    Args:
        server: one that `sgd` has made, whatever it asks.
        log_weight: `(log W_{k-1} f32[], k i32[]) -> log W_k f32[]`, with 0 for the first
            argument in round 0. A round whose weight is 0, with logarithm -inf, is never drawn.

    Returns:
        A `Server` whose state is a `RandomIterateState`.
    """

    def init(params: Array, key: Key | None = None) -> RandomIterateState:
        zero = jnp.zeros((), jnp.float32)
        rounds = server.init(params, key)
        return RandomIterateState(
            **rounds._asdict(),
            chosen=jnp.copy(params),
            chosen_at=jnp.full((), -1, jnp.int32),
            weight=zero,
            total=-jnp.inf + zero,
        )

    def query(state: RandomIterateState, worker: Array, key: Key) -> Query:
        return server.query(state.rounds, worker, key)

    def update(
        state: RandomIterateState, reports: Report
    ) -> tuple[RandomIterateState, dict[str, Array]]:
        k = state.step
        weight = log_weight(state.weight, k)
        total = jnp.logaddexp(state.total, weight)
        key = key_of(state.seed)
        coin_key = jax.random.fold_in(jax.random.fold_in(key, 1), k)
        coin = jax.random.uniform(coin_key, dtype=jnp.float32)
        after, info = server.update(state.rounds, reports)
        not_empty = after.step > k
        keep = not_empty & (jnp.log(coin) < weight - total)
        return RandomIterateState(
            **after._asdict(),
            chosen=jnp.where(keep, state.params, state.chosen),
            chosen_at=jnp.where(keep, k, state.chosen_at),
            weight=jnp.where(not_empty, weight, state.weight),
            total=jnp.where(not_empty, total, state.total),
        ), info

    return server._replace(init=init, query=query, update=update)
