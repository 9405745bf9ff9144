"""DRACO with a repetition code: groups of workers compute the same gradient, a majority counts.

The m workers form m / r groups of r; worker i belongs to group i mod (m / r). In every round
the server draws one mini-batch xi_a for each group a, from the examples of all its members, and
sends each member the numbers of these examples. With g_i the answers of the set S of workers:

    G_a = med({g_i : i in S and in group a})                         for each coordinate
    x <- x - eta_n * mean({G_a : some member of group a is in S})

Honest members of a group send the same numbers. If more than half of its answers are these,
which r >= 2q + 1 ensures for q Byzantine workers wherever they are, G_a is the honest gradient,
and the round is the one that it would be without Byzantine workers.

The authors count which whole answers are equal. A median of each coordinate is the same number
wherever more than half of the answers agree bit for bit. Where honest answers differ in the
last bits, as between two kinds of processors, no answer has a majority, but the median still
lies between two honest ones if more than half are honest.

m answers make m / r distinct mini-batches: the noise of a round is that of m / r workers, the
evaluations are those of m. A worker needs the examples of its whole group. In a round that
lacks answers, those of a group that are present decide, and fewer of them outvote fewer liars.
An answer about an earlier round has another mini-batch and is dropped.

References:
    Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient Distributed Training via
    Redundant Gradients", ICML 2018, the repetition code with a majority vote. The text of the
    paper was not at hand: the code is reconstructed; who belongs to which group, the draws of
    the server and the median are choices of this implementation. The vote over whole answers
    is that of the authors' code, github.com/hwang595/Draco.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from farsign_jax import aggregators
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
from farsign_jax.methods.gradient_server import check_gradients
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.sgd import SGDState, sgd
from farsign_jax.methods.typed import grad, key_of
from farsign_jax.validation import check_integer, require, sanitize

Losses = Callable[[Array, PyTree], Array]


def group_size(num_workers: int, byzantine: int) -> int:
    """The smallest r that divides m and is at least 2q + 1.

    Raises:
        InvalidConfig: if there is none.
    """
    m, least = num_workers, 2 * check_integer("draco", "byzantine", byzantine, 0) + 1
    rule = f"draco needs m >= 2q + 1: got m={m}, q={byzantine}"
    require(m >= least, rule)
    return next(r for r in range(least, m + 1) if m % r == 0)


def draco(
    num_workers: int,
    rows: Array,
    sizes: Array,
    *,
    group: int,
    batch_size: int,
    step_size: float | Array | Schedule,
    byzantine: int | None = None,
) -> Server:
    """SGD along the mean of what the majority of each group has answered.

    Args:
        num_workers: m (static).
        rows: i32[m, n], the numbers of the examples of each worker, `Problem.rows`.
        sizes: i32[m], how many of the n count, `Problem.sizes`.
        group: r (static), the number of workers of a group; it divides m.
        batch_size: b, the number of examples in a mini-batch, drawn with replacement from those
            of all members of a group.
        step_size: eta, a number, a tracer or a schedule of the number of *answers* before the
            round, so that methods that update more or less often decay alike.
        byzantine: q; if it is given, r is checked against it.

    Returns:
        A `Server` for m workers, whose state is that of `sgd`. The direction of a query is
        i32[b], the numbers of the examples. Non-finite numbers count as 0 and entries are
        clipped to 1e6.

    Raises:
        InvalidConfig: if r does not divide m, r < 2q + 1, batch_size < 1, or the step size is
            not positive.
    """
    m, r = num_workers, check_integer("draco", "group", group, 1)
    b = check_integer("draco", "batch_size", batch_size, 1)
    require(m % r == 0, f"draco needs a group that divides m: got m={m}, group={r}")
    if byzantine is not None:
        rule = f"draco needs group >= 2q + 1: got group={r}, q={byzantine}"
        require(r >= 2 * check_integer("draco", "byzantine", byzantine, 0) + 1, rule)
    groups, median = m // r, aggregators.make("median")
    mean_server = sgd(m, aggregators.make("mean"), step_size=step_size)

    def draw(key: Key, a: Array) -> Array:
        """Draws i32[b], examples of the members of group a."""
        members = a + groups * jnp.arange(r, dtype=jnp.int32)
        ends = jnp.cumsum(sizes[members], dtype=jnp.int32)
        places = jax.random.randint(key, (b,), 0, ends[-1], jnp.int32)
        at = jnp.searchsorted(ends, places, side="right").astype(jnp.int32)
        return rows[members[at], places - (ends - sizes[members])[at]].astype(jnp.int32)

    def query(state: SGDState, worker: Array, key: Key) -> Query:
        del key  # differs between the members of a group
        # In an empty slot `worker` is m, which has no group of its own.
        a = worker % groups
        own = jax.random.fold_in(jax.random.fold_in(key_of(state.seed), state.step), a)
        return Query(state.params, worker, draw(own, a), state.step)

    def decode(values: Array, worker: Array, current: Array) -> tuple[Array, Array]:
        """Returns G f32[m / r, d], and which groups have an answer, bool[m / r]."""
        place = jnp.where(current, worker, m)
        table = jnp.zeros((m, values.shape[-1]), values.dtype)
        table = table.at[place].set(values, mode="drop").reshape(r, groups, -1)
        answered = jnp.zeros((m,), bool).at[place].set(True, mode="drop").reshape(r, groups)

        def majority(rows: Array, mask: Array) -> Array:
            return median(rows, mask=mask)

        return jax.vmap(majority, in_axes=1)(table, answered), answered.any(axis=0)

    def update(state: SGDState, reports: Report) -> tuple[SGDState, dict[str, Array]]:
        check_gradients(reports, state.params)
        present = reports.worker < m
        current = present & (reports.version == state.step)
        decoded, answered = decode(sanitize(reports.value), reports.worker, current)
        # To `sgd`, a group is one worker, and a group without answers an empty slot.
        names = jnp.where(answered, jnp.arange(groups, dtype=jnp.int32), m)
        version = jnp.full((groups,), state.step)
        after, info = mean_server.update(state, Report(names, version, (), decoded))
        count = state.num_answers + number(present)
        return after._replace(num_answers=count), info

    return mean_server._replace(query=query, update=update, comparable=True)


def assigned_gradient(losses: Losses, *, batch_size: int) -> Worker:
    """A worker that answers with the mean gradient on the examples that the server names.

    Args:
        losses: per-example losses `(x f32[d], batch) -> f32[b]`.
        batch_size: b, the number of examples in a mini-batch.

    Raises:
        InvalidConfig: if batch_size < 1, or (when it is asked) it is not asked about i32[b].
    """
    b = check_integer("assigned_gradient", "batch_size", batch_size, 1)

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        del key  # nothing is drawn
        ids = query.direction
        rule = f"assigned_gradient needs the numbers of {b} examples: got {ids!r}"
        require(getattr(ids, "shape", ()) == (b,), rule)
        batch = shard.read(ids)
        return state, grad(lambda x: losses(x, batch).mean(), query.params)

    def init(shard: Shard) -> PyTree:
        del shard
        return ()

    return Worker(init, respond, 1, b)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    group: int | None = None,
    byzantine: int = 5,
) -> tuple[Server, Worker]:
    """Rounds: groups compute the same gradient, and their majority counts.

    Args:
        step_size: eta, the initial step size.
        group: r, the number of workers of a group, which divides m and is at least 2q + 1; by
            default the smallest such number.
        byzantine: q, the number of Byzantine workers to expect.
    """
    m, b = problem.num_workers, oracle.batch_size
    server = draco(
        m,
        problem.rows,
        problem.sizes,
        group=group_size(m, byzantine) if group is None else group,
        batch_size=b,
        step_size=oracle.schedule(hyper["step_size"]),
        byzantine=byzantine,
    )
    return server, assigned_gradient(problem.losses, batch_size=b)


METHOD = Method(build, step_size_presets(0.5), works_in_rounds=True, attacks_in_lockstep=True)
