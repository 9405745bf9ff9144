"""AFLGuard: asynchronous SGD that compares each answer with a gradient it trusts.

With g_s the gradient of the loss on trusted examples at the iterate x, each answer g is taken
if it is close to g_s in both direction and length:

    if  ||g - g_s|| <= lambda * ||g_s||:   x <- x - eta * g

However many workers are Byzantine, x moves by at most (1 + lambda) * eta * ||g_s||. Where g_s
is small beside the noise of honest answers, near an optimum, every answer is rejected.
lambda < 1 keeps answers within the half-space of g_s; lambda >= 1 lets an answer of zeros pass.

References:
    Fang, Liu, Gong and Bentley, "AFLGuard: Byzantine-robust Asynchronous Federated Learning",
    ACSAC 2022 (arXiv 2212.06325).
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
from farsign_jax.validation import check_positive, sanitize


def aflguard(
    num_workers: int,
    losses: Callable[[Array, PyTree], Array],
    reference: PyTree,
    *,
    step_size: float | Array | Schedule,
    lam: float | Array = 1.5,
    refresh: int = 1,
) -> Server:
    """Asynchronous SGD on the answers that are close to a trusted gradient.

    Args:
        num_workers: m (static).
        losses: per-example losses `(x f32[d], batch) -> f32[R]`.
        reference: the batch that the server trusts, leaves [R, ...].
        step_size: eta, a number, a tracer or a schedule of the number of answers so far.
        lam: lambda, the largest distance from the trusted gradient relative to its length.
        refresh: the number of answers for which a trusted gradient is used (static); with 1 it
            is always that of the current iterate.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6.

    Raises:
        InvalidConfig: if the step size or lambda is not positive, `refresh` is below 1, or the
            reference has no examples.
    """
    lam = check_positive("aflguard", "lam", lam)
    eta_of = check_step_size("aflguard", step_size)

    def judge(answer: Array, trusted: Array, num_answers: Array) -> tuple[Array, Array, Array]:
        answer = sanitize(answer)
        near = norm(answer - trusted) <= jnp.asarray(lam, answer.dtype) * norm(trusted)
        return near, jnp.asarray(eta_of(num_answers), answer.dtype), answer

    return trusted_server("aflguard", num_workers, losses, reference, refresh, judge)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    trusted: int = 100,
    lam: float = 1.5,
    refresh: int = 1,
) -> tuple[Server, Worker]:
    """Gradients that are near to that of the server's own data.

    Args:
        step_size: eta, the initial step size.
        trusted: R, the number of examples that the server has of its own, which no worker
            has: they are taken from the workers' shards, as many from each.
        lam: lambda, the largest distance from the trusted gradient relative to its length.
        refresh: the number of answers for which a trusted gradient is used; with 1 it is
            always that of the current iterate.
    """
    examples, worker = set_aside(problem, trusted, oracle)
    server = aflguard(
        problem.num_workers,
        problem.losses,
        examples,
        step_size=oracle.schedule(hyper["step_size"]),
        lam=lam,
        refresh=refresh,
    )
    return server, worker


METHOD = Method(build, step_size_presets(0.2))
