"""RSA: models that are pulled together by a penalty, instead of gradients that are averaged.

Every worker has a model of its own, and a difference from the server's costs
lambda |x_i - x_0|_p:

    min  sum_i (f_i(x_i) + lambda |x_i - x_0|_p) + f_0(x_0)                          (3)

A worker that takes part in round k sends its x_i, receives x_0, and moves; the server moves
whether workers take part or not. Everything on the right is of round k:

    x_i <- x_i - alpha (g_i + lambda d|x_i - x_0|_p)                                 (8)
    x_0 <- x_0 - alpha (grad f_0(x_0) + lambda sum_{i in S} d|x_0 - z_i|_p)          (5)

S are the workers that take part. z_i is x_i, or whatever a Byzantine worker sends. The
subgradient d|u|_p is bounded whatever z_i is, so that a Byzantine worker moves x_0 by no more
than alpha lambda in each coordinate and round. With g_i a stochastic gradient at x_i this is
RSA, with g_i from `saga_gradient` it is AsynRSA-VR (`asyn_rsa_vr`).

References:
    Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods", AAAI 2019; "Asynchronous
    Byzantine-Robust Stochastic Aggregation with Variance Reduction", Algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import (
    Array,
    Key,
    Problem,
    PyTree,
    Query,
    Report,
    Schedule,
    Server,
    Shard,
    Worker,
)
from farsign_jax.methods.gradient_server import ask_for_gradient, check_gradients
from farsign_jax.methods.method import Hyper, Method, OracleConfig, gradient_worker
from farsign_jax.methods.typed import norm
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import lookup, require, sanitize

NORMS = {"l1": 1, "l2": 2, "linf": float("inf")}  # p of |u|_p by name


class RSAState(NamedTuple):
    """The state for d parameters."""

    params: Array  # f32[d], x_0
    step: Array  # i32[], rounds so far, k


def subgradient(u: Array, p: float) -> Array:
    """Returns a subgradient of |u|_p, f[d], which is 0 at 0.

    It is sign(u) for p = 1, u / |u|_2 for p = 2, and for p = inf the signs of the largest
    entries divided by their number.
    """
    if p == 1:
        return jnp.sign(u)
    if p == 2:
        length = norm(u)
        return u / jnp.where(length > 0, length, 1)
    size = jnp.abs(u)
    largest = size == size.max()
    return jnp.where(largest, jnp.sign(u), 0) / largest.sum().astype(u.dtype)


def _check(penalty: Any, p: float) -> None:
    finite = (penalty >= 0) & (penalty < float("inf"))
    require(finite, f"rsa needs a finite penalty lambda >= 0: got {penalty}")
    require(p in NORMS.values(), f"rsa needs p of 1, 2 or inf: got p={p}")


def rsa(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    penalty: float | Array,
    p: float = 1,
    weight_decay: float | Array = 0.0,
) -> Server:
    """The server, eq. (5), with f_0(x) = weight_decay |x|^2 / 2.

    Args:
        num_workers: m (static).
        step_size: alpha, a number, a tracer or a schedule of the number of rounds k.
        penalty: lambda >= 0; it may be traced.
        p: 1, 2 or inf (static).
        weight_decay: the factor >= 0 of f_0; it may be traced.

    Returns:
        A `Server` for m workers that answer with models f32[d], as those of `own_model` do;
        gradients would be taken for models. A coordinate that is not finite does not pull, and
        entries are clipped to 1e6.

    Raises:
        InvalidConfig: if the step size is not positive, lambda or weight_decay is negative, or
            p is none of 1, 2 and inf.
    """
    m = num_workers
    require(m > 0, f"rsa needs at least one worker: got num_workers={m}")
    _check(penalty, p)
    require(weight_decay >= 0, f"rsa needs weight_decay >= 0: got {weight_decay}")
    alpha_of = check_step_size("rsa", step_size)

    def init(params: Array, key: Key | None = None) -> RSAState:
        del key  # nothing is drawn
        return RSAState(params, jnp.zeros((), jnp.int32))

    def update(state: RSAState, reports: Report) -> tuple[RSAState, dict[str, Array]]:
        check_gradients(reports, state.params)
        x = state.params

        def pull(z: Array, present: Array) -> Array:
            z = jnp.where(present & jnp.isfinite(z), sanitize(z), x)
            return subgradient(x - z, p)

        pulls = jax.vmap(pull)(reports.value, reports.worker < m)
        # On a CPU this is ten times faster than a sum along axis 0.
        total = jnp.matmul(jnp.ones(len(pulls), x.dtype), pulls, precision="highest")
        alpha, decay, pull_by = (
            jnp.asarray(number, x.dtype)
            for number in (alpha_of(state.step), weight_decay, penalty)
        )
        return RSAState(x - alpha * (decay * x + pull_by * total), state.step + 1), {}

    return Server(init, ask_for_gradient, update, m, in_rounds=True)


def own_model(
    worker: Worker,
    x0: Array,
    *,
    step_size: float | Array | Schedule,
    penalty: float | Array,
    p: float = 1,
    server_sees: str = "old",
) -> Worker:
    """The honest worker, eq. (8), around a worker that answers with gradients.

    Args:
        worker: a worker that answers with g at the x that it is asked about:
            `stochastic_gradient` for RSA, `saga_gradient` for AsynRSA-VR.
        x0: f32[d], the initial model.
        step_size: alpha, as in `rsa`.
        penalty: lambda, as in `rsa`.
        p: 1, 2 or inf, as in `rsa`.
        server_sees: "old" if the answer is x_i of round k, as in the papers; "new" if it is the
            model after the step, as in RSA's public code.

    Returns:
        A `Worker` whose state is that of `worker` and x_i f32[d], and whose answer is x_i.

    Raises:
        InvalidConfig: on what `rsa` refuses, if the worker encodes what it sends, or if
            `server_sees` is neither "old" nor "new".
    """
    _check(penalty, p)
    require(server_sees in ("old", "new"), f"the server sees old or new: got {server_sees!r}")
    require(worker.encode is None, "own_model needs a worker that sends what it measures")
    alpha_of = check_step_size("rsa", step_size)

    def init(shard: Shard) -> PyTree:
        return worker.init(shard), x0

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        inner, x = state
        inner, gradient = worker.respond(inner, query._replace(params=x), shard, key)
        alpha = jnp.asarray(alpha_of(query.version), x.dtype)
        # Sanitised: one gradient that overflows would stay in the model for ever.
        pull = jnp.asarray(penalty, x.dtype) * subgradient(x - query.params, p)
        new = x - alpha * (sanitize(gradient) + pull)
        return (inner, new), x if server_sees == "old" else new

    return worker._replace(init=init, respond=respond)


def build_with(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    gradients: Worker,
    *,
    norm: str,
    weight_decay: float,
    server_sees: str,
) -> tuple[Server, Worker]:
    """Returns `rsa` and `own_model` around a worker that answers with gradients."""
    p = lookup("norm", norm, NORMS)
    step_size = oracle.per_round_schedule(hyper["step_size"], problem.num_workers)
    penalty = hyper["penalty"]
    server = rsa(
        problem.num_workers,
        step_size=step_size,
        penalty=penalty,
        p=p,
        weight_decay=weight_decay,
    )
    worker = own_model(
        gradients,
        problem.x0,
        step_size=step_size,
        penalty=penalty,
        p=p,
        server_sees=server_sees,
    )
    return server, worker


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    norm: str = "l1",
    weight_decay: float = 0.0,
    server_sees: str = "old",
) -> tuple[Server, Worker]:
    """Rounds: models of their own, pulled together by an l_p penalty.

    Args:
        step_size: alpha, the initial step size.
        penalty: lambda >= 0.
        norm: the norm of the penalty, "l1", "l2" or "linf".
        weight_decay: the factor >= 0 of f_0(x) = weight_decay |x|^2 / 2.
        server_sees: "old" if the answer is the model of the round, as in the papers; "new" if
            it is the model after the step, as in RSA's public code.
    """
    gradients = gradient_worker(problem, oracle)
    return build_with(
        problem,
        oracle,
        hyper,
        gradients,
        norm=norm,
        weight_decay=weight_decay,
        server_sees=server_sees,
    )


# For mini-batches of 64; the paper has a step size of 0.001 for single examples.
PRESETS = {name: {"step_size": 0.02, "penalty": 0.05} for name in ("paper", "tuned")}
METHOD = Method(build, PRESETS, works_in_rounds=True, attacks_in_lockstep=True)
