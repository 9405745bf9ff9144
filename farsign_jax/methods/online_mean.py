"""Online mean estimation with adversaries, the predecessor of FAR-SIGN.

Worker i observes a_i . X of a random X in R^d, and the server wants E X, one arrival at a time
and m numbers in memory. Asynchronous subgradient descent on |y - A x|_1, where y(i) follows
what worker i says on the fast time scale:

    y(i) <- y(i) + beta_n (Y_n - y(i))
    x    <- x + alpha_n sign(y(i) - a_i . x) a_i

Here in terms of the loss |x - X|^2 / 2, whose derivative along a_i at 0 is -a_i . X: workers
are asked about x = 0, answer Y' = -Y as in any first-order run, and y' = -y is kept. FAR-SIGN
asks about x itself instead, and needs no loss whose gradient is linear.

References:
    Ganesh, Reiffers-Masson and Thoppe, "Online Learning with Adversaries: A Differential-
    Inclusion Analysis", CDC 2023, arXiv 2304.01525.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Query, Schedule, Server
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.step_sizes import as_schedule, check_step_size
from farsign_jax.validation import require, sanitize


class OnlineMeanState(NamedTuple):
    """m workers, K directions each, d parameters."""

    params: Array  # f32[d], x
    averages: Array  # f32[m, K], y', of the derivatives at 0
    step: Array  # i32[], updates applied so far, n


def online_mean(
    num_workers: int,
    dictionary: Dictionary,
    *,
    step_size: float | Array | Schedule,
    average_step: float | Array | Schedule,
) -> Server:
    """The mean of what can be seen along a few directions only.

    Args:
        num_workers: m (static).
        dictionary: the directions (static), usually one per worker (`directions.matrix`).
        step_size: alpha, number, tracer or schedule.
        average_step: beta, number, tracer or schedule, clipped to [0, 1].

    Returns:
        A `Server` for workers that answer with derivatives of |x - X|^2 / 2.

    Raises:
        InvalidConfig: on a step size that is not positive or a dictionary of other workers.
    """
    m = num_workers
    require(m > 0, f"online_mean needs at least one worker: got num_workers={m}")
    own = dictionary.num_workers
    require(own in (None, m), f"the dictionary is for {own} workers: got num_workers={m}")
    step_size = check_step_size("online_mean", step_size)
    average_step = as_schedule(average_step)

    def init(params, key=None):
        del key  # nothing to draw
        averages = jnp.zeros((m, dictionary.size), params.dtype)
        return OnlineMeanState(params, averages, jnp.zeros((), jnp.int32))

    def query(state, worker, key):
        at = jnp.zeros_like(state.params)
        return Query(at, worker, dictionary.draw(key, worker), state.step)

    def update(state, reports):
        i, j = reports.worker, reports.direction  # [s], [s, k]
        rule = f"an answer is one number per direction: got {reports.value.shape} for {j.shape}"
        require(reports.value.shape == j.shape, rule)
        x, dtype = state.params, state.params.dtype
        alpha = jnp.asarray(step_size(state.step), dtype)
        beta = jnp.clip(jnp.asarray(average_step(state.step), dtype), 0, 1)
        old = state.averages[i[:, None], j]
        new = old + beta * (sanitize(reports.value, 1e30) - old)
        along = jnp.stack([dictionary.project(x, i[s], j[s]) for s in range(len(i))])
        amount = jnp.where((i < m)[:, None], -alpha * jnp.sign(along + new), 0)
        return OnlineMeanState(
            params=dictionary.move(x, i, j, amount.astype(dtype)),
            averages=state.averages.at[i[:, None], j].set(new, mode="drop"),
            step=state.step + 1,
        ), {}

    return Server(init, query, update, m)
