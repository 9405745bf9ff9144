"""Zeno++: asynchronous SGD that scores each answer on data that the server trusts.

With v the gradient of the loss on trusted examples, computed anew every 10 answers or so,
each answer g is scaled to the length of v and scored by the descent it promises:

    g <- g * ||v|| / ||g||
    if  gamma * <v, g> - rho * ||g||^2 >= -gamma * eps:   x <- x - gamma * g

gamma is the step size. However many workers lie, only what points roughly along v moves x,
and never further than gamma * ||v||: as good as the trusted data, and no better. An answer of
zeros, one with numbers that are not finite, and any answer while v = 0 is rejected.

The penalty rho * ||g||^2 takes the length after scaling, as in the paper, so it is
rho * ||v||^2 for everybody; the authors' code takes the length before.

References:
    Xie, Koyejo and Gupta, "Zeno++: Robust Fully Asynchronous SGD", ICML 2020; the authors'
    code: github.com/xcgoner/iclr2020_zeno_async.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, PyTree, Query, Schedule, Server
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, is_concrete, require, sanitize

_TINY = 1e-30  # an answer without a larger entry is one of zeros


class ZenoState(NamedTuple):
    """m workers, d parameters."""

    params: Array  # f32[d], x
    trusted: Array  # f32[d], v
    accepted: Array  # i32[m], answers of each worker
    heard: Array  # i32[], answers so far
    step: Array  # i32[], answers accepted so far


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
        step_size: gamma, number, tracer or schedule of the answers heard.
        rho: how much promised descent an answer must bring beyond none.
        epsilon: how much ascent is forgiven.
        refresh: answers per trusted gradient (static); the first comes before the first score.

    Returns:
        A `Server` for m workers, whose x stays a number.

    Raises:
        InvalidConfig: on a step size that is not positive, negative rho or epsilon, refresh < 1
            or a reference without examples.
    """
    m, every = num_workers, check_integer("zeno_pp", "refresh", refresh, 1)
    require(m > 0, f"zeno_pp needs at least one worker: got num_workers={m}")
    for name, value in (("rho", rho), ("epsilon", epsilon)):
        if is_concrete(value):
            rule = f"zeno_pp needs a finite {name} >= 0: got {value}"
            require((value >= 0) & (value < float("inf")), rule)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(reference)}
    rule = f"zeno_pp needs a reference of R > 0 examples, leaves [R, ...]: got R in {sizes}"
    require(len(sizes) == 1 and min(sizes) > (0,), rule)
    step_size = check_step_size("zeno_pp", step_size)

    def init(params, key=None):
        del key  # nothing to draw
        zero = jnp.zeros((), jnp.int32)
        accepted = jnp.zeros((m,), jnp.int32)
        return ZenoState(params, jnp.zeros_like(params), accepted, zero, zero)

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
        v = jax.lax.cond(due, measure, lambda params: state.trusted, state.params)

        # Divided by its largest entry first: tiny squares round to 0, and a length that is too
        # short would make the scaled answer longer than v.
        largest = jnp.abs(answer).max()
        usable = (largest > _TINY) & jnp.isfinite(report.value).all()
        answer = answer / jnp.where(usable, largest, 1)
        limit, length = jnp.linalg.norm(v), jnp.linalg.norm(answer)
        answer = answer * (limit / jnp.maximum(length, 1))  # length >= 1 where usable

        gamma = jnp.asarray(step_size(state.heard), answer.dtype)
        score = gamma * jnp.sum(v * answer) - rho * jnp.sum(answer**2)
        accept = present & usable & (limit > 0) & (score >= -gamma * epsilon)
        return ZenoState(
            params=state.params - jnp.where(accept, gamma, 0) * answer,
            trusted=v,
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
