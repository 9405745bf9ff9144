"""Kardam: asynchronous SGD behind a Lipschitz filter and a frequency filter.

Worker p answers g, computed at x_s, which is tau updates old. With (g_p, x_p) its answer
before and (g', x') the answer accepted last and the iterate it was applied to:

    K_p <- (K_p, ||g - g_p|| / ||x_s - x_p||)             the newest 25; none where x_s = x_p
    Lipschitz filter:  ||g - g'|| / ||x - x'||  <=  quantile_{(m-f)/m} {max K_w}
    frequency filter:  the 2f answers accepted last and this one are from different workers
    if both let g pass:   x <- x - eta * Lambda(tau) * g

An honest gradient changes no faster than the loss allows, and once all workers have
coefficients, f Byzantine ones cannot push the quantile above what some honest worker has shown.
K_p, g_p and x_p follow every answer, accepted or not, before it is judged. x_s is what the
server asked about, never what the worker claims.

The quantile of n coefficients is the smallest of them such that a fraction of at least (m-f)/m
of the n is not larger: in ascending order, number ceil((m-f) n / m). While there are none, or
where x and x' are less than 1e-12 apart, every answer passes.

If the Lipschitz filter alone has turned down m answers since one was accepted, the next one
that the frequency filter lets pass is accepted: else a sudden change would stop x for ever.
What the frequency filter turns down does not count. A Byzantine worker that answers m times
while no other is accepted can still force an answer through.

A sign-flipped gradient may pass the Lipschitz filter: convergence is to a neighbourhood.

References:
    Damaskinos, El Mhamdi, Guerraoui, Patra and Taziki, "Asynchronous Byzantine Machine
    Learning (the case of SGD)", ICML 2018; the window of 25, the way out of a deadlock and
    dampening exp(-0.2 tau) are from the authors' code (github.com/LPD-EPFL/kardam), with
    (m-f)/m in place of its fixed 2/3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array, Key, Problem, Query, Report, Schedule, Server, Worker
from farsign_jax.methods.gradient_server import check_gradients, one_by_one
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.methods.typed import norm
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, lookup, require, sanitize


def _inverse(tau: Array) -> Array:
    return 1 / (1 + tau)


def _exponential(tau: Array) -> Array:
    return jnp.exp(-0.2 * tau)


_DAMPENING: dict[str, Callable[[Array], Array]] = {
    "inverse": _inverse,
    "exponential": _exponential,
    "none": jnp.ones_like,
}


_CLOSE = 1e-12  # iterates this close to each other are the same


class KardamState(NamedTuple):
    """The state for m workers, f of them Byzantine, d parameters and H coefficients each."""

    params: Array  # f32[d], x
    before: Array  # f32[d], x'; zero, as the next field is, until an answer is accepted
    last: Array  # f32[d], g'
    answers: Array  # f32[m, d], g_p, the last answer of each worker
    asked_at: Array  # f32[m, d], x_p, where it was computed
    known: Array  # bool[m], whether a worker has answered
    coefficients: Array  # f32[m, H], K_p, newest first; -1 where there is none yet
    recent: Array  # i32[2f], the workers accepted last, newest last; -1 stands for none
    rejected: Array  # i32[], by the Lipschitz filter alone since one was accepted
    accepted: Array  # i32[m], the number of accepted answers of each worker
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], answers accepted so far


def kardam(
    num_workers: int,
    *,
    byzantine: int,
    step_size: float | Array | Schedule,
    frequency: str = "strict",
    dampening: str = "inverse",
    history: int = 25,
) -> Server:
    """Asynchronous SGD that accepts a gradient if it changes no faster than most do.

    Args:
        num_workers: m (static).
        byzantine: f (static), the number of Byzantine workers to expect; 0 leaves no frequency
            filter.
        step_size: eta, a number, a tracer or a schedule of the number of answers so far.
        frequency: what must hold of the 2f answers accepted last and the candidate: "strict",
            all are from different workers, the paper's rule that no f workers have more than f
            of them; "count", no more than f are from the candidate's worker; "none", no filter.
        dampening: Lambda, "inverse" 1 / (1 + tau), "exponential" exp(-0.2 tau) or "none".
        history: H, the number of coefficients kept of each worker.

    Returns:
        A `Server` for m workers. Its directions are the iterates that it asks about.
        Non-finite numbers count as 0 and entries are clipped to 1e6.

    Raises:
        InvalidConfig: if m < 3f + 1, f < 0, the filter or dampening is unknown, the history is
            shorter than 1, or the step size is not positive.
    """
    m, f = num_workers, check_integer("kardam", "byzantine", byzantine, 0)
    require(m > 0, f"kardam needs at least one worker: got num_workers={m}")
    require(m >= 3 * f + 1, f"kardam needs m >= 3f + 1: got m={m}, f={f}")
    size = check_integer("kardam", "history", history, 1)
    most = {"strict": 1, "count": max(f, 1), "none": 2 * f + 1}
    most = lookup("frequency filter", frequency, most)  # of 2f + 1 answers from one worker
    dampen = lookup("dampening", dampening, _DAMPENING)
    eta_of = check_step_size("kardam", step_size)

    def init(params: Array, key: Key | None = None) -> KardamState:
        del key  # nothing is drawn
        zero, table = jnp.zeros((), jnp.int32), jnp.zeros((m, *params.shape), params.dtype)
        return KardamState(
            params=params,
            before=jnp.zeros_like(params),
            last=jnp.zeros_like(params),
            answers=table,
            asked_at=table,
            known=jnp.zeros((m,), bool),
            coefficients=jnp.full((m, size), -1, params.dtype),
            recent=jnp.full((2 * f,), -1, jnp.int32),
            rejected=zero,
            accepted=jnp.zeros((m,), jnp.int32),
            num_answers=zero,
            step=zero,
        )

    def query(state: KardamState, worker: Array, key: Key) -> Query:
        del key
        return Query(state.params, worker, state.params, state.step)

    def receive(state: KardamState, report: Report) -> KardamState:
        i, x_s, answer = report.worker, report.direction, sanitize(report.value)
        present, own = i < m, jnp.minimum(i, m - 1)

        change = norm(answer - state.answers[own])
        far = norm(x_s - state.asked_at[own])
        # Always i; but where to write now depends on what was read, and XLA need not copy both
        # tables for every answer to keep the order (on a CPU 10 ms for 100 x 100,000).
        write = jnp.where(change + far >= 0, i, m)
        row = state.coefficients[own]
        newer = jnp.roll(row, 1).at[0].set(change / jnp.maximum(far, _CLOSE))
        row = jnp.where(state.known[own] & (far > _CLOSE), newer, row)
        coefficients = state.coefficients.at[i].set(row, mode="drop")

        largest = coefficients.max(axis=1)
        some = largest >= 0
        place = -(-(m - f) * some.sum(dtype=jnp.int32) // m) - 1
        limit = jnp.sort(jnp.where(some, largest, jnp.inf))[jnp.maximum(place, 0)]
        moved = norm(state.params - state.before)
        growth = norm(answer - state.last) / jnp.maximum(moved, _CLOSE)
        smooth = (moved <= _CLOSE) | (growth <= limit)

        often = (state.recent == i).sum(dtype=jnp.int32) + 1
        candidate = present & (often <= most)
        accept = candidate & (smooth | (state.rejected >= m))

        tau = (state.step - report.version).astype(answer.dtype)
        eta = jnp.asarray(eta_of(state.num_answers), answer.dtype) * dampen(tau)
        return KardamState(
            params=state.params - jnp.where(accept, eta, 0) * answer,
            before=jnp.where(accept, state.params, state.before),
            last=jnp.where(accept, answer, state.last),
            answers=state.answers.at[write].set(answer, mode="drop"),
            asked_at=state.asked_at.at[write].set(x_s, mode="drop"),
            known=state.known.at[i].set(True, mode="drop"),
            coefficients=coefficients,
            recent=jnp.where(accept, jnp.append(state.recent, i)[1:], state.recent),
            rejected=jnp.where(accept, 0, state.rejected + candidate.astype(jnp.int32)),
            accepted=state.accepted.at[i].add(accept.astype(jnp.int32), mode="drop"),
            num_answers=state.num_answers + present.astype(jnp.int32),
            step=state.step + accept.astype(jnp.int32),
        )

    def update(state: KardamState, reports: Report) -> tuple[KardamState, dict[str, Array]]:
        check_gradients(reports, state.params)
        return one_by_one(receive, state, reports), {}

    scheduled = ("known", "num_answers")
    return Server(init, query, update, m, scheduled=scheduled, comparable=True)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    byzantine: int = 5,
    frequency: str = "strict",
    dampening: str = "inverse",
) -> tuple[Server, Worker]:
    """Gradients that change no faster than most do, and come no oftener.

    Args:
        step_size: eta, the initial step size.
        byzantine: f, the number of Byzantine workers to expect; 0 leaves no frequency filter.
        frequency: what must hold of the 2f answers accepted last and the candidate: "strict",
            all are from different workers, the paper's rule that no f workers have more than f
            of them; "count", no more than f are from the candidate's worker; "none", no filter.
        dampening: Lambda, "inverse" 1 / (1 + tau), "exponential" exp(-0.2 tau) or "none".
    """
    server = kardam(
        problem.num_workers,
        byzantine=byzantine,
        step_size=oracle.schedule(hyper["step_size"]),
        frequency=frequency,
        dampening=dampening,
    )
    return server, gradient_worker(problem, oracle)


METHOD = Method(build, step_size_presets(0.2))
