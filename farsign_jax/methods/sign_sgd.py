"""SignSGD with majority vote, and SIGNUM: one bit per number, one vote per worker.

In every round each worker i of a set S, asked at x, updates a momentum v_i of its stochastic
gradients g_i and sends the signs; the server counts votes per coordinate, a tie is 0:

    v_i <- (1 - b) * g_i + b * v_i;   sends sign(v_i)                     `momentum_sign`
    x <- x - eta_n * (sign(sum_{i in S} sign(v_i)) + w * x)               `sign_sgd`

b = 0 is signSGD with majority vote, b > 0 SIGNUM; w is weight decay. However large a lie, it
is one vote: with noise that is symmetric and unimodal, a minority of liars that do not
coordinate does not win. Without such noise signSGD need not converge at all, see `ef_sign_sgd`.

References:
    Bernstein, Zhao, Azizzadenesheli and Anandkumar, "signSGD with Majority Vote is
    Communication Efficient and Fault Tolerant", ICLR 2019, Algorithm 1; Bernstein, Wang,
    Azizzadenesheli and Anandkumar, "signSGD: Compressed Optimisation for Non-Convex
    Problems", ICML 2018.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import add_up, listed, number
from farsign_jax.base import Array, Query, Schedule, Server, Worker
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, require, sanitize


class SignSGDState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x
    heard: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far in which somebody answered


def momentum_sign(worker: Worker, dim: int, momentum: float | Array = 0.9) -> Worker:
    """The worker half: the signs of a momentum of the gradients of another worker.

    Args:
        worker: answers with whole gradients f32[d] (`oracles.stochastic_gradient`).
        dim: d.
        momentum: b, number or tracer; 0 sends the signs of the gradients themselves.

    Returns:
        A `Worker` whose state is that of `worker` and v f32[d]. An answer is f32[d] of -1, 0
        and 1 and counts as d bits, as in the papers: that a number may be exactly 0, and would
        need more, is left out.

    Raises:
        InvalidConfig: on a momentum outside [0, 1), a worker that encodes what it sends, or
            (when asked) one that does not answer f32[d].
    """
    d = check_integer("momentum_sign", "dim", dim, 1)
    rule = f"momentum_sign needs 0 <= momentum < 1: got {momentum}"
    require((momentum >= 0) & (momentum < 1), rule)
    rule = "momentum_sign needs a worker that sends the gradient it measures: this one encodes"
    require(worker.encode is None, rule)

    def init(shard):
        return worker.init(shard), jnp.zeros((d,))

    def respond(state, query, shard, key):
        inner, v = state
        inner, gradient = worker.respond(inner, query, shard, key)
        shape = list(gradient.shape)
        require(shape == [d], f"momentum_sign needs gradients f32[{d}]: got {shape}")
        b = jnp.asarray(momentum, v.dtype)
        # Tamed: one gradient that overflows would stay in v for ever.
        v = (1 - b) * sanitize(gradient) + b * v
        return (inner, v), jnp.sign(v)

    return worker._replace(init=init, respond=respond, bits=d)


def sign_sgd(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    weight_decay: float | Array = 0.0,
) -> Server:
    """The server half: a step of the same length in every coordinate, along the majority.

    Args:
        num_workers: m (static).
        step_size: eta, number, tracer or schedule of the *answers* heard before the round, so
            that methods that update more or less often decay alike.
        weight_decay: w, number or tracer.

    Returns:
        A `Server` for m workers. It takes the signs of what it receives, whatever that is;
        non-finite numbers abstain. In a round without answers x does not decay either.

    Raises:
        InvalidConfig: on a step size that is not positive or a weight decay below 0.
    """
    m = num_workers
    require(m > 0, f"sign_sgd needs at least one worker: got num_workers={m}")
    step_size = check_step_size("sign_sgd", step_size)
    rule = f"sign_sgd needs a finite weight_decay >= 0: got {weight_decay}"
    require((weight_decay >= 0) & (weight_decay < float("inf")), rule)

    def init(params, key=None):
        del key  # nothing to draw
        zero = jnp.zeros((), jnp.int32)
        return SignSGDState(params, zero, zero)

    def query(state, worker, key):
        del key  # whole gradients: nothing to draw
        return Query(state.params, worker, (), state.step)

    def update(state, reports):
        shape, x = reports.value.shape[1:], state.params
        require(shape == x.shape, f"an answer is f32{list(x.shape)}: got {list(shape)}")
        present = reports.worker < m
        count = number(present)
        anyone = count > 0
        votes = listed(jnp.sign(sanitize(reports.value)), present)
        eta = jnp.asarray(step_size(state.heard), x.dtype)
        decay = jnp.asarray(weight_decay, x.dtype) * x
        params = jnp.where(anyone, x - eta * (jnp.sign(add_up(votes)) + decay), x)
        step = state.step + anyone.astype(jnp.int32)
        return SignSGDState(params, state.heard + count, step), {}

    return Server(init, query, update, m, scheduled=("heard", "step"))
