"""SignSGD with majority vote, and SIGNUM: one bit per number, one vote per worker.

In every round each worker i of a set S, asked at x, updates a momentum v_i of its stochastic
gradients g_i and sends the signs; the server counts the votes for each coordinate, and a tie
counts as 0:

    v_i <- (1 - b) * g_i + b * v_i;   sends sign(v_i)                     `momentum_sign`
    x <- x - eta_n * (sign(sum_{i in S} sign(v_i)) + w * x)               `sign_sgd`

b = 0 is signSGD with majority vote, b > 0 is SIGNUM; w is weight decay. However large an answer
is, it is one vote: with noise that is symmetric and unimodal, a minority of Byzantine workers
that do not coordinate does not win. Without such noise signSGD need not converge at all, see
`ef_sign_sgd`.

References:
    Bernstein, Zhao, Azizzadenesheli and Anandkumar, "signSGD with Majority Vote is
    Communication Efficient and Fault Tolerant", ICLR 2019, Algorithm 1; Bernstein, Wang,
    Azizzadenesheli and Anandkumar, "signSGD: Compressed Optimisation for Non-Convex
    Problems", ICML 2018.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import add_up, number
from farsign_jax.base import (
    Array,
    Key,
    Problem,
    PyTree,
    Query,
    Report,
    Schedule,
    Server,
    Shard,
    Worker,
)
from farsign_jax.methods.gradient_server import ask_for_gradient, check_gradients
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.methods.worker_momentum import worker_momentum
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


def _vote(sign: Array, present: Array) -> Array:
    return jnp.where(present, sign, 0)


class SignSGDState(NamedTuple):
    """The state for d parameters."""

    params: Array  # f32[d], x
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far with at least one answer


def momentum_sign(
    worker: Worker, dim: int, momentum: float | Array = 0.9, dtype: Any = jnp.float32
) -> Worker:
    """The honest worker: the signs of a momentum of the gradients of another worker.

    Args:
        worker: a worker that answers with whole gradients f32[d], such as
            `oracles.stochastic_gradient`.
        dim: d.
        momentum: b, a number or a tracer; with 0 the signs of the gradients are sent.
        dtype: the type of the momentum, that of the gradients.

    Returns:
        A `Worker` whose state is that of `worker` and v f32[d]. An answer is f32[d] of -1, 0
        and 1 and counts as d bits, as in the papers, although a number that is exactly 0 would
        need more.

    Raises:
        InvalidConfig: if the momentum is outside [0, 1), the worker encodes what it sends, or
            (when it is asked) it does not answer with f32[d].
    """
    averaging = worker_momentum(worker, dim, momentum, dtype, "momentum_sign")

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        state, v = averaging.respond(state, query, shard, key)
        return state, jnp.sign(v)

    return averaging._replace(respond=respond, bits=dim)


def sign_sgd(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    weight_decay: float | Array = 0.0,
) -> Server:
    """The server: a step of the same length in every coordinate, along the majority.

    Args:
        num_workers: m (static).
        step_size: eta, a number, a tracer or a schedule of the number of *answers* before the
            round, so that methods that update more or less often decay alike.
        weight_decay: w, a number or a tracer.

    Returns:
        A `Server` for m workers. It takes the signs of the numbers that it receives; those that
        are not finite count as 0. In a round without answers x does not decay either.

    Raises:
        InvalidConfig: if the step size is not positive, or the weight decay is negative.
    """
    m = num_workers
    require(m > 0, f"sign_sgd needs at least one worker: got num_workers={m}")
    eta_of = check_step_size("sign_sgd", step_size)
    rule = f"sign_sgd needs a finite weight_decay >= 0: got {weight_decay}"
    require((weight_decay >= 0) & (weight_decay < float("inf")), rule)

    def init(params: Array, key: Key | None = None) -> SignSGDState:
        del key  # nothing is drawn
        zero = jnp.zeros((), jnp.int32)
        return SignSGDState(params, zero, zero)

    def update(state: SignSGDState, reports: Report) -> tuple[SignSGDState, dict[str, Array]]:
        x = state.params
        check_gradients(reports, x)
        present = reports.worker < m
        count = number(present)
        not_empty = count > 0
        votes = add_up(_vote, jnp.sign(sanitize(reports.value)), present)
        eta = jnp.asarray(eta_of(state.num_answers), x.dtype)
        decay = jnp.asarray(weight_decay, x.dtype) * x
        params = jnp.where(not_empty, x - eta * (jnp.sign(votes) + decay), x)
        step = state.step + not_empty.astype(jnp.int32)
        return SignSGDState(params, state.num_answers + count, step), {}

    scheduled = ("num_answers", "step")
    return Server(init, ask_for_gradient, update, m, scheduled=scheduled, in_rounds=True)


def build(
    problem: Problem, oracle: OracleConfig, hyper: Hyper, *, momentum: float = 0.9
) -> tuple[Server, Worker]:
    """Rounds: a majority vote of signs of momentum.

    Args:
        step_size: eta, the initial step size.
        momentum: b in [0, 1); with 0 the signs of the gradients are sent.
    """
    server = sign_sgd(problem.num_workers, step_size=oracle.schedule(hyper["step_size"]))
    worker = gradient_worker(problem, oracle)
    x0 = problem.x0
    return server, momentum_sign(worker, x0.shape[-1], momentum, x0.dtype)


METHOD = Method(build, step_size_presets(0.0025), works_in_rounds=True)
