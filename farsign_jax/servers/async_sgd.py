"""Plain asynchronous SGD, the method without a defence.

Each answer g, a stochastic gradient at a possibly stale iterate, is applied as it arrives:

    x <- x - eta_n * g

References:
    Recht, Re, Wright and Niu, "Hogwild!", NeurIPS 2011; as a parameter server: Yang and Li,
    "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021, Algorithm 1.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Query, Schedule, Server, as_schedule, require

_LARGEST = 1e6


class AsyncSGDState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x
    step: Array  # i32[], updates applied so far


def async_sgd(num_workers: int, *, step_size: float | Array | Schedule) -> Server:
    """Asynchronous SGD on whole gradients.

    Args:
        num_workers: m (static).
        step_size: eta, number, tracer or schedule. Answers of one event (s > 1) are added.

    Returns:
        A `Server` that asks m workers for gradients f32[d] (`Query.direction` is empty). It
        believes everybody, but not everything: non-finite numbers count as 0 and entries are
        clipped to 1e6, so that x stays a number.

    Raises:
        InvalidConfig: on a step size that is not positive.
    """
    m = num_workers
    require(m > 0, f"async_sgd needs at least one worker: got num_workers={m}")
    if not callable(step_size):
        rule = f"async_sgd needs a finite step_size > 0: got {step_size}"
        require((step_size > 0) & (step_size < float("inf")), rule)
    step_size = as_schedule(step_size)

    def init(params, key=None):
        del key  # nothing to draw
        return AsyncSGDState(params, jnp.zeros((), jnp.int32))

    def query(state, worker, key):
        del key  # the whole gradient: nothing to draw
        return Query(state.params, worker, (), state.step)

    def update(state, reports):
        shape, d = reports.value.shape[1:], state.params.shape
        require(shape == d, f"an answer is a gradient f32{list(d)}: got {list(shape)}")
        present = reports.worker < m  # [s]
        finite = jnp.isfinite(reports.value)  # [s, d]
        heard = finite & present[:, None]
        gradient = jnp.where(heard, jnp.clip(reports.value, -_LARGEST, _LARGEST), 0.0).sum(0)
        eta = jnp.asarray(step_size(state.step), state.params.dtype)
        return AsyncSGDState(state.params - eta * gradient, state.step + 1), {}

    return Server(init, query, update, m)
