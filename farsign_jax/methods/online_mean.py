"""Online mean estimation with adversaries, the predecessor of FAR-SIGN.

Worker i observes a_i . X of a random X in R^d, and the server estimates E X, one arrival at a
time and with m numbers in memory. It is asynchronous subgradient descent on |y - A x|_1, where
y(i) follows the answers of worker i on the fast time scale:

    y(i) <- y(i) + beta_n (Y_n - y(i))
    x    <- x + alpha_n sign(y(i) - a_i . x) a_i

Here it is written in terms of the loss |x - X|^2 / 2, whose derivative along a_i at 0 is
-a_i . X: workers are asked about x = 0 and answer Y' = -Y as in any first-order run, and
y' = -y is kept. FAR-SIGN asks about x itself instead, and does not need a loss whose gradient
is linear. `online_mean` is not an entry of `METHODS`, as it does not minimise other losses.

References:
    Ganesh, Reiffers-Masson and Thoppe, "Online Learning with Adversaries: A Differential-
    Inclusion Analysis", CDC 2023, arXiv 2304.01525.
"""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Key, Query, Report, Schedule, Server
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.step_sizes import as_schedule, check_step_size
from farsign_jax.validation import require, sanitize


class OnlineMeanState(NamedTuple):
    """The state for m workers, K directions each, and d parameters."""

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
    """The mean of a random vector that is observed along a few directions only.

    Args:
        num_workers: m (static).
        dictionary: the directions (static), usually one per worker (`directions.matrix`).
        step_size: alpha, a number, a tracer or a schedule of the number of updates so far.
        average_step: beta, a number, a tracer or a schedule, clipped to [0, 1].

    Returns:
        A `Server` for workers that answer with derivatives of |x - X|^2 / 2.

    Raises:
        InvalidConfig: if the step size is not positive, or the dictionary is for another m.
    """
    m = num_workers
    require(m > 0, f"online_mean needs at least one worker: got num_workers={m}")
    own = dictionary.num_workers
    require(own in (None, m), f"the dictionary is for {own} workers: got num_workers={m}")
    alpha_of = check_step_size("online_mean", step_size)
    beta_of = as_schedule(average_step)

    def init(params: Array, key: Key | None = None) -> OnlineMeanState:
        del key  # nothing is drawn
        averages = jnp.zeros((m, dictionary.size), params.dtype)
        return OnlineMeanState(params, averages, jnp.zeros((), jnp.int32))

    def query(state: OnlineMeanState, worker: Array, key: Key) -> Query:
        at = jnp.zeros_like(state.params)
        return Query(at, worker, dictionary.draw(key, worker), state.step)

    def update(
        state: OnlineMeanState, reports: Report
    ) -> tuple[OnlineMeanState, dict[str, Array]]:
        i, j = reports.worker, reports.direction  # [s], [s, k]
        rule = f"an answer is one number per direction: got {reports.value.shape} for {j.shape}"
        require(reports.value.shape == j.shape, rule)
        x, dtype = state.params, state.params.dtype
        alpha = jnp.asarray(alpha_of(state.step), dtype)
        beta = jnp.clip(jnp.asarray(beta_of(state.step), dtype), 0, 1)
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
