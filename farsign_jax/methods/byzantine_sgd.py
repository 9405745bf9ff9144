"""ByzantineSGD: workers whose gradients drift away from those of most others are excluded.

With g_i the answer of worker i in round k, asked at x_k, and x_1 the start (Algorithm 1):

    A_i <- A_i + <g_i, x_k - x_1>;   B_i <- B_i + g_i
    A_med = median of the A_i;       B_med = a B_i with more than m/2 of them within T_B
    g_med = a g_i with more than m/2 of them within 2 V
    good <- {i in good: |A_i - A_med| <= T_A, |B_i - B_med| <= T_B, |g_i - g_med| <= 4 V}
    xi = (1/m) sum_{i in good} g_i
    x_{k+1} = argmin_{|y - x_1| <= D} |y - (x_k - eta xi)|
    T_A = 4 D V sqrt(T log(16 m T / delta));   T_B = 4 V sqrt(T log(16 m T / delta))

V bounds |g_i - grad f(x_k)| of honest workers. Their noise adds up like sqrt(T), a lie that
always points the same way like T: one of length c is found out after k rounds with
k > 16 (V / c)^2 log(16 m k / delta), however small it is. With probability 1 - delta no honest
worker is ever excluded, if V is right. Exclusion is permanent: a V that is too small costs
honest workers, and one that is too large lets liars stay longer, as the square of V.

What the paper leaves open, or assumes away, is done so:

- A run knows no horizon T: the number of rounds so far takes its place, unless T is given.
- The sum is divided by the number of answers of the round, from good workers or not: m in a
  full round, as in the paper. Each exclusion makes steps shorter.
- Of several candidates for g_med or B_med, the good worker with the most others near it is
  taken, of these the first. Were it any of them, liars between two groups of honest workers
  could be B_med, and exclude some of these.
- g_med is subtracted from the answers before they are added up. This changes no difference in
  full rounds, and makes rounds of different workers comparable: workers are compared by the
  means A_i / n_i and B_i / n_i of the n_i rounds in which theirs grew, and two of them may
  differ by T_i / (2 n_i) + T_j / (2 n_j), T_i being the threshold for n_i rounds. For A_med,
  and at most for B_med, that term is the median of those of all workers. With all n_i = k that
  is Algorithm 1. In partial rounds its guarantee holds only if g_med has no bias: liars that
  are g_med in the rounds of some workers more than in those of others may exclude these.
- In a round of s answers, g_med needs more than s/2 near it, and answers far from it are left
  out of the step. Workers are excluded by it, and sums grow, if it has more than m/2 near it:
  a minority of all workers, as Byzantine ones may be the majority of a small round, excludes
  nobody. A worker that did not answer is judged by its sums. A single answer is its own g_med.
- If no g_med exists, V is too small or most answers are lies: x, the sums and the good workers
  stay. If at most m/2 workers are near A_med, or there is no B_med, these exclude nobody.
- An answer about an earlier round is not comparable with the others and is dropped.

No Byzantine number moves a threshold. B takes m d numbers, which is inherent; the distances
between workers take O(m^2 d) per round.

References:
    Alistarh, Allen-Zhu and Li, "Byzantine Stochastic Gradient Descent", NeurIPS 2018,
    arXiv 1803.08917, Algorithm 1. Its text was not at hand: the thresholds, the factor 1/m and
    the projection are reconstructed. A, B and the medians agree with a public implementation,
    whose thresholds are free numbers, and which divides by the number of good workers.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax import aggregators
from farsign_jax.aggregators.row_ops import norms, number, shorten, square_distances
from farsign_jax.base import Array, Key, Problem, Report, Schedule, Server, Worker
from farsign_jax.methods.gradient_server import ask_for_gradient, check_gradients
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.methods.typed import norm
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, check_positive, is_concrete, require, sanitize


class ByzantineSGDState(NamedTuple):
    """The state for m workers and d parameters."""

    params: Array  # f32[d], x_k
    start: Array  # f32[d], x_1
    inner: Array  # f32[m], A_i, of g_i - g_med
    sums: Array  # f32[m, d], B_i, of g_i - g_med
    counts: Array  # i32[m], n_i, the answers in these two
    good: Array  # bool[m], the workers that are not excluded
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far with at least one answer to their question


def votes_of(apart: Array, reach: Array, present: Array) -> Array:
    """How many rows are within reach of each row, itself included, i32[n].

    Args:
        apart: f[n, n], distances between rows.
        reach: f[n, n] or f[], how far from each row another may be.
        present: bool[n], the rows that count.
    """
    near = (apart <= reach) & present[:, None] & present[None]
    return near.sum(axis=1, dtype=jnp.int32)


def _median(values: Array, present: Array) -> Array:
    """The median of the values that count, f[]."""
    return aggregators.median()(values[:, None], mask=present)[0]


def _judge_sums(state: ByzantineSGDState, radius: Array, width: Array) -> Array:
    """Which workers A and B leave good, bool[m]; `width` f32[m] is T_i / (2 n_i)."""
    m, known = len(state.counts), state.counts > 0
    n = jnp.maximum(state.counts, 1).astype(width.dtype)
    a, b = state.inner / n, state.sums / n[:, None]
    # Near a worker that answered once, and then kept silent, would be everybody: it may be the
    # center like any other, but makes no comparison wider than most workers do.
    typical = _median(width, known)
    by_a = known & (jnp.abs(a - _median(a, known)) <= radius * (width + typical))

    apart = jnp.sqrt(square_distances(b, known))
    reach = jnp.minimum(width, typical)[:, None] + width[None]
    votes = jnp.where(state.good, votes_of(apart, reach, known), 0)
    center = jnp.argmax(votes)
    by_b = known & (apart[center] <= reach[center])
    # Who has not answered yet is not judged, nor is anybody by a minority of the workers.
    by_a |= 2 * number(by_a) <= m
    by_b |= 2 * number(by_b) <= m
    return ~known | (by_a & by_b)


def byzantine_sgd(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    variance: float | Array,
    radius: float | Array,
    confidence: float | Array = 0.05,
    horizon: int | None = None,
) -> Server:
    """SGD along the mean of the workers whose gradients never differed too much from most.

    Args:
        num_workers: m (static).
        step_size: eta, a number, a tracer or a schedule of the number of *answers* before the
            round, so that methods that update more or less often decay alike.
        variance: V > 0, the bound on |g_i - grad f| of honest workers, a length in units of the
            gradient. No value suits all problems.
        radius: D > 0, how far x may move from the start, in units of x.
        confidence: delta in (0, 1), the probability with which an honest worker may be lost.
        horizon: T, the number of rounds for which thresholds hold; None for thresholds that
            grow with the rounds.

    Returns:
        A `Server` for m workers, whose updates tell `good` i32[], how many are not excluded.
        Non-finite numbers count as 0 and entries are clipped to 1e6.

    Raises:
        InvalidConfig: if the step size, V or D is not positive, delta is not in (0, 1), or T is
            not a whole number >= 1.
    """
    m, name = num_workers, "byzantine_sgd"
    require(m > 0, f"{name} needs at least one worker: got num_workers={m}")
    check_positive(name, "variance", variance)
    check_positive(name, "radius", radius)
    rule = f"{name} needs 0 < confidence < 1: got {confidence}"
    require((confidence > 0) & (confidence < 1), rule)
    if horizon is not None:
        horizon = check_integer(name, "horizon", horizon, 1)
    eta_of = check_step_size(name, step_size)
    # In float32, a number over a very small delta would be infinite.
    log_delta = math.log(confidence) if is_concrete(confidence) else jnp.log(confidence)

    def init(params: Array, key: Key | None = None) -> ByzantineSGDState:
        del key  # nothing is drawn
        zero = jnp.zeros((), jnp.int32)
        return ByzantineSGDState(
            params=params,
            start=jnp.copy(params),
            inner=jnp.zeros((m,), params.dtype),
            sums=jnp.zeros((m, *params.shape), params.dtype),
            counts=jnp.zeros((m,), jnp.int32),
            good=jnp.ones((m,), bool),
            num_answers=zero,
            step=zero,
        )

    def half_width(counts: Array, v: Array) -> Array:
        """Returns T_i / (2 n_i) f32[m], half of what two means may differ by."""
        n = jnp.maximum(counts, 1).astype(v.dtype)
        rounds = n if horizon is None else jnp.asarray(horizon, v.dtype)
        return (
            2
            * v
            * jnp.sqrt(rounds * (jnp.log(16 * m * rounds) - jnp.asarray(log_delta, v.dtype)))
            / n
        )

    def update(
        state: ByzantineSGDState, reports: Report
    ) -> tuple[ByzantineSGDState, dict[str, Array]]:
        x = state.params
        check_gradients(reports, x)
        i, present = reports.worker, reports.worker < m
        current = present & (reports.version == state.step)
        own = jnp.minimum(i, m - 1)
        answers = sanitize(reports.value)
        v, d, eta = (
            jnp.asarray(number, x.dtype)
            for number in (variance, radius, eta_of(state.num_answers))
        )

        apart = jnp.sqrt(square_distances(answers, current))
        votes = jnp.where(state.good[own], votes_of(apart, 2 * v, current), 0)
        center, count = jnp.argmax(votes), number(current)
        compared = current & (2 * votes[center] > count)
        change = jnp.where(compared[:, None], answers - answers[center][None], 0)
        near = compared & (norms(change) <= 4 * v)
        # Only where most of all workers are near it, an honest one is, whoever sent g_med.
        judged = compared & (2 * votes[center] > m)
        to, far = jnp.where(judged, i, m), jnp.where(judged & ~near, i, m)

        inner = (change * (x - state.start)[None]).sum(axis=1)
        after = state._replace(
            inner=state.inner.at[to].add(inner, mode="drop"),
            sums=state.sums.at[to].add(change, mode="drop"),
            counts=state.counts.at[to].add(1, mode="drop"),
        )
        good = state.good & _judge_sums(after, d, half_width(after.counts, v))
        good = good.at[far].set(False, mode="drop")

        used = near & good[own]
        total = jnp.where(used[:, None], answers, 0).sum(axis=0)
        away = x - eta * total / jnp.maximum(count, 1).astype(x.dtype) - state.start
        moved = state.start + shorten(norm(away), d) * away
        after = after._replace(
            params=jnp.where(used.any(), moved, x),
            good=good,
            num_answers=state.num_answers + number(present),
            step=state.step + (count > 0).astype(jnp.int32),
        )
        return after, {"good": number(good)}

    return Server(
        init, ask_for_gradient, update, m, scheduled=("num_answers", "step"), in_rounds=True
    )


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    variance: float = 2.0,
    radius: float = 20.0,
    confidence: float = 0.05,
    horizon: int | None = None,
) -> tuple[Server, Worker]:
    """Rounds: workers whose gradients drift away from most others are excluded for good.

    Args:
        step_size: eta, the initial step size.
        variance: V > 0, the bound on the distance between the gradient of an honest worker and
            the true one, in units of the gradient. There is no universal value.
        radius: D > 0, how far x may move from the start. There is no universal value.
        confidence: delta in (0, 1), the probability with which an honest worker may be lost.
        horizon: T, the number of rounds for which thresholds hold; None for thresholds that
            grow with the rounds.
    """
    server = byzantine_sgd(
        problem.num_workers,
        step_size=oracle.schedule(hyper["step_size"]),
        variance=variance,
        radius=radius,
        confidence=confidence,
        horizon=horizon,
    )
    return server, gradient_worker(problem, oracle)


METHOD = Method(build, step_size_presets(0.5), works_in_rounds=True, attacks_in_lockstep=True)
