"""Plain asynchronous SGD, the method without a defence.

Each answer g, a stochastic gradient at a possibly stale iterate, is applied as it arrives:

    x <- x - eta_n * g

Asked about k of K directions a_j instead, the workers send derivatives Y_j, and

    x <- x - eta_n * (K / k) * sum_j Y_j a_j

which is the same step in expectation where the directions are coordinates.

References:
    Recht, Re, Wright and Niu, "Hogwild!", NeurIPS 2011; as a parameter server: Yang and Li,
    "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021, Algorithm 1. Along
    directions: Lian et al., "A Comprehensive Linear Speedup Analysis for Asynchronous
    Stochastic Parallel Optimization from Zeroth-Order to First-Order", NeurIPS 2016.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Query, Schedule, Server
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


class AsyncSGDState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x
    step: Array  # i32[], updates applied so far


def async_sgd(
    num_workers: int,
    dictionary: Dictionary | None = None,
    *,
    step_size: float | Array | Schedule,
    signs: bool = False,
) -> Server:
    """Asynchronous SGD on whole gradients, or on derivatives along some directions.

    Args:
        num_workers: m (static).
        dictionary: None, workers send gradients f32[d]; or the directions (static) of which
            they are asked k at a time.
        step_size: eta, number, tracer or schedule. Answers of one event (s > 1) are added.
        signs: only the sign of each number counts, plain asynchronous sign descent; without
            memory, its bias remains (Karimireddy et al., ICML 2019).

    Returns:
        A `Server` for m workers. It believes everybody, but not everything: non-finite
        numbers count as 0 and entries are clipped to 1e6, so that x stays a number.

    Raises:
        InvalidConfig: on a step size that is not positive.
    """
    m = num_workers
    require(m > 0, f"async_sgd needs at least one worker: got num_workers={m}")
    step_size = check_step_size("async_sgd", step_size)

    def init(params, key=None):
        del key  # nothing to draw
        d = params.shape[-1]
        size = d if dictionary is None else dictionary.dim
        require(size == d, f"the dictionary is for d={size}: got d={d}")
        return AsyncSGDState(params, jnp.zeros((), jnp.int32))

    def query(state, worker, key):
        direction = () if dictionary is None else dictionary.draw(key, worker)
        return Query(state.params, worker, direction, state.step)

    def update(state, reports):
        shape, params = reports.value.shape, state.params
        want = params.shape if dictionary is None else reports.direction.shape[1:]
        require(shape[1:] == want, f"an answer is f32{list(want)}: got {list(shape[1:])}")
        present = (reports.worker < m)[:, None]  # [s, 1]
        answer = jnp.where(present, sanitize(reports.value), 0.0)
        answer = jnp.sign(answer) if signs else answer
        eta = jnp.asarray(step_size(state.step), params.dtype)
        if dictionary is None:
            params = params - eta * answer.sum(0)
        else:
            scale = dictionary.size / dictionary.per_query
            amount = -eta * scale * answer
            params = dictionary.move(params, reports.worker, reports.direction, amount)
        return AsyncSGDState(params, state.step + 1), {}

    return Server(init, query, update, m)
