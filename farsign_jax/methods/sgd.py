"""Synchronous SGD with a robust aggregate.

In every round the workers of a set S are asked at the same x, and the server waits for their
stochastic gradients g_i:

    x <- x - eta_n * Aggr({g_i : i in S})

or, if workers minimise a sum and the server has a regulariser f_0 of its own,

    x <- x - eta_n * (scale * Aggr({g_i : i in S}) + grad f_0(x))

One round is one event. S may be all workers, a sample of them, or empty, in which case nothing
happens. A synchronous method waits for the slowest worker of S; in return all answers are
comparable, and the rule has to tolerate only the Byzantine workers in S.

References:
    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018, Algorithm 1 (median, trimmed mean); Blanchard et al., "Machine Learning with
    Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017 (Krum).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax import aggregators
from farsign_jax.aggregators.row_ops import number
from farsign_jax.base import Array, Key, Problem, Report, Schedule, Server, Worker
from farsign_jax.directions.random_directions import RandomDirections
from farsign_jax.methods.gradient_server import (
    ask_along,
    ask_for_gradient,
    check_gradients,
)
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.methods.typed import cond, rule_key, seed_of
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


class SGDState(NamedTuple):
    """The state for d parameters."""

    params: Array  # f32[d], x
    aggregate: Array  # f32[d], the last one, for rules that start from it
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far with at least one answer
    seed: Array  # u32[2], the seed of what rules draw


def sgd(
    num_workers: int,
    aggregator: Callable[..., Array],
    *,
    step_size: float | Array | Schedule,
    scale: float | Array = 1.0,
    weight_decay: float | Array = 0.0,
    by_rounds: bool = False,
) -> Server:
    """Synchronous SGD along a robust aggregate of the answers of each round.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`. It is given s rows, as many as an event has slots,
            and a mask of those that are present. A rule that does not take s rows at all is
            refused when `update` is traced.
        step_size: eta, a number, a tracer or a schedule of the number of *answers* before the
            round, so that methods that update more or less often decay alike.
        scale: the factor > 0 of the aggregate: m, if the sum of m losses is minimised.
        weight_decay: w >= 0 of the regulariser f_0(x) = w |x|^2 / 2.
        by_rounds: whether the step size is a schedule of the number of *rounds* before.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and entries are clipped to 1e6
        before the rule is applied.

    Raises:
        InvalidConfig: if the step size or `scale` is not positive, or `weight_decay` < 0.
    """
    m = num_workers
    require(m > 0, f"sgd needs at least one worker: got num_workers={m}")
    require(scale > 0, f"sgd needs scale > 0: got {scale}")
    require(weight_decay >= 0, f"sgd needs weight_decay >= 0: got {weight_decay}")
    eta_of = check_step_size("sgd", step_size)

    def init(params: Array, key: Key | None = None) -> SGDState:
        zero = jnp.zeros((), jnp.int32)
        return SGDState(
            params=params,
            aggregate=jnp.zeros_like(params),
            num_answers=zero,
            step=zero,
            seed=seed_of(key),
        )

    def update(state: SGDState, reports: Report) -> tuple[SGDState, dict[str, Array]]:
        check_gradients(reports, state.params)
        present = reports.worker < m
        count = number(present)
        not_empty = count > 0

        def combine(rows: Array, present: Array, last: Array, step: Array) -> Array:
            key = rule_key(state.seed, step)
            return aggregator(rows, mask=present, start=last, key=key)

        def keep(rows: Array, present: Array, last: Array, step: Array) -> Array:
            return last

        # The mask is an argument of the branch, so that a rule never knows it when it is
        # traced: a round that lacks answers breaks no precondition, not even outside `jit`.
        args = (sanitize(reports.value), present, state.aggregate, state.step)
        aggregate = cond(not_empty, combine, keep, *args)
        before = state.step if by_rounds else state.num_answers
        eta, factor, decay = (
            jnp.asarray(number, state.params.dtype)
            for number in (eta_of(before), scale, weight_decay)
        )
        along = factor * aggregate + decay * state.params
        state = SGDState(
            params=jnp.where(not_empty, state.params - eta * along, state.params),
            aggregate=aggregate,
            num_answers=state.num_answers + count,
            step=state.step + not_empty.astype(jnp.int32),
            seed=state.seed,
        )
        return state, {}

    scheduled = ("num_answers", "step", "seed")
    return Server(init, ask_for_gradient, update, m, scheduled=scheduled, in_rounds=True)


def mean_of_estimates(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    directions: RandomDirections | None = None,
) -> Server:
    """Returns `sgd` along the mean, for methods whose step sizes go by rounds.

    Args:
        num_workers: m (static).
        step_size: a number, a tracer or a schedule of the number of rounds so far.
        directions: those of the question, if workers send estimates f32[d] of the gradient that
            they make of derivatives along random directions; else None.
    """
    rule = aggregators.make("mean")
    server = sgd(num_workers, rule, step_size=step_size, by_rounds=True)
    return server if directions is None else server._replace(query=ask_along(directions))


def build_server(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    aggregator: str,
    scale: float,
    weight_decay: float,
) -> Server:
    """Returns `sgd` with a rule by name, for the methods that differ in their workers only."""
    return sgd(
        problem.num_workers,
        aggregators.make(aggregator),
        step_size=oracle.schedule(hyper["step_size"]),
        scale=scale,
        weight_decay=weight_decay,
    )


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    aggregator: str = "median",
    scale: float = 1.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> tuple[Server, Worker]:
    """Rounds: an aggregator of gradients.

    Args:
        step_size: eta, the initial step size.
        aggregator: a rule of `aggregators` by name, as in "krum:f=5".
        scale: the factor > 0 of the aggregate: m, if the sum of m losses is minimised.
        weight_decay: w >= 0 of the regulariser f_0(x) = w |x|^2 / 2.
        momentum: b in [0, 1) of the moving average that a worker sends.
    """
    server = build_server(problem, oracle, hyper, aggregator, scale, weight_decay)
    return server, gradient_worker(problem, oracle, momentum)


METHOD = Method(build, step_size_presets(0.5), works_in_rounds=True)
