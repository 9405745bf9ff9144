"""Asynchronous descent with buffers and a robust aggregate of them, for BASGD and CYBER-0.

Worker i belongs to buffer b(i), by default i mod B. On the arrival of an answer g, with c_b
answers in its buffer since the last update:

    c_b <- c_b + 1;   h_b <- (c_b - 1)/c_b * h_b + 1/c_b * g             mean of its answers
    if no buffer is empty:   x <- x - eta * Aggr(h_0, ..., h_{B-1});   c <- 0

No worker waits for another. q Byzantine workers spoil at most q buffers, so B >= 2q + 1 leaves
a majority of them clean. A buffer whose workers are all silent stops every update, unless
workers change their buffers (`reassignment`). With the workers of CYBER-0
(`oracles.random_two_point`) it is the baseline of the FAR-SIGN paper; with stochastic gradients
it is BASGD itself.

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

from farsign_jax.base import Array, Key, PyTree, Query, Report, Schedule, Server
from farsign_jax.directions.random_directions import RandomDirections
from farsign_jax.methods.gradient_server import one_by_one
from farsign_jax.methods.reassignment import first_assignment, reassigned
from farsign_jax.methods.typed import cond, rule_key, seed_of, step_key
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, require, sanitize


class BufferedState(NamedTuple):
    """The state for B buffers of p numbers: p = d, or k where scalars are aggregated."""

    params: Array  # f32[d], x
    buffers: Array  # f32[B, p], h; a buffer whose count is 0 is empty, whatever its numbers
    counts: Array  # i32[B], answers in each buffer since the last update
    aggregate: Array  # f32[p], the last one, for rules that start from it
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], updates applied so far
    seed: Array  # u32[2], the seed of what the server itself draws
    assignment: PyTree = ()  # an `Assignment`; () if workers keep their buffers


def buffered(
    num_workers: int,
    aggregator: Callable[..., Array],
    *,
    buffers: int,
    step_size: float | Array | Schedule,
    directions: RandomDirections | None = None,
    message: str = "dense",
    slots: Any = None,
    byzantine: int | None = None,
    reassign_after: int = 0,
) -> Server:
    """Asynchronous descent along a robust aggregate of B buffers.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`, `f32[B, p] -> f32[p]`.
        buffers: B (static).
        step_size: eta, a number, a tracer or a schedule of the number of *answers* so far, not
            of updates, so that methods that update more or less often decay alike.
        directions: None if workers send gradients f32[d]; with `RandomDirections` they
            are asked about k directions that are drawn from a seed.
        message: "dense" if answers are f32[d], rebuilt by the worker, which has directions of
            its own. With "scalar" they are f32[k] along directions that all workers share until
            the next update, the rule works in R^k, and the server rebuilds. A scalar answer
            about directions of an earlier update is not comparable, and is dropped.
        slots: i32[m], the buffer of each worker; by default worker mod B.
        byzantine: q; if it is given, B is checked against it.
        reassign_after: W (static): if a buffer has been empty for more than W answers, it is
            given a worker of another one, as in `reassignment`; 0 if workers keep theirs.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6,
        so that buffers remain finite.

    Raises:
        InvalidConfig: if B is not in 1..m, B < 2q + 1, a buffer has no worker, the step size is
            not positive, W < 0, or the rule does not take B rows.
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
    eta_of = check_step_size("buffered", step_size)
    table = np.arange(m) % count if slots is None else np.asarray(slots)
    rule = f"slots are m={m} whole numbers 0..{count - 1}: got {slots}"
    require(table.shape == (m,) and np.issubdtype(table.dtype, np.integer), rule)
    require(table.min() >= 0 and table.max() < count, rule)
    empty = sorted(set(range(count)) - set(table.tolist()))
    require(not empty, f"every buffer needs a worker: none is in {empty}")
    window = check_integer("buffered", "reassign_after", reassign_after, 0)
    require(window < 2**31, f"buffered needs reassign_after < 2^31: got {window}")
    # Wide enough for a rule that needs several columns: d is not known here.
    rows = jax.ShapeDtypeStruct((count, 2**20), jnp.float32)
    jax.eval_shape(aggregator, rows)  # pyright: ignore

    def init(params: Array, key: Key | None = None) -> BufferedState:
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
            num_answers=zero,
            step=zero,
            seed=seed_of(key),
            assignment=first_assignment(table, count) if window else (),
        )

    def query(state: BufferedState, worker: Array, key: Key) -> Query:
        if directions is None:
            direction: Any = ()
        else:
            direction = directions.draw(step_key(state.seed, state.step) if scalar else key)
        return Query(state.params, worker, direction, state.step)

    def receive(state: BufferedState, report: Report) -> BufferedState:
        arrived = report.worker < m
        present = arrived & (report.version == state.step) if scalar else arrived
        slots = state.assignment.slots if window else jnp.asarray(table, jnp.int32)
        b = slots[jnp.minimum(report.worker, m - 1)]
        answer = sanitize(report.value)
        weight = 1 / (state.counts[b] + 1).astype(answer.dtype)
        old = state.buffers[b]
        # The first answer after an update has weight 1: the buffers need not be zeroed.
        row = jnp.where(present, (1 - weight) * old + weight * answer, old)
        rows = state.buffers.at[b].set(row)
        counts = state.counts.at[b].add(present.astype(jnp.int32))
        full = jnp.all(counts > 0)

        def combine(rows: Array, last: Array, step: Array) -> tuple[Array, Array]:
            aggregate = aggregator(rows, start=last, key=rule_key(state.seed, step))
            if directions is None or not scalar:
                return aggregate, aggregate
            key = step_key(state.seed, step)
            return aggregate, directions.rebuild(directions.draw(key), aggregate)

        def wait(rows: Array, last: Array, step: Array) -> tuple[Array, Array]:
            return last, jnp.zeros_like(state.params)

        args = (rows, state.aggregate, state.step)
        aggregate, direction = cond(full, combine, wait, *args)
        eta = jnp.asarray(eta_of(state.num_answers), state.params.dtype)
        after = BufferedState(
            params=state.params - eta * direction,
            buffers=rows,
            counts=jnp.where(full, 0, counts),
            aggregate=aggregate,
            num_answers=state.num_answers + arrived.astype(jnp.int32),
            step=state.step + full.astype(jnp.int32),
            seed=state.seed,
            assignment=state.assignment,
        )
        if not window:
            return after
        arrival = (report.worker, present, counts, full, after.num_answers)
        assignment, counts = reassigned(state.assignment, *arrival, window)
        return after._replace(counts=counts, assignment=assignment)

    def update(state: BufferedState, reports: Report) -> tuple[BufferedState, dict[str, Array]]:
        shape, p = reports.value.shape[1:], state.buffers.shape[-1:]
        require(shape == p, f"an answer is f32{list(p)} for this server: got {list(shape)}")
        return one_by_one(receive, state, reports), {}

    scheduled = ("counts", "num_answers", "step", "seed", "assignment")
    return Server(init, query, update, m, scheduled=scheduled, comparable=scalar)
