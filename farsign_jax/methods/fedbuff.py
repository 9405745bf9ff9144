"""FedBuff: asynchronous SGD that averages K answers before each step.

With tau_i the number of updates since answer i of the K in the buffer was asked for,

    x <- x - eta * (1/K) * sum_i g_i / sqrt(1 + tau_i)

and the buffer is emptied. It is the paper's method with one local step, where what a worker
sends is a multiple of its stochastic gradient. No answer is checked: one Byzantine worker among
K moves x anywhere. The buffer is for staleness and secure aggregation, not for robustness.

References:
    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated Learning with Buffered
    Asynchronous Aggregation", AISTATS 2022, Algorithm 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Key, Problem, Report, Schedule, Server, Worker
from farsign_jax.methods.gradient_server import ask_for_gradient, check_gradients, one_by_one
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, lookup, require, sanitize


def _inverse_sqrt(tau: Array) -> Array:
    return 1 / jnp.sqrt(1 + tau)


_DAMPENING: dict[str, Callable[[Array], Array]] = {
    "inverse_sqrt": _inverse_sqrt,
    "none": jnp.ones_like,
}


class FedBuffState(NamedTuple):
    """The state for d parameters."""

    params: Array  # f32[d], x
    buffer: Array  # f32[d], the sum of weighted answers; ignored where there are none
    num_buffered: Array  # i32[], the number of answers in the buffer
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], updates applied so far


def fedbuff(
    num_workers: int,
    *,
    buffer_size: int = 10,
    step_size: float | Array | Schedule,
    dampening: str = "inverse_sqrt",
) -> Server:
    """Asynchronous SGD in steps of K answers.

    Args:
        num_workers: m (static).
        buffer_size: K (static). It may be larger than m, as a worker may answer twice.
        step_size: eta, a number, a tracer or a schedule of the number of *answers* so far, not
            of updates, so that methods that update more or less often decay alike.
        dampening: the weight of an answer, "inverse_sqrt" 1 / sqrt(1 + tau) or "none".

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6,
        so that x remains finite.

    Raises:
        InvalidConfig: if K < 1, the dampening is unknown, or the step size is not positive.
    """
    m, size = num_workers, check_integer("fedbuff", "buffer_size", buffer_size, 1)
    require(m > 0, f"fedbuff needs at least one worker: got num_workers={m}")
    dampen = lookup("dampening", dampening, _DAMPENING)
    eta_of = check_step_size("fedbuff", step_size)

    def init(params: Array, key: Key | None = None) -> FedBuffState:
        del key  # nothing is drawn
        zero = jnp.zeros((), jnp.int32)
        return FedBuffState(params, jnp.zeros_like(params), zero, zero, zero)

    def receive(state: FedBuffState, report: Report) -> FedBuffState:
        present, answer = report.worker < m, sanitize(report.value)
        tau = (state.step - report.version).astype(answer.dtype)
        # Emptied when it is next used, not when it is full: a buffer that is not read by
        # `params` makes XLA copy the answers under way in the loop of the simulation.
        kept = jnp.where(state.num_buffered == 0, 0, state.buffer)
        total = kept + jnp.where(present, dampen(tau), 0) * answer
        count = state.num_buffered + present.astype(jnp.int32)
        full = count == size  # never in an empty slot: a full buffer is emptied at once
        eta = jnp.asarray(eta_of(state.num_answers), answer.dtype)
        return FedBuffState(
            params=state.params - jnp.where(full, eta / size, 0) * total,
            buffer=jnp.where(present, total, state.buffer),
            num_buffered=jnp.where(full, 0, count),
            num_answers=state.num_answers + present.astype(jnp.int32),
            step=state.step + full.astype(jnp.int32),
        )

    def update(state: FedBuffState, reports: Report) -> tuple[FedBuffState, dict[str, Array]]:
        check_gradients(reports, state.params)
        return one_by_one(receive, state, reports), {}

    scheduled = ("num_buffered", "num_answers", "step")
    return Server(init, ask_for_gradient, update, m, scheduled=scheduled)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    buffer_size: int = 10,
    dampening: str = "inverse_sqrt",
) -> tuple[Server, Worker]:
    """The mean of a few gradients at a time, no defence.

    Args:
        step_size: eta, the initial step size.
        buffer_size: K, the number of answers in a step. It may be larger than m, as a worker
            may answer twice.
        dampening: the weight of an answer, "inverse_sqrt" 1 / sqrt(1 + tau) or "none".
    """
    server = fedbuff(
        problem.num_workers,
        buffer_size=buffer_size,
        step_size=oracle.schedule(hyper["step_size"]),
        dampening=dampening,
    )
    return server, gradient_worker(problem, oracle)


METHOD = Method(build, step_size_presets(0.5))
