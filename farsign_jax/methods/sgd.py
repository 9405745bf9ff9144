"""Synchronous SGD with a robust aggregate.

In every round the workers of a set S are asked at the same x and the server waits for their
stochastic gradients g_i:

    x <- x - eta_n * Aggr({g_i : i in S})

or, where workers minimise a sum and the server has a regulariser f_0 of its own,

    x <- x - eta_n * (scale * Aggr({g_i : i in S}) + grad f_0(x))

One round is one event. S may be everybody, a sample, or nobody: then nothing happens. A
synchronous method waits for the slowest of S; what is gained is that all answers are
comparable, and that q liars among |S| are all that the rule has to tolerate.

References:
    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018, Algorithm 1 (median, trimmed mean); Blanchard et al., "Machine Learning with
    Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017 (Krum).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import number
from farsign_jax.base import Array, Query, Schedule, Server
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


class SGDState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x
    aggregate: Array  # f32[d], the last one, for rules that start from it
    heard: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far in which somebody answered
    seed: Array  # u32[2], of what rules draw


def sgd(
    num_workers: int,
    aggregator: Callable[..., Array],
    *,
    step_size: float | Array | Schedule,
    scale: float | Array = 1.0,
    weight_decay: float | Array = 0.0,
) -> Server:
    """Synchronous SGD along a robust aggregate of the answers of each round.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`. It sees s rows, as many as an event has slots,
            and which are present: from fewer it makes what `rows` promises. A rule that does
            not take s rows at all is refused when `update` is traced.
        step_size: eta, number, tracer or schedule of the *answers* heard before the round, so
            that methods that update more or less often decay alike.
        scale: > 0, of the aggregate: m, where the sum of m losses is minimised.
        weight_decay: >= 0, f_0(x) = weight_decay |x|^2 / 2.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to
        1e6 before the rule sees them.

    Raises:
        InvalidConfig: on a step size or scale that is not positive, or weight_decay < 0.
    """
    m = num_workers
    require(m > 0, f"sgd needs at least one worker: got num_workers={m}")
    require(scale > 0, f"sgd needs scale > 0: got {scale}")
    require(weight_decay >= 0, f"sgd needs weight_decay >= 0: got {weight_decay}")
    step_size = check_step_size("sgd", step_size)

    def init(params, key=None):
        zero = jnp.zeros((), jnp.int32)
        return SGDState(
            params=params,
            aggregate=jnp.zeros_like(params),
            heard=zero,
            step=zero,
            seed=jax.random.bits(jax.random.key(0) if key is None else key, (2,), jnp.uint32),
        )

    def query(state, worker, key):
        del key  # whole gradients: nothing to draw
        return Query(state.params, worker, (), state.step)

    def update(state, reports):
        shape, d = reports.value.shape[1:], state.params.shape
        require(shape == d, f"an answer is f32{list(d)}: got {list(shape)}")
        present = reports.worker < m
        count = number(present)
        anyone = count > 0
        key = jax.random.wrap_key_data(state.seed, impl="threefry2x32")

        def combine(rows, present, last, step):
            return aggregator(rows, mask=present, start=last, key=jax.random.fold_in(key, step))

        # The mask is an argument of the branch, so a rule never knows it when it is traced: a
        # round that lacks some answers is no broken precondition, not even outside `jit`.
        args = (sanitize(reports.value), present, state.aggregate, state.step)
        aggregate = jax.lax.cond(anyone, combine, lambda *args: args[2], *args)
        eta = jnp.asarray(step_size(state.heard), state.params.dtype)
        along = scale * aggregate + weight_decay * state.params
        state = SGDState(
            params=jnp.where(anyone, state.params - eta * along, state.params),
            aggregate=aggregate,
            heard=state.heard + count,
            step=state.step + anyone.astype(jnp.int32),
            seed=state.seed,
        )
        return state, {}

    return Server(init, query, update, m, scheduled=("heard", "step", "seed"))
