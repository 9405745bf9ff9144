"""The quantities in the theorems of FAR-SIGN, measured along a run, and their bounds.

`observed` is a server that keeps, beside its own state, the sums in equation (54), from which
Proposition C.5 follows, and `bound` combines them. `tracking.tracking_bound` bounds one of
these sums, the error of the averages. `rates.slope` fits a rate with its uncertainty;
`adversaries.greedy` and `adversaries.lookahead` know the objective and choose the worst sign
each time.

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026, Section 2 and
    Appendices A to C.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Schedule, Server
from farsign_jax.directions.dictionary import Dictionary

Gradient = Callable[[Array], Array]  # f32[d] -> f32[d], the gradient of f without noise


class Sums(NamedTuple):
    """Sums over the events n so far, f32[] each; alpha_n is the step size of event n."""

    steps: Array  # sum alpha_n
    gradient: Array  # sum alpha_n |grad f(x_n)|_2
    error: Array  # sum alpha_n sum_(i honest) |y_n(i) - D_i grad f(x_n)|_1
    squares: Array  # sum alpha_n^2
    farthest: Array  # max |x_n|_inf


class Observed(NamedTuple):
    """The state of a server, and the sums along its run."""

    server: Any
    sums: Sums
    tracking: Array  # f32[], mean_(i honest) |y_n(i) - D_i grad f(x_n)|_2^2 at the last event

    @property
    def params(self) -> Array:
        return self.server.params

    @property
    def step(self) -> Array:
        return self.server.step

    @property
    def averages(self) -> Array:
        return self.server.averages


def rows(dictionary: Dictionary, num_workers: int) -> Array:
    """Returns all directions, D f32[m, K, d], for few of them in few dimensions."""
    ids = jnp.arange(dictionary.size, dtype=jnp.int32)
    basis = jnp.eye(dictionary.dim)

    def of(worker):
        return jax.vmap(lambda e: dictionary.project(e, worker, ids), out_axes=1)(basis)

    return jax.vmap(of)(jnp.arange(num_workers, dtype=jnp.int32))


def observed(
    server: Server, dictionary: Dictionary, step_size: Schedule, gradient: Gradient, honest: Any
) -> Server:
    """Wraps `far_sign` to keep the sums; every event costs O(m K d) more, and x is unchanged.

    Args:
        server: a server with this dictionary and this step size. For a server whose averages
            are those of other quantities (`online_mean`), only the sums about x are meaningful.
        dictionary: the directions of the server.
        step_size: alpha_n, as a schedule.
        gradient: the gradient of f.
        honest: bool[m], the workers whose averages are compared with the true derivatives.

    Returns:
        A `Server` whose state is `Observed`.
    """
    m = server.num_workers
    honest = jnp.asarray(honest, bool)

    def errors(state):
        g = gradient(state.params)
        slopes = rows(dictionary, m).astype(g.dtype) @ g  # [m, K]
        return g, jnp.where(honest[:, None], state.averages - slopes, 0)

    def init(params, key=None):
        state = server.init(params, key)
        zero = jnp.zeros((), params.dtype)
        sums = Sums(zero, zero, zero, zero, jnp.abs(params).max())
        return Observed(state, sums, zero)

    def query(state, worker, key):
        return server.query(state.server, worker, key)

    def update(state, reports):
        inner, sums = state.server, state.sums
        g, error = errors(inner)
        alpha = jnp.asarray(step_size(inner.step), g.dtype)
        after, info = server.update(inner, reports)
        sums = Sums(
            steps=sums.steps + alpha,
            gradient=sums.gradient + alpha * jnp.linalg.norm(g),
            error=sums.error + alpha * jnp.abs(error).sum(),
            squares=sums.squares + alpha**2,
            farthest=jnp.maximum(sums.farthest, jnp.abs(after.params).max()),
        )
        tracking = (error**2).sum() / jnp.maximum(honest.sum(), 1).astype(g.dtype)
        return Observed(after, sums, tracking), info

    def recall(state, direction):
        assert server.recall is not None
        return server.recall(state.server, direction)

    return Server(init, query, update, m, None if server.recall is None else recall)


def bound(
    sums: Mapping[str, Any], *, gap: float, smoothness: float, margin: float, pairs: int
) -> Any:
    """Returns the right-hand side of equation (54), in the proof of Proposition C.5.

    With the sums of `observed`, it contains the measured error of the averages. Proposition C.5
    has a bound on this error instead, sum_k alpha_k H sqrt(d C) (k + 1)^(-s/2) for H honest
    workers with d coordinates as directions, where C is the constant of Corollary C.3
    (`tracking_bound`). The bound holds for one direction per event, `sign_of="old"` and
    uniformly drawn pairs:

    sum_k alpha_k |grad f(x_k)| / sum_k alpha_k is at most, in expectation,

        [K (f(x_0) - min f) + 2 sum_k alpha_k sum_(i honest) |e_k(i)|_1
            + K (L / 2) sum_k alpha_k^2] / (eta sum_k alpha_k)

    where `sums` has the fields of `Sums` by name. Directions are unit vectors, K = `pairs` is
    the number of (worker, direction) pairs, e_k(i) = y_k(i) - D_i grad f(x_k), L = `smoothness`
    and eta = `margin` (`directions.certify`).
    """
    total = pairs * gap + 2 * sums["error"] + pairs * smoothness / 2 * sums["squares"]
    return total / (margin * sums["steps"])
