"""FedKSeed: rounds with local steps along K fixed directions, one accumulator for each.

The model is x0 + sum_j z_j a_j with K directions from a seed. In every round a worker takes one
local step after the other along directions that are drawn for it, each with a mini-batch of its
own, and sends the numbers; the server adds up what all workers have moved, in the mean:

    Y_il = [F_i(z_i,l-1 + delta e_j) - F_i(z_i,l-1 - delta e_j)] / (2 delta),   j = j_il
    z_il = z_i,l-1 - eta * Y_il e_j,                                            l = 1..k
    z_j <- z_j - eta / |S| * sum_{i, l: j_il = j} Y_il

Here z are the parameters of a problem in a subspace (`problems.in_subspace`), and a_j its
directions; of any other problem, a_j are the coordinates. The paper has no defence: workers
report about different directions, which cannot be compared.

References:
    Qin et al., "Federated Full-Parameter Tuning of Billion-Sized Language Models with
    Communication Cost under 18 Kilobytes", ICML 2024, arXiv 2312.06353, Algorithm 1 (here with
    uniform probabilities of the seeds).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax import directions, oracles
from farsign_jax.aggregators.row_ops import number
from farsign_jax.base import (
    Array,
    Key,
    Problem,
    PyTree,
    Query,
    Report,
    Schedule,
    Server,
    Shard,
    Worker,
)
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require, sanitize


class AccumulatorState(NamedTuple):
    """The state for K directions."""

    params: Array  # f32[K], z
    num_answers: Array  # i32[], answers so far
    step: Array  # i32[], rounds so far with at least one answer


def fed_kseed(
    num_workers: int, dictionary: Dictionary, *, step_size: float | Array | Schedule
) -> Server:
    """The server: the mean of what the workers of a round have moved.

    Args:
        num_workers: m (static).
        dictionary: the directions of the questions, k of K (static).
        step_size: eta, a number, a tracer or a schedule of the number of *answers* before the
            round.

    Returns:
        A `Server` for m workers. Non-finite numbers count as 0 and are clipped to 1e6.

    Raises:
        InvalidConfig: if m < 1 or the step size is not positive.
    """
    m = num_workers
    require(m > 0, f"fed_kseed needs at least one worker: got num_workers={m}")
    eta_of = check_step_size("fed_kseed", step_size)

    def init(params: Array, key: Key | None = None) -> AccumulatorState:
        del key  # nothing is drawn
        zero = jnp.zeros((), jnp.int32)
        return AccumulatorState(params, zero, zero)

    def query(state: AccumulatorState, worker: Array, key: Key) -> Query:
        return Query(state.params, worker, dictionary.draw(key, worker), state.step)

    def update(
        state: AccumulatorState, reports: Report
    ) -> tuple[AccumulatorState, dict[str, Array]]:
        i, j, shape = reports.worker, reports.direction, reports.value.shape
        require(shape == j.shape, f"an answer is f32{list(j.shape[1:])}: got {list(shape[1:])}")
        present = i < m
        count = number(present)
        answer = jnp.where(present[:, None], sanitize(reports.value), 0)
        eta = jnp.asarray(eta_of(state.num_answers), state.params.dtype)
        amount = -eta * answer / jnp.maximum(count, 1).astype(answer.dtype)
        params = dictionary.move(state.params, i, j, amount)
        step = state.step + (count > 0).astype(jnp.int32)
        return AccumulatorState(params, state.num_answers + count, step), {}

    return Server(init, query, update, m, scheduled=("num_answers", "step"), in_rounds=True)


def one_after_the_other(
    worker: Worker, dictionary: Dictionary, step_size: float | Array | Schedule
) -> Worker:
    """The honest worker that takes a local step along each direction of its question.

    Args:
        worker: a worker that answers about one direction.
        dictionary: of the questions, about k directions.
        step_size: eta, a number, a tracer or a schedule of the number of rounds so far.
    """
    eta_of = check_step_size("fed_kseed", step_size)

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        eta = jnp.asarray(eta_of(query.version), query.params.dtype)

        def step(carry: Any, drawn: tuple[Array, Key]) -> tuple[Any, Array]:
            (inner, x), (j, own) = carry, drawn
            asked = query._replace(params=x, direction=j[None])
            inner, value = worker.respond(inner, asked, shard, own)
            moved = dictionary.move(x, query.worker, j[None], -eta * sanitize(value))
            return (inner, moved), value[0]

        keys = jax.random.split(key, dictionary.per_query)
        (state, _), values = jax.lax.scan(step, (state, query.params), (query.direction, keys))
        return state, values

    evaluations = dictionary.per_query * worker.evaluations
    return worker._replace(respond=respond, evaluations=evaluations)


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Rounds: local steps along a few fixed directions, the mean of all, no defence.

    Args:
        step_size: eta, the initial step size.
    """
    size = problem.x0.shape[-1]
    one, asked = directions.identity(size, 1), directions.identity(size, oracle.directions)
    worker = oracles.zeroth_order(
        problem,
        one,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
    )
    local = oracle.per_round_schedule(hyper["step_size"], problem.num_workers)
    server = fed_kseed(
        problem.num_workers, asked, step_size=oracle.schedule(hyper["step_size"])
    )
    return server, one_after_the_other(worker, asked, local)


# The best of 1, 3 and 10 after 2,000 answers on the embedded digits.
METHOD = Method(build, step_size_presets(10.0), works_in_rounds=True)
