"""Plain asynchronous SGD, without a defence.

Each answer g, a stochastic gradient at a possibly stale iterate, is applied as it arrives:

    x <- x - eta_n * g

If the workers are asked about k of K directions a_j instead, they send derivatives Y_j, and

    x <- x - eta_n * (K / k) * sum_j Y_j a_j

which is the same step in expectation if the directions are coordinates.

References:
    Recht, Re, Wright and Niu, "Hogwild!", NeurIPS 2011; as a parameter server: Yang and Li,
    "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021, Algorithm 1. Along
    directions: Lian et al., "A Comprehensive Linear Speedup Analysis for Asynchronous
    Stochastic Parallel Optimization from Zeroth-Order to First-Order", NeurIPS 2016.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Key, Problem, Query, Report, Schedule, Server, Worker
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


class AsyncSGDState(NamedTuple):
    """The state for d parameters."""

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
        dictionary: None if workers send gradients f32[d]; otherwise the directions (static),
            of which they are asked about k at a time.
        step_size: eta, a number, a tracer or a schedule of the number of updates so far. The
            answers of one event are added.
        signs: whether only the sign of each number counts. This is plain asynchronous sign
            descent; without memory, its bias remains (Karimireddy et al., ICML 2019).

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6,
        so that x remains finite.

    Raises:
        InvalidConfig: if the step size is not positive.
    """
    m = num_workers
    require(m > 0, f"async_sgd needs at least one worker: got num_workers={m}")
    eta_of = check_step_size("async_sgd", step_size)

    def init(params: Array, key: Key | None = None) -> AsyncSGDState:
        del key  # nothing is drawn
        d = params.shape[-1]
        size = d if dictionary is None else dictionary.dim
        require(size == d, f"the dictionary is for d={size}: got d={d}")
        return AsyncSGDState(params, jnp.zeros((), jnp.int32))

    def query(state: AsyncSGDState, worker: Array, key: Key) -> Query:
        direction = () if dictionary is None else dictionary.draw(key, worker)
        return Query(state.params, worker, direction, state.step)

    def update(state: AsyncSGDState, reports: Report) -> tuple[AsyncSGDState, dict[str, Array]]:
        shape, params = reports.value.shape, state.params
        want = params.shape if dictionary is None else reports.direction.shape[1:]
        require(shape[1:] == want, f"an answer is f32{list(want)}: got {list(shape[1:])}")
        present = (reports.worker < m)[:, None]  # [s, 1]
        answer = jnp.where(present, sanitize(reports.value), 0.0)
        answer = jnp.sign(answer) if signs else answer
        eta = jnp.asarray(eta_of(state.step), params.dtype)
        if dictionary is None:
            params = params - eta * answer.sum(0)
        else:
            scale = dictionary.size / dictionary.per_query
            amount = -eta * scale * answer
            params = dictionary.move(params, reports.worker, reports.direction, amount)
        return AsyncSGDState(params, state.step + 1), {}

    return Server(init, query, update, m)


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Stochastic gradients as they come, no defence.

    Args:
        step_size: eta, the initial step size.
    """
    server = async_sgd(problem.num_workers, step_size=oracle.schedule(hyper["step_size"]))
    return server, gradient_worker(problem, oracle)


METHOD = Method(build, step_size_presets(0.1))
