"""Asynchronous SGD that judges every answer by data that the server trusts.

This is what `aflguard` and `zeno_pp` share: the trusted examples, which no worker has, the
gradient g_s of the loss on them, computed anew every so many answers, and the bookkeeping of
what was accepted. What they do not share is the rule that judges an answer.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Key, Problem, PyTree, Query, Report, Server, Shard, Worker
from farsign_jax.examples import read
from farsign_jax.methods.gradient_server import ask_for_gradient, check_gradients, one_by_one
from farsign_jax.methods.method import OracleConfig, gradient_worker
from farsign_jax.methods.typed import cond, grad
from farsign_jax.validation import check_integer, require, sanitize


class TrustedState(NamedTuple):
    """The state for m workers and d parameters."""

    params: Array  # f32[d], x
    trusted: Array  # f32[d], g_s
    accepted: Array  # i32[m], the number of accepted answers of each worker
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], answers accepted so far


class Judge(Protocol):
    """The rule by which a method judges an answer."""

    def __call__(
        self, answer: Array, trusted: Array, num_answers: Array
    ) -> tuple[Array, Array, Array]:
        """Judges one answer.

        Args:
            answer: f32[d], as it was received.
            trusted: f32[d], g_s.
            num_answers: i32[], answers before this one.

        Returns:
            Whether it is accepted, bool[]; the step size; and the direction f32[d], finite, by
            which x then moves back: x <- x - step size * direction.
        """
        ...


def trusted_server(
    method: str,
    num_workers: int,
    losses: Callable[[Array, PyTree], Array],
    reference: PyTree,
    refresh: int,
    judge: Judge,
) -> Server:
    """A server that moves x along the answers that a rule accepts.

    Args:
        method: the name of the method, for error messages.
        num_workers: m (static).
        losses: per-example losses `(x f32[d], batch) -> f32[R]`.
        reference: the batch that the server trusts, leaves [R, ...].
        refresh: the number of answers for which a trusted gradient is used (static).
        judge: the rule.

    Raises:
        InvalidConfig: if there are no workers, `refresh` is below 1, or the reference has no
            examples.
    """
    m, every = num_workers, check_integer(method, "refresh", refresh, 1)
    require(m > 0, f"{method} needs at least one worker: got num_workers={m}")
    gradient = trusted_gradient(method, losses, reference)

    def init(params: Array, key: Key | None = None) -> TrustedState:
        del key  # nothing is drawn
        zero = jnp.zeros((), jnp.int32)
        accepted = jnp.zeros((m,), jnp.int32)
        return TrustedState(params, jnp.zeros_like(params), accepted, zero, zero)

    def receive(state: TrustedState, report: Report) -> TrustedState:
        i = report.worker
        present = i < m
        due = present & (state.num_answers % every == 0)

        def keep(params: Array) -> Array:
            return state.trusted

        trusted = cond(due, gradient, keep, state.params)
        good, step_size, direction = judge(report.value, trusted, state.num_answers)
        accept = present & good
        return TrustedState(
            params=state.params - jnp.where(accept, step_size, 0) * direction,
            trusted=trusted,
            accepted=state.accepted.at[i].add(accept.astype(jnp.int32), mode="drop"),
            num_answers=state.num_answers + present.astype(jnp.int32),
            step=state.step + accept.astype(jnp.int32),
        )

    def update(state: TrustedState, reports: Report) -> tuple[TrustedState, dict[str, Array]]:
        check_gradients(reports, state.params)
        return one_by_one(receive, state, reports), {}

    return Server(init, ask_for_gradient, update, m, scheduled=("num_answers",))


def set_aside(problem: Problem, count: int, oracle: OracleConfig) -> tuple[PyTree, Worker]:
    """Takes the server's own examples from the workers: the first ones of each, as many of all.

    The partition `unbalanced` gives some workers an example twice; they may keep the second.

    Returns:
        The examples of the server, leaves [count, ...], and an honest worker that answers with
        stochastic gradients on the remaining examples of its shard.

    Raises:
        InvalidConfig: if `count` is not between 1 and the number of examples of all workers.
    """
    m, most = problem.num_workers, problem.num_workers * problem.rows.shape[-1]
    rule = f"the server needs 1 <= trusted <= {most} examples of its own: got {count}"
    require(1 <= count <= most, rule)
    each = -(-count // m)
    rows = problem.rows[:, :each].T.reshape(-1)[:count]
    honest = gradient_worker(problem, oracle)

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        rest = shard._replace(rows=shard.rows[each:], size=shard.size - each)
        return honest.respond(state, query, rest, key)

    return read(problem.data, rows), honest._replace(respond=respond, left_out=each)


def trusted_gradient(
    method: str, losses: Callable[[Array, PyTree], Array], reference: PyTree
) -> Callable[[Array], Array]:
    """Returns the function from x f32[d] to the sanitised gradient of the mean trusted loss.

    Args:
        method: the name of the method, for error messages.
        losses: per-example losses `(x f32[d], batch) -> f32[R]`.
        reference: the batch that the server trusts, leaves [R, ...].

    Raises:
        InvalidConfig: if the reference has no examples, or leaves of several lengths.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(reference)}
    rule = f"{method} needs a reference of R > 0 examples, leaves [R, ...]: got R in {sizes}"
    require(len(sizes) == 1 and min(sizes) > (0,), rule)

    def mean_loss(x: Array) -> Array:
        return losses(x, reference).mean()

    def gradient(params: Array) -> Array:
        return sanitize(grad(mean_loss, params))

    return gradient
