"""EF-signSGD: one sign per number and one scale, with feedback of what the signs left out.

In round n every worker i of a set S, asked at x, adds its step to what its memory e_i holds,
sends the sum compressed and remembers the error; the server averages:

    p_i <- eta_n * g_i + e_i
    Delta_i = (|p_i|_1 / d) * sign(p_i);   e_i <- p_i - Delta_i     `error_feedback_sign`
    x <- x - (1 / |S|) sum_{i in S} Delta_i                                 `ef_sign_sgd`

What is left out of one step is in the next: it converges, at the rate of SGD, also where
signSGD does not. It is not robust, the scale is the sender's: one liar moves x anywhere.

A 0 in p_i is sent as 0. Then |Delta_i|_1 < |p_i|_1, but |p_i - Delta_i| is only smaller, and
that is all the theory needs.

References:
    Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback Fixes SignSGD and other Gradient
    Compression Schemes", ICML 2019, Algorithm 1, for one worker; with a memory at each worker,
    as here: Zheng, Huang and Kwok, "Communication-Efficient Distributed Blockwise Momentum SGD
    with Error-Feedback", NeurIPS 2019, where the server compresses too.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import mean_of, number
from farsign_jax.base import Array, Query, Schedule, Server, Worker
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, require, sanitize


class EFSignSGDState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x
    heard: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far in which somebody answered


def error_feedback_sign(
    worker: Worker, dim: int, step_size: float | Array | Schedule
) -> Worker:
    """The worker half: its steps, compressed to signs and a scale, and a memory of the rest.

    Args:
        worker: answers with whole gradients f32[d] (`oracles.stochastic_gradient`).
        dim: d.
        step_size: eta, number, tracer or schedule of `query.version`, the *rounds* before the
            question: a worker cannot know how many answers the server has heard. With s
            answers per round `lambda n: eta(s * n)` decays per answer, as servers do.

    Returns:
        A `Worker` whose state is that of `worker` and e f32[d]. An answer is Delta f32[d],
        d + 32 bits.

    Raises:
        InvalidConfig: on a step size that is not positive, a worker that encodes what it
            sends, or (when asked) one that does not answer f32[d].
    """
    d = check_integer("error_feedback_sign", "dim", dim, 1)
    step_size = check_step_size("error_feedback_sign", step_size)
    needs = "error_feedback_sign needs"
    rule = f"{needs} a worker that sends the gradient it measures: this one encodes"
    require(worker.encode is None, rule)

    def init(shard):
        return worker.init(shard), jnp.zeros((d,))

    def respond(state, query, shard, key):
        inner, error = state
        inner, gradient = worker.respond(inner, query, shard, key)
        shape = list(gradient.shape)
        require(shape == [d], f"{needs} gradients f32[{d}]: got {shape}")
        eta = jnp.asarray(step_size(query.version), error.dtype)
        # Tamed: one gradient that overflows would stay in the memory for ever.
        p = eta * sanitize(gradient) + error
        delta = jnp.abs(p).mean() * jnp.sign(p)
        return (inner, p - delta), delta

    return worker._replace(init=init, respond=respond, bits=d + 32)


def ef_sign_sgd(num_workers: int) -> Server:
    """The server half: x less the mean of the answers, which are steps, not gradients.

    Args:
        num_workers: m (static).

    Returns:
        A `Server` for m workers. It believes everybody, but not everything: non-finite
        numbers count as 0 and entries are clipped to 1e6, so that x stays a number.

    Raises:
        InvalidConfig: without a worker.
    """
    m = num_workers
    require(m > 0, f"ef_sign_sgd needs at least one worker: got num_workers={m}")

    def init(params, key=None):
        del key  # nothing to draw
        zero = jnp.zeros((), jnp.int32)
        return EFSignSGDState(params, zero, zero)

    def query(state, worker, key):
        del key  # whole gradients: nothing to draw
        return Query(state.params, worker, (), state.step)

    def update(state, reports):
        shape, d = reports.value.shape[1:], state.params.shape
        require(shape == d, f"an answer is f32{list(d)}: got {list(shape)}")
        present = reports.worker < m
        count = number(present)
        params = state.params - mean_of(sanitize(reports.value), present)  # zeros of nobody
        step = state.step + (count > 0).astype(jnp.int32)
        return EFSignSGDState(params, state.heard + count, step), {}

    return Server(init, query, update, m, scheduled=("heard", "step"))
