"""Zeno++: asynchronous SGD that scores each answer on data that the server trusts.

With v the gradient of the loss on trusted examples, computed anew every 10 answers or so,
each answer g is scaled to the length of v and scored by the descent it promises:

    g <- g * ||v|| / ||g||
    if  gamma * <v, g> - rho * ||g||^2 >= -gamma * eps:   x <- x - gamma * g

gamma is the step size. However many workers are Byzantine, only what points roughly along v
moves x, and never further than gamma * ||v||: the method is as good as the trusted data, and no
better. An answer of zeros, one with numbers that are not finite, and any answer while v = 0 is
rejected.

The penalty rho * ||g||^2 takes the length after scaling, as in the paper, so that it is
rho * ||v||^2 for every answer; the authors' code takes the length before scaling.

References:
    Xie, Koyejo and Gupta, "Zeno++: Robust Fully Asynchronous SGD", ICML 2020; the authors'
    code: github.com/xcgoner/iclr2020_zeno_async.
"""

from collections.abc import Callable

import jax.numpy as jnp

from farsign_jax.base import Array, Problem, PyTree, Schedule, Server, Worker
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    step_size_presets,
)
from farsign_jax.methods.trusted import set_aside, trusted_server
from farsign_jax.methods.typed import norm
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import is_concrete, require, sanitize

_TINY = 1e-30  # an answer without a larger entry counts as one of zeros


def zeno_pp(
    num_workers: int,
    losses: Callable[[Array, PyTree], Array],
    reference: PyTree,
    *,
    step_size: float | Array | Schedule,
    rho: float | Array = 0.001,
    epsilon: float | Array = 0.0,
    refresh: int = 10,
) -> Server:
    """Asynchronous SGD on the answers that agree with a trusted gradient.

    Args:
        num_workers: m (static).
        losses: per-example losses `(x f32[d], batch) -> f32[R]`.
        reference: the batch that the server trusts, leaves [R, ...].
        step_size: gamma, a number, a tracer or a schedule of the number of answers so far.
        rho: the weight of the penalty on the length of an answer.
        epsilon: the ascent that is tolerated.
        refresh: the number of answers for which a trusted gradient is used (static); the first
            is computed before the first score.

    Returns:
        A `Server` for m workers, whose x remains finite.

    Raises:
        InvalidConfig: if the step size is not positive, rho or epsilon is negative, `refresh`
            is below 1, or the reference has no examples.
    """
    for name, value in (("rho", rho), ("epsilon", epsilon)):
        if is_concrete(value):
            rule = f"zeno_pp needs a finite {name} >= 0: got {value}"
            require((value >= 0) & (value < float("inf")), rule)
    gamma_of = check_step_size("zeno_pp", step_size)

    def judge(answer: Array, trusted: Array, num_answers: Array) -> tuple[Array, Array, Array]:
        received, answer = answer, sanitize(answer)
        # Divided by its largest entry first: tiny squares round to 0, and a length that is too
        # short would make the scaled answer longer than v.
        largest = jnp.abs(answer).max()
        usable = (largest > _TINY) & jnp.isfinite(received).all()
        answer = answer / jnp.where(usable, largest, 1)
        limit, length = norm(trusted), norm(answer)
        answer = answer * (limit / jnp.maximum(length, 1))  # length >= 1 where usable

        gamma, weight, ascent = (
            jnp.asarray(number, answer.dtype)
            for number in (gamma_of(num_answers), rho, epsilon)
        )
        score = gamma * jnp.sum(trusted * answer) - weight * jnp.sum(answer**2)
        return usable & (limit > 0) & (score >= -gamma * ascent), gamma, answer

    return trusted_server("zeno_pp", num_workers, losses, reference, refresh, judge)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    trusted: int = 128,
    rho: float = 0.001,
    epsilon: float = 0.0,
    refresh: int = 10,
) -> tuple[Server, Worker]:
    """Gradients that agree with the server's own data.

    Args:
        step_size: gamma, the initial step size.
        trusted: R, the number of examples that the server has of its own, which no worker
            has: they are taken from the workers' shards, as many from each.
        rho: the weight of the penalty on the length of an answer.
        epsilon: the ascent that is tolerated.
        refresh: the number of answers for which a trusted gradient is used; the first is
            computed before the first score.
    """
    examples, worker = set_aside(problem, trusted, oracle)
    server = zeno_pp(
        problem.num_workers,
        problem.losses,
        examples,
        step_size=oracle.schedule(hyper["step_size"]),
        rho=rho,
        epsilon=epsilon,
        refresh=refresh,
    )
    return server, worker


METHOD = Method(build, step_size_presets(0.1))
