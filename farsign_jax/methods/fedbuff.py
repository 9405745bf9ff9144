"""FedBuff: asynchronous SGD that averages K answers before each step.

With tau_i the number of updates since answer i of the K in the buffer was asked for:

    x <- x - eta * (1/K) * sum_i g_i / sqrt(1 + tau_i)

and the buffer is empty again. It is the paper's method with one local step, where what a
worker sends is a multiple of its stochastic gradient. Nobody is checked: one liar among K
moves x wherever it likes. The buffer is for staleness and secure aggregation, not against lies.

References:
    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated Learning with Buffered
    Asynchronous Aggregation", AISTATS 2022, Algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Query, Schedule, Server
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, lookup, require, sanitize

_DAMPENING = {"inverse_sqrt": lambda tau: 1 / jnp.sqrt(1 + tau), "none": jnp.ones_like}


class FedBuffState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x
    buffer: Array  # f32[d], sum of the last `count` weighted answers, of none where it is 0
    count: Array  # i32[], how many they are
    heard: Array  # i32[], answers so far
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
        buffer_size: K (static). It may be larger than m: a worker may answer twice.
        step_size: eta, number, tracer or schedule of the *answers* heard, not of the updates,
            so that methods that update more or less often decay alike.
        dampening: weight of an answer, "inverse_sqrt" 1 / sqrt(1 + tau) or "none".

    Returns:
        A `Server` for m workers. It believes everybody, but not everything: non-finite
        numbers count as 0 and entries are clipped to 1e6, so that x stays a number.

    Raises:
        InvalidConfig: on K < 1, an unknown dampening or a step size that is not positive.
    """
    m, size = num_workers, check_integer("fedbuff", "buffer_size", buffer_size, 1)
    require(m > 0, f"fedbuff needs at least one worker: got num_workers={m}")
    dampen = lookup("dampening", dampening, _DAMPENING)
    step_size = check_step_size("fedbuff", step_size)

    def init(params, key=None):
        del key  # nothing to draw
        zero = jnp.zeros((), jnp.int32)
        return FedBuffState(params, jnp.zeros_like(params), zero, zero, zero)

    def query(state, worker, key):
        del key
        return Query(state.params, worker, (), state.step)

    def hear(state, report):
        """One arrival; report without the leading axis."""
        present, answer = report.worker < m, sanitize(report.value)
        tau = (state.step - report.version).astype(answer.dtype)
        # Emptied when next used, not when full: a buffer that is not read by `params` makes XLA
        # copy what is on its way (`simulate`).
        kept = jnp.where(state.count == 0, 0, state.buffer)
        total = kept + jnp.where(present, dampen(tau), 0) * answer
        count = state.count + present.astype(jnp.int32)
        full = count == size  # never in an empty slot: a full buffer is emptied at once
        eta = jnp.asarray(step_size(state.heard), answer.dtype)
        return FedBuffState(
            params=state.params - jnp.where(full, eta / size, 0) * total,
            buffer=jnp.where(present, total, state.buffer),
            count=jnp.where(full, 0, count),
            heard=state.heard + present.astype(jnp.int32),
            step=state.step + full.astype(jnp.int32),
        )

    def update(state, reports):
        shape, d = reports.value.shape[1:], state.params.shape
        require(shape == d, f"an answer is f32{list(d)}: got {list(shape)}")
        if len(reports.worker) == 1:
            return hear(state, jax.tree.map(lambda a: a[0], reports)), {}
        return jax.lax.scan(lambda s, r: (hear(s, r), None), state, reports)[0], {}

    return Server(init, query, update, m, scheduled=("count", "heard", "step"))
