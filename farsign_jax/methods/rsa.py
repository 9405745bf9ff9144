"""RSA and AsynRSA-VR: models that are pulled together, not gradients that are averaged.

Everybody has a model of its own, and differing from the server's costs lambda |x_i - x_0|_p:

    min  sum_i (f_i(x_i) + lambda |x_i - x_0|_p) + f_0(x_0)                          (3)

A worker that takes part in round k sends its x_i, is told x_0, and moves on; the server moves
whether anybody took part or not. All on the right is of round k:

    x_i <- x_i - alpha (g_i + lambda d|x_i - x_0|_p)                                 (8)
    x_0 <- x_0 - alpha (grad f_0(x_0) + lambda sum_{i heard} d|x_0 - z_i|_p)         (5)

z_i is x_i or a lie. The subgradient d|u|_p is bounded whatever z_i is, so a liar moves x_0 by
no more than alpha lambda in each coordinate and round. With g_i a stochastic gradient at x_i
this is RSA, with g_i from `saga_gradient` AsynRSA-VR.

References:
    Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods", AAAI 2019; "Asynchronous
    Byzantine-Robust Stochastic Aggregation with Variance Reduction", Algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Query, Schedule, Server, Worker
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize

NORMS = (1, 2, float("inf"))


class RSAState(NamedTuple):
    """d parameters."""

    params: Array  # f32[d], x_0
    step: Array  # i32[], rounds so far, k


def subgradient(u: Array, p: float) -> Array:
    """Of |u|_p, f[d]: sign(u), u / |u|_2, or sign(u) spread evenly over the largest; 0 at 0."""
    if p == 1:
        return jnp.sign(u)
    if p == 2:
        length = jnp.linalg.norm(u)
        return u / jnp.where(length > 0, length, 1)
    size = jnp.abs(u)
    largest = size == size.max()
    return jnp.where(largest, jnp.sign(u), 0) / largest.sum().astype(u.dtype)


def _check(penalty: Any, p: float) -> None:
    finite = (penalty >= 0) & (penalty < float("inf"))
    require(finite, f"rsa needs a finite penalty lambda >= 0: got {penalty}")
    require(p in NORMS, f"rsa needs p of 1, 2 or inf: got p={p}")


def rsa(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    penalty: float | Array,
    p: float = 1,
    weight_decay: float | Array = 0.0,
) -> Server:
    """The server half, eq. (5), with f_0(x) = weight_decay |x|^2 / 2.

    Args:
        num_workers: m (static).
        step_size: alpha, number, tracer or schedule of the rounds k.
        penalty: lambda >= 0, may be traced.
        p: 1, 2 or inf (static).
        weight_decay: of f_0, >= 0, may be traced.

    Returns:
        A `Server` for m workers that answer with models f32[d], as those of `own_model` do;
        gradients would be taken for models. A coordinate that is not finite pulls nowhere, a
        huge one counts as 1e6.

    Raises:
        InvalidConfig: on a step size that is not positive, lambda < 0, weight_decay < 0 or
            another p.
    """
    m = num_workers
    require(m > 0, f"rsa needs at least one worker: got num_workers={m}")
    _check(penalty, p)
    require(weight_decay >= 0, f"rsa needs weight_decay >= 0: got {weight_decay}")
    step_size = check_step_size("rsa", step_size)

    def init(params, key=None):
        del key  # nothing to draw
        return RSAState(params, jnp.zeros((), jnp.int32))

    def query(state, worker, key):
        del key
        return Query(state.params, worker, (), state.step)

    def update(state, reports):
        shape, d = reports.value.shape[1:], state.params.shape
        require(shape == d, f"an answer is f32{list(d)}: got {list(shape)}")
        x = state.params

        def pull(z, present):
            z = jnp.where(present & jnp.isfinite(z), sanitize(z), x)
            return subgradient(x - z, p)

        pulls = jax.vmap(pull)(reports.value, reports.worker < m)
        # On a CPU ten times faster than a sum along axis 0.
        total = jnp.matmul(jnp.ones(len(pulls), x.dtype), pulls, precision="highest")
        alpha = jnp.asarray(step_size(state.step), x.dtype)
        return RSAState(x - alpha * (weight_decay * x + penalty * total), state.step + 1), {}

    return Server(init, query, update, m)


def own_model(
    worker: Worker,
    x0: Array,
    *,
    step_size: float | Array | Schedule,
    penalty: float | Array,
    p: float = 1,
    server_sees: str = "old",
) -> Worker:
    """The worker half, eq. (8), around a worker that answers with gradients.

    Args:
        worker: says g at the x it is asked about: `stochastic_gradient` for RSA,
            `saga_gradient` for AsynRSA-VR.
        x0: f32[d], where its model begins.
        step_size: this, penalty and p are as told to `rsa`.
        server_sees: "old", x_i of round k, as in the papers; "new", what it has just become,
            as in RSA's public code.

    Returns:
        A `Worker` whose state is that of `worker` and x_i f32[d], and whose answer is x_i.

    Raises:
        InvalidConfig: on what `rsa` refuses, a worker that encodes, or another `server_sees`.
    """
    _check(penalty, p)
    require(server_sees in ("old", "new"), f"the server sees old or new: got {server_sees!r}")
    require(worker.encode is None, "own_model needs a worker that sends what it measures")
    step_size = check_step_size("rsa", step_size)

    def init(shard):
        return worker.init(shard), x0

    def respond(state, query, shard, key):
        inner, x = state
        inner, gradient = worker.respond(inner, query._replace(params=x), shard, key)
        alpha = jnp.asarray(step_size(query.version), x.dtype)
        # Tamed: one gradient that overflows would stay in the model for ever.
        new = x - alpha * (sanitize(gradient) + penalty * subgradient(x - query.params, p))
        return (inner, new), x if server_sees == "old" else new

    return worker._replace(init=init, respond=respond)
