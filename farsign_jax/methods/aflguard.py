"""AFLGuard: asynchronous SGD that compares each answer with a gradient it trusts.

With g_s the gradient of the loss on trusted examples at the iterate x, each answer g is taken
if it is close to g_s in both direction and length:

    if  ||g - g_s|| <= lambda * ||g_s||:   x <- x - eta * g

However many workers lie, x moves at most (1 + lambda) * eta * ||g_s||. Where g_s is small
beside the noise of honest answers, near an optimum, everybody is rejected; lambda < 1 keeps
answers within the half-space of g_s, lambda >= 1 lets an answer of zeros pass.

References:
    Fang, Liu, Gong and Bentley, "AFLGuard: Byzantine-robust Asynchronous Federated Learning",
    ACSAC 2022 (arXiv 2212.06325).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, PyTree, Query, Schedule, Server
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, check_positive, require, sanitize


class AFLGuardState(NamedTuple):
    """m workers, d parameters."""

    params: Array  # f32[d], x
    trusted: Array  # f32[d], g_s
    accepted: Array  # i32[m], answers of each worker
    heard: Array  # i32[], answers so far
    step: Array  # i32[], answers accepted so far


def aflguard(
    num_workers: int,
    losses: Callable[[Array, PyTree], Array],
    reference: PyTree,
    *,
    step_size: float | Array | Schedule,
    lam: float | Array = 1.5,
    refresh: int = 1,
) -> Server:
    """Asynchronous SGD on the answers close to a trusted gradient.

    Args:
        num_workers: m (static).
        losses: per-example losses `(x f32[d], batch) -> f32[R]`.
        reference: the batch that the server trusts, leaves [R, ...].
        step_size: eta, number, tracer or schedule of the answers heard.
        lam: lambda, the largest relative distance from the trusted gradient.
        refresh: answers per trusted gradient (static); 1, it is never stale.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6.

    Raises:
        InvalidConfig: on a step size or lambda that is not positive, refresh < 1 or a reference
            without examples.
    """
    m, every = num_workers, check_integer("aflguard", "refresh", refresh, 1)
    require(m > 0, f"aflguard needs at least one worker: got num_workers={m}")
    lam = check_positive("aflguard", "lam", lam)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(reference)}
    rule = f"aflguard needs a reference of R > 0 examples, leaves [R, ...]: got R in {sizes}"
    require(len(sizes) == 1 and min(sizes) > (0,), rule)
    step_size = check_step_size("aflguard", step_size)

    def init(params, key=None):
        del key  # nothing to draw
        zero = jnp.zeros((), jnp.int32)
        accepted = jnp.zeros((m,), jnp.int32)
        return AFLGuardState(params, jnp.zeros_like(params), accepted, zero, zero)

    def query(state, worker, key):
        del key
        return Query(state.params, worker, (), state.step)

    def measure(params):
        return sanitize(jax.grad(lambda x: losses(x, reference).mean())(params))

    def hear(state, report):
        """One arrival; report without the leading axis."""
        i, answer = report.worker, sanitize(report.value)
        present = i < m
        due = present & (state.heard % every == 0)
        trusted = jax.lax.cond(due, measure, lambda params: state.trusted, state.params)
        near = jnp.linalg.norm(answer - trusted) <= lam * jnp.linalg.norm(trusted)
        accept = present & near
        eta = jnp.asarray(step_size(state.heard), answer.dtype)
        return AFLGuardState(
            params=state.params - jnp.where(accept, eta, 0) * answer,
            trusted=trusted,
            accepted=state.accepted.at[i].add(accept.astype(jnp.int32), mode="drop"),
            heard=state.heard + present.astype(jnp.int32),
            step=state.step + accept.astype(jnp.int32),
        )

    def update(state, reports):
        shape, d = reports.value.shape[1:], state.params.shape
        require(shape == d, f"an answer is f32{list(d)}: got {list(shape)}")
        if len(reports.worker) == 1:
            return hear(state, jax.tree.map(lambda a: a[0], reports)), {}
        return jax.lax.scan(lambda s, r: (hear(s, r), None), state, reports)[0], {}

    return Server(init, query, update, m, scheduled=("heard",))
