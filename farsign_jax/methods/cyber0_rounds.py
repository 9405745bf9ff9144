"""CYBER-0 in rounds: all workers share k random directions, and send k derivatives along them.

In each round the server draws a seed. Every worker rebuilds the same directions u_1, ..., u_k
of the unit sphere from it and sends the differences D_i f32[k] of its own loss, and the server
aggregates either these numbers or the gradients that are rebuilt from them:

    D_il = [F_i(x + delta u_l) - F_i(x - delta u_l)] / (2 delta),    G(D) = d/k sum_l D_l u_l
    "scalars":     x <- x - eta * G(Aggr({D_i}))
    "gradients":   x <- x - eta * Aggr({G(D_i)})

The two are the same for linear rules. The lengths of G(D) and D are nearly in proportion if k
is much smaller than d, as directions are then nearly orthogonal, so that rules made of
distances, such as Krum, NNM and the geometric median, nearly agree. Rules by coordinates, such
as the trimmed mean, do not: one works along the u_l, the other along the axes.

With E > 1 local steps (`local_steps`), each with k directions of its own that all workers
share, a worker moves its copy of x and sends all its differences, f32[E k]:

    x_i0 = x;   x_ie = x_i,e-1 - eta_local * G_e(D_ie),   D_ie measured at x_i,e-1,   e = 1..E
    "scalars":     x <- x - eta * sum_e G_e(a_e),   (a_1, ..., a_E) = Aggr({(D_i1, ..., D_iE)})
    "gradients":   x <- x - eta * Aggr({sum_e G_e(D_ie)})

An answer about the directions of an earlier round cannot be compared and is dropped; a round
without any other changes nothing, so that its directions are asked about again.

What was read of both papers are their abstracts and public summaries. According to these,
CYBER-0 takes a trimmed mean of the scalars along shared directions (2406.14362), and the
"transformed robust aggregation" of CyBeR-0 is any robust rule, such as the trimmed mean, Krum
or NNM before them, "in the perturbation embedding space", that is on the scalars (2502.00193);
it has several local epochs. So "scalars" is the aggregation of both papers, and "gradients" the
one without the transformation, to compare with. Reconstructed are the factor d/k, fresh
directions and a mini-batch for each local step, one rule on all E k scalars together, and the
local step size.

References:
    Neto, Egger, Bakshi and Bitar, "Communication-Efficient Byzantine-Resilient Federated
    Zero-Order Optimization" (CYBER-0), arXiv 2406.14362; Egger, Bakshi and Bitar,
    "Byzantine-Resilient Zero-Order Optimization for Communication-Efficient Heterogeneous
    Federated Learning" (CyBeR-0), arXiv 2502.00193.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from farsign_jax import aggregators, directions, oracles
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
from farsign_jax.directions.random_directions import RandomDirections
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.sgd import SGDState, sgd
from farsign_jax.methods.typed import key_of, step_key
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import check_integer, require, sanitize

AGGREGATES = ("scalars", "gradients")


def local_seeds(seed: Array, local_steps: int) -> Array:
    """Returns the seeds u32[E, 2] of the directions of each local step of a round."""
    if local_steps == 1:
        return seed[None]
    return jax.random.bits(key_of(seed), (local_steps, 2), jnp.uint32)


def cyber0_rounds(
    num_workers: int,
    aggregator: Callable[..., Array],
    shared: RandomDirections,
    *,
    step_size: float | Array | Schedule,
    aggregate: str = "scalars",
    local_steps: int = 1,
) -> Server:
    """Rounds of zeroth-order descent along directions that all workers share.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`. It is given s rows f32[s, E k] or f32[s, d], as
            many as an event has slots, and a mask of those that are present and of this round.
            On scalars, no rule starts from the last aggregate, which is along other directions.
        shared: the directions, k per local step.
        step_size: eta, a number, a tracer or a schedule of the number of *answers* before the
            round, so that methods that update more or less often decay alike.
        aggregate: "scalars" or "gradients", what the rule works on.
        local_steps: E (static).

    Returns:
        A `Server` for m workers, with the state of `sgd`. Non-finite scalars count as 0 and are
        clipped to 1e6 before anything is made of them, so that x remains finite.

    Raises:
        InvalidConfig: if m < 1, E < 1, `aggregate` is neither of the two, or the step size is
            not positive.
    """
    m, steps = num_workers, check_integer("cyber0_rounds", "local_steps", local_steps, 1)
    require(aggregate in AGGREGATES, f"aggregate is one of {AGGREGATES}: got {aggregate!r}")
    require(m > 0, f"cyber0_rounds needs at least one worker: got num_workers={m}")
    eta_of = check_step_size("cyber0_rounds", step_size)
    size, scalars = steps * shared.k, aggregate == "scalars"

    def anew(rows: Array, *, mask: Array, start: Array, key: Key) -> Array:
        del start  # the last aggregate, which was along other directions
        return aggregator(rows, mask=mask, key=key)

    server = sgd(m, anew if scalars else aggregator, step_size=eta_of)

    def round_seed(state: SGDState) -> Array:
        return shared.draw(step_key(state.seed, state.step))

    def init(params: Array, key: Key | None = None) -> SGDState:
        d = params.shape[-1]
        require(shared.dim == d, f"the directions are for d={shared.dim}: got d={d}")
        state = server.init(params, key)
        if scalars:
            state = state._replace(aggregate=jnp.zeros((size,), params.dtype))
        return state

    def query(state: SGDState, worker: Array, key: Key) -> Query:
        del key  # all workers of a round are asked the same
        return Query(state.params, worker, round_seed(state), state.step)

    def update(state: SGDState, reports: Report) -> tuple[SGDState, dict[str, Array]]:
        shape = reports.value.shape[1:]
        require(shape == (size,), f"an answer is f32[{size}]: got {list(shape)}")
        seeds = local_seeds(round_seed(state), steps)

        def rebuild(numbers: Array) -> Array:
            parts = numbers.reshape(steps, shared.k)
            return jnp.sum(jax.vmap(shared.rebuild)(seeds, parts), axis=0)

        arrived = jnp.sum(reports.worker < m, dtype=jnp.int32)
        current = reports.version == state.step
        reports = reports._replace(worker=jnp.where(current, reports.worker, m))
        if scalars:  # `sgd` in the space of the scalars, from the origin
            origin = state._replace(params=jnp.zeros_like(state.aggregate))
            after, info = server.update(origin, reports)
            after = after._replace(params=state.params + rebuild(after.params))
        else:
            rows = jax.vmap(rebuild)(sanitize(reports.value))
            after, info = server.update(state, reports._replace(value=rows))
        # An answer that is dropped counts as an answer: time goes on.
        return after._replace(num_answers=state.num_answers + arrived), info

    return Server(
        init, query, update, m, scheduled=server.scheduled, comparable=True, in_rounds=True
    )


def with_local_steps(
    worker: Worker,
    shared: RandomDirections,
    *,
    local_steps: int,
    step_size: float | Array | Schedule,
) -> Worker:
    """The honest worker that takes E local steps and sends the differences of all of them.

    Args:
        worker: a worker that answers with f32[k] along directions from a seed, such as
            `oracles.random_two_point` with `message="scalar"`.
        shared: the directions, those of the server.
        local_steps: E (static).
        step_size: eta_local, a number, a tracer or a schedule of the number of rounds so far.

    Returns:
        A `Worker` that answers with f32[E k] and evaluates E times as many losses. Each local
        step has a mini-batch of its own. Nothing is kept between rounds but the state of
        `worker`.

    Raises:
        InvalidConfig: if E < 1, the worker encodes, or the step size is not positive.
    """
    steps = check_integer("cyber0_rounds", "local_steps", local_steps, 1)
    eta_of = check_step_size("cyber0_rounds", step_size)
    require(worker.encode is None, "local steps need a worker that sends what it measures")
    if steps == 1:
        return worker

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        eta = jnp.asarray(eta_of(query.version), query.params.dtype)

        def step(
            carry: tuple[PyTree, Array], drawn: tuple[Array, Key]
        ) -> tuple[tuple[PyTree, Array], Array]:
            (inner, x), (seed, own_key) = carry, drawn
            asked = query._replace(params=x, direction=seed)
            inner, scalars = worker.respond(inner, asked, shard, own_key)
            return (inner, x - eta * shared.rebuild(seed, scalars)), scalars

        seeds, keys = local_seeds(query.direction, steps), jax.random.split(key, steps)
        (state, _), scalars = jax.lax.scan(step, (state, query.params), (seeds, keys))
        return state, scalars.reshape(-1)

    return worker._replace(respond=respond, evaluations=steps * worker.evaluations)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    aggregator: str = "median",
    aggregate: str = "scalars",
    local_steps: int = 1,
    local_step_size: float | None = None,
) -> tuple[Server, Worker]:
    """Rounds: an aggregator of two-point differences along directions that all share.

    Args:
        step_size: eta, the initial step size.
        aggregator: a rule of `aggregators` by name, as in "nnm:f=5+krum:f=5".
        aggregate: "scalars" if the rule works on the differences, f32[k] of each worker, or
            "gradients" if it works on the gradients f32[d] that the server makes of them.
        local_steps: E, the local steps of a worker in each round.
        local_step_size: that of the local steps, which decays like eta; None for eta itself.
    """
    shared = directions.sphere(problem.x0.shape[-1], oracle.directions)
    server = cyber0_rounds(
        problem.num_workers,
        aggregators.make(aggregator),
        shared,
        step_size=oracle.schedule(hyper["step_size"]),
        aggregate=aggregate,
        local_steps=local_steps,
    )
    local = hyper["step_size"] if local_step_size is None else local_step_size
    worker = oracles.random_two_point(
        problem,
        shared,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
        message="scalar",
    )
    return server, with_local_steps(
        worker,
        shared,
        local_steps=local_steps,
        step_size=oracle.per_round_schedule(local, problem.num_workers),
    )


# The step sizes of the papers are not known. This one is the best of 0.11, 0.22 and 0.44 with a
# median after 2,000 answers of 25 workers, 80 rounds, on `mnist_subset` without an attack
# (`experiments.compare`, one seed).
METHOD = Method(build, step_size_presets(0.22), works_in_rounds=True)
