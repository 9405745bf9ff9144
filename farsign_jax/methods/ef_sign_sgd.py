"""EF-signSGD: signs and one scale per answer, with feedback of the compression error.

In round n every worker i of a set S, asked at x, adds its step to its memory e_i, sends the
compressed sum and remembers the error; the server averages:

    p_i <- eta_n * g_i + e_i
    Delta_i = (|p_i|_1 / d) * sign(p_i);   e_i <- p_i - Delta_i     `error_feedback_sign`
    x <- x - (1 / |S|) sum_{i in S} Delta_i                                 `ef_sign_sgd`

What one step leaves out is part of the next, so that the method converges at the rate of SGD
also where signSGD does not. It is not robust: the sender chooses the scale, and one Byzantine
worker moves x anywhere.

A 0 in p_i is sent as 0. Then |Delta_i|_1 < |p_i|_1, but |p_i - Delta_i| only becomes smaller,
which is all that the theory needs.

References:
    Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback Fixes SignSGD and other Gradient
    Compression Schemes", ICML 2019, Algorithm 1, for one worker; with a memory at each worker,
    as here: Zheng, Huang and Kwok, "Communication-Efficient Distributed Blockwise Momentum SGD
    with Error-Feedback", NeurIPS 2019, where the server compresses too.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import mean_of, number
from farsign_jax.base import (
    Array,
    Key,
    Problem,
    Query,
    Report,
    Schedule,
    Server,
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
from farsign_jax.methods.worker_memory import with_memory
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


class EFSignSGDState(NamedTuple):
    """The state for d parameters."""

    params: Array  # f32[d], x
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far with at least one answer


def error_feedback_sign(
    worker: Worker,
    dim: int,
    step_size: float | Array | Schedule,
    dtype: Any = jnp.float32,
) -> Worker:
    """The honest worker: its steps, compressed to signs and a scale, and a memory of the rest.

    Args:
        worker: a worker that answers with whole gradients f32[d], such as
            `oracles.stochastic_gradient`.
        dim: d.
        step_size: eta, a number, a tracer or a schedule of `query.version`, the number of
            *rounds* before the question: a worker cannot know how many answers the server has
            received. With s answers per round `lambda n: eta(s * n)` decays per answer, as
            servers do.
        dtype: the type of the memory, that of the gradients.

    Returns:
        A `Worker` whose state is that of `worker` and e f32[d]. An answer is Delta f32[d],
        d + 32 bits.

    Raises:
        InvalidConfig: if the step size is not positive, the worker encodes what it sends, or
            (when it is asked) it does not answer with f32[d].
    """
    eta_of = check_step_size("error_feedback_sign", step_size)

    def remember(error: Array, gradient: Array, query: Query) -> tuple[Array, Array]:
        eta = jnp.asarray(eta_of(query.version), error.dtype)
        p = eta * gradient + error
        delta = jnp.abs(p).mean() * jnp.sign(p)
        return p - delta, delta

    remembering = with_memory("error_feedback_sign", worker, dim, dtype, remember)
    return remembering._replace(bits=dim + 32)


def ef_sign_sgd(num_workers: int) -> Server:
    """The server: it subtracts the mean of the answers, which are steps, not gradients.

    Args:
        num_workers: m (static).

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6,
        so that x remains finite.

    Raises:
        InvalidConfig: if there is no worker.
    """
    m = num_workers
    require(m > 0, f"ef_sign_sgd needs at least one worker: got num_workers={m}")

    def init(params: Array, key: Key | None = None) -> EFSignSGDState:
        del key  # nothing is drawn
        zero = jnp.zeros((), jnp.int32)
        return EFSignSGDState(params, zero, zero)

    def update(
        state: EFSignSGDState, reports: Report
    ) -> tuple[EFSignSGDState, dict[str, Array]]:
        check_gradients(reports, state.params)
        present = reports.worker < m
        count = number(present)
        params = state.params - mean_of(sanitize(reports.value), present)  # 0 without answers
        step = state.step + (count > 0).astype(jnp.int32)
        return EFSignSGDState(params, state.num_answers + count, step), {}

    scheduled = ("num_answers", "step")
    return Server(init, ask_for_gradient, update, m, scheduled=scheduled, in_rounds=True)


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Rounds: signs with error feedback, no defence.

    Args:
        step_size: eta, the initial step size.
    """
    m = problem.num_workers
    worker = error_feedback_sign(
        gradient_worker(problem, oracle),
        problem.x0.shape[-1],
        oracle.per_round_schedule(hyper["step_size"], m),
        problem.x0.dtype,
    )
    return ef_sign_sgd(m), worker


METHOD = Method(build, step_size_presets(1.0), works_in_rounds=True)
