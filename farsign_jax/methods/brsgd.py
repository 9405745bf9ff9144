"""Byzantine-resilient SGD with a random iterate.

In round k the workers' stochastic gradients at w_k are aggregated,

    w_{k+1} = w_k - alpha_k Agg(g_1, ..., g_m)

and alpha_k decreases. Some iterate has a small gradient; which one is not known, so one is
drawn: R_K = k with probability W_k / sum_{j < K} W_j, where W_{-1} = 1, alpha_{-1} = alpha_0,

    W_k = W_{k-1} alpha_k / (alpha_{k-1} (1 + L A' alpha_k^2))

Its expected gradient is bounded as the smallest one is (Section 3.1). Drawn on line: w_k takes
the place of the iterate kept so far with probability W_k / sum_{j <= k} W_j.

References:
    "A simplified convergence analysis of Byzantine Resilient SGD for nonconvex objectives",
    Algorithm 1, Lemma 3.5 and eq. (3.46); the framework: Blanchard et al., NeurIPS 2017.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Schedule, Server
from farsign_jax.methods.sgd import SGDState, sgd
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require


class BRSGDState(NamedTuple):
    """d parameters; the first five are those of `sgd.SGDState`."""

    params: Array  # f32[d], w_k
    aggregate: Array  # f32[d], the last one
    heard: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far in which somebody answered, k
    seed: Array  # u32[2], of what is drawn
    chosen: Array  # f32[d], w_R
    chosen_at: Array  # i32[], R, -1 before the first round
    weight: Array  # f32[], log W_{k-1}
    total: Array  # f32[], log sum_{j < k} W_j

    @property
    def rounds(self) -> SGDState:
        return SGDState(self.params, self.aggregate, self.heard, self.step, self.seed)


def brsgd(
    num_workers: int,
    aggregator: Callable[..., Array],
    *,
    step_size: float | Array | Schedule,
    growth: float | Array = 0.0,
) -> Server:
    """SGD in rounds along a robust aggregate, which also keeps a random iterate.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`, as in `sgd`.
        step_size: alpha, number, tracer or schedule of the *rounds*, not increasing.
        growth: L A' >= 0 of the weights: smoothness times the constant A of expected
            smoothness (3.2), E|G|^2 <= 2 A (F - F_low) + B |grad F|^2 + C, times that of (2.6);
            0 where noise does not grow with F. May be traced.

    Returns:
        A `Server` for m workers; `params` is w_k, the random iterate is `state.chosen`.

    Raises:
        InvalidConfig: on a step size that is not positive or growth < 0.
    """
    alpha = check_step_size("brsgd", step_size)
    require(growth >= 0, f"brsgd needs growth >= 0: got {growth}")
    m = num_workers
    server = sgd(m, aggregator, step_size=alpha)

    def init(params, key=None):
        zero = jnp.zeros((), jnp.float32)
        rounds = server.init(params, key)
        # W_{-1} = 1; nothing is kept yet.
        return BRSGDState(
            **rounds._asdict(),
            chosen=jnp.copy(params),
            chosen_at=jnp.full((), -1, jnp.int32),
            weight=zero,
            total=-jnp.inf + zero,
        )

    def query(state, worker, key):
        return server.query(state.rounds, worker, key)

    def update(state, reports):
        k = state.step
        now = jnp.asarray(alpha(k), jnp.float32)
        before = jnp.asarray(alpha(jnp.maximum(k - 1, 0)), jnp.float32)
        shrink = jnp.asarray(jnp.log1p(growth * now**2), jnp.float32)
        weight = state.weight + jnp.log(now / before) - shrink
        total = jnp.logaddexp(state.total, weight)
        key = jax.random.wrap_key_data(state.seed, impl="threefry2x32")
        coin = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, 1), k))
        # `sgd` has steps by answers, this method by rounds.
        after, info = server.update(state.rounds._replace(heard=k), reports)
        after = after._replace(heard=state.heard + after.heard - k)
        anyone = after.step > k
        keep = anyone & (jnp.log(coin) < weight - total)
        return BRSGDState(
            **after._asdict(),
            chosen=jnp.where(keep, state.params, state.chosen),
            chosen_at=jnp.where(keep, k, state.chosen_at),
            weight=jnp.where(anyone, weight, state.weight),
            total=jnp.where(anyone, total, state.total),
        ), info

    return Server(init, query, update, m, scheduled=server.scheduled)
