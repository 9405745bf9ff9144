"""BASGD: asynchronous descent with buffers and a robust aggregate of them.

Worker i belongs to buffer b(i), worker mod B unless told otherwise. On the arrival of an
answer g, with c_b answers in its buffer since the last update:

    c_b <- c_b + 1;   h_b <- (c_b - 1)/c_b * h_b + 1/c_b * g             mean of its answers
    if no buffer is empty:   x <- x - eta * Aggr(h_0, ..., h_{B-1});   c <- 0

Nobody waits; q liars spoil at most q buffers, so B >= 2q + 1 leaves a majority of them clean.
A buffer whose workers are all silent stops every update. With the workers of CYBER-0
(`oracles.sphere_two_point`) it is the baseline of the FAR-SIGN paper; with stochastic
gradients, BASGD itself.

References:
    Yang and Li, "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021,
    Algorithm 2; Paul et al., arXiv 2605.09337, Section 4; for `message="scalar"`: Egger,
    Bakshi and Bitar, "Byzantine-Resilient Zero-Order Optimization ...", arXiv 2502.00193.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Query, Schedule, Server
from farsign_jax.directions.unit_sphere import Sphere
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, require, sanitize


class BufferedState(NamedTuple):
    """B buffers of p numbers: p = d, or k where scalars are aggregated."""

    params: Array  # f32[d], x
    buffers: Array  # f32[B, p], h; what is left from before the last update counts for nothing
    counts: Array  # i32[B], answers in each buffer since the last update
    aggregate: Array  # f32[p], the last one, for rules that start from it
    heard: Array  # i32[], answers so far
    step: Array  # i32[], updates applied so far
    seed: Array  # u32[2], of what the server draws itself


def buffered(
    num_workers: int,
    aggregator: Callable[..., Array],
    *,
    buffers: int,
    step_size: float | Array | Schedule,
    directions: Sphere | None = None,
    message: str = "dense",
    slots: Any = None,
    byzantine: int | None = None,
) -> Server:
    """Asynchronous descent along a robust aggregate of B buffers.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`, `f32[B, p] -> f32[p]`.
        buffers: B (static).
        step_size: eta, number, tracer or schedule of the *answers* heard, not of the updates,
            so that methods that update more or less often decay alike.
        directions: None, workers send gradients f32[d]; a `Sphere`, they are asked about k
            directions drawn from a seed.
        message: "dense", answers are f32[d], rebuilt by the worker, which has directions of
            its own; "scalar", they are f32[k] along directions that all share until the next
            update, the rule works in R^k, and the server rebuilds. A scalar answer about
            directions of an earlier update is not comparable, and dropped.
        slots: i32[m], the buffer of each worker; None, worker mod B.
        byzantine: q, if given, is checked against B.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to
        1e6, so that buffers stay numbers.

    Raises:
        InvalidConfig: on B not in 1..m, B < 2q + 1, a buffer without workers, a step size that
            is not positive, or a rule that does not take B rows.
    """
    m, count = num_workers, check_integer("buffered", "buffers", buffers, 1)
    require(m > 0, f"buffered needs at least one worker: got num_workers={m}")
    require(count <= m, f"need buffers <= workers: got buffers={count}, workers={m}")
    if byzantine is not None:
        rule = f"need buffers >= 2q + 1: got buffers={count}, q={byzantine}"
        require(count >= 2 * byzantine + 1, rule)
    require(message in ("dense", "scalar"), f"message is 'dense' or 'scalar': got {message!r}")
    scalar = message == "scalar"
    require(directions is not None or not scalar, "scalar messages need directions")
    step_size = check_step_size("buffered", step_size)
    table = np.arange(m) % count if slots is None else np.asarray(slots)
    rule = f"slots are m={m} whole numbers 0..{count - 1}: got {slots}"
    require(table.shape == (m,) and np.issubdtype(table.dtype, np.integer), rule)
    require(table.min() >= 0 and table.max() < count, rule)
    empty = sorted(set(range(count)) - set(table.tolist()))
    require(not empty, f"every buffer needs a worker: none is in {empty}")
    jax.eval_shape(aggregator, jax.ShapeDtypeStruct((count, 1), jnp.float32))

    def init(params, key=None):
        d = params.shape[-1]
        size = d if directions is None else directions.dim
        require(size == d, f"the directions are for d={size}: got d={d}")
        p = directions.k if directions is not None and scalar else d
        zero = jnp.zeros((), jnp.int32)
        return BufferedState(
            params=params,
            buffers=jnp.zeros((count, p), params.dtype),
            counts=jnp.zeros((count,), jnp.int32),
            aggregate=jnp.zeros((p,), params.dtype),
            heard=zero,
            step=zero,
            seed=jax.random.bits(jax.random.key(0) if key is None else key, (2,), jnp.uint32),
        )

    def query(state, worker, key):
        if directions is None:
            direction: Any = ()
        else:
            direction = directions.draw(_own(state.seed, state.step) if scalar else key)
        return Query(state.params, worker, direction, state.step)

    def _own(seed, step):
        """The server's own key for the update to come."""
        return jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), step)

    def hear(state, report):
        """One arrival; report without the leading axis."""
        arrived = report.worker < m
        present = arrived & (report.version == state.step) if scalar else arrived
        b = jnp.asarray(table, jnp.int32)[jnp.minimum(report.worker, m - 1)]
        answer = sanitize(report.value)
        share = 1 / (state.counts[b] + 1).astype(answer.dtype)
        old = state.buffers[b]
        # The first answer after an update has share 1: no need to zero the buffers.
        row = jnp.where(present, (1 - share) * old + share * answer, old)
        rows = state.buffers.at[b].set(row)
        counts = state.counts.at[b].add(present.astype(jnp.int32))
        full = jnp.all(counts > 0)

        def combine(rows, last, step):
            key = _own(state.seed, step)
            aggregate = aggregator(rows, start=last, key=jax.random.fold_in(key, 1))
            if directions is None or not scalar:
                return aggregate, aggregate
            return aggregate, directions.rebuild(directions.draw(key), aggregate)

        def wait(rows, last, step):
            return last, jnp.zeros_like(state.params)

        args = (rows, state.aggregate, state.step)
        aggregate, direction = jax.lax.cond(full, combine, wait, *args)
        eta = jnp.asarray(step_size(state.heard), state.params.dtype)
        return BufferedState(
            params=state.params - eta * direction,
            buffers=rows,
            counts=jnp.where(full, 0, counts),
            aggregate=aggregate,
            heard=state.heard + arrived.astype(jnp.int32),
            step=state.step + full.astype(jnp.int32),
            seed=state.seed,
        )

    def update(state, reports):
        shape, p = reports.value.shape[1:], state.buffers.shape[-1:]
        require(shape == p, f"an answer is f32{list(p)} for this server: got {list(shape)}")
        if len(reports.worker) == 1:
            return hear(state, jax.tree.map(lambda a: a[0], reports)), {}
        return jax.lax.scan(lambda s, r: (hear(s, r), None), state, reports)[0], {}

    scheduled = ("counts", "heard", "step", "seed")
    return Server(init, query, update, m, scheduled=scheduled, comparable=scalar)
