"""The three steps of the conversation: `ask`, `answer` and `deliver`.

An event takes these steps for the workers that arrive together, in one of these modes:

    fresh        the arriving worker is asked, answers and is received within the event, as in
                 the paper's MNIST experiment: staleness 0;
    inconsistent as fresh, but coordinates of the iterate are of different ages (`reads`);
    outstanding  every worker always has one question open; an event delivers the answer of
                 the arriving worker and asks it the next question. Staleness follows from
                 the schedule: server step now - step when asked. Answers are computed when
                 asked and delivered late, so m answers are kept, not m stale iterates.
                 "outstanding:L" keeps L questions open, answered in the order of asking, for
                 networks with more on the way: about L times the staleness, L m answers.

A schedule is data: i32[T], the worker that arrives at each event, or i32[T, s] for sets of up
to s arrivals per update (the paper's S_n, or a synchronous round), padded with -1. The loop
over it is compiled (`ahead.scan`), or `python_loop`, which calls the same three functions one
by one.
"""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax import keys as keys_lib
from farsign_jax.base import (
    Array,
    Attack,
    Diagnostics,
    Problem,
    Query,
    Report,
    Shard,
    System,
    Table,
    View,
)
from farsign_jax.simulation import forging
from farsign_jax.simulation.in_place import scatter, zero_after
from farsign_jax.simulation.state import Memory, Run


def _over_slots(f: Callable[..., Any], *trees: Any) -> Any:
    """Maps `f` over the leading axis [s]; for a single slot, without `vmap`."""
    if len(jax.tree.leaves(trees)[0]) > 1:
        return jax.vmap(f)(*trees)
    return jax.tree.map(lambda a: a[None], f(*jax.tree.map(lambda a: a[0], trees)))


def ask(
    system: System, state: Any, workers: Array, number: Array, keys: keys_lib.RunKeys
) -> Query:
    """Asks each of `workers` i32[s] the question with this number: queries, leaves [s, ...].

    Args:
        system: who takes part.
        state: of the server.
        workers: i32[s].
        number: i32[], of the question.
        keys: of the run.
    """

    def one(worker: Array) -> Query:
        key = keys_lib.message(keys.queries, worker, number)
        return system.server.query(state, worker, key)

    return _over_slots(one, workers)


def answer(
    system: System,
    problem: Problem,
    states: Any,
    queries: Query,
    number: Array,
    keys: keys_lib.RunKeys,
    byzantine: Array | None = None,
) -> tuple[Any, Report]:
    """Lets the workers answer s queries, honestly but for what an attack does to their data.

    Args:
        system: who takes part.
        problem: holds the examples of the workers.
        states: of all workers, leaves [m, ...].
        queries: leaves [s, ...].
        number: i32[], of the question.
        keys: of the run.
        byzantine: as of `deliver`; read only if the attack is on data, and then a worker
            poisons its examples that is Byzantine in the event with the number of the question.
            None stands for nobody.

    Returns:
        The new states of all workers, leaves [m, ...], and s reports.
    """
    worker = system.worker

    def one(query: Query) -> tuple[Any, Report, tuple[Array, ...]]:
        i = query.worker
        key = keys_lib.message(keys.batches, i, number)
        shard = shard_of(system.attack, problem, i, number, byzantine)
        touched = () if worker.touched is None else (worker.touched(shard, key),)
        state = _map_states(lambda a: a[i], lambda a: a[(i, *touched)], states)
        state, value = worker.respond(state, query, shard, key)
        report = Report(i, query.version, query.direction, value)
        if worker.encode is not None:
            message = worker.encode(query.direction, value)
            report = report._replace(value=message, measured=value)
        return state, report, touched

    new, reports, touched = _over_slots(one, queries)
    i = queries.worker
    put = functools.partial(scatter, i)
    if touched:  # not before they have been read
        at = (i[:, None], touched[0] + zero_after((new, reports.value)))
        put_rows = functools.partial(scatter, at)
    else:
        put_rows = put
    return _map_states(put, put_rows, states, new), reports


def shard_of(
    attack: Attack, problem: Problem, worker: Array, number: Array, byzantine: Array | None
) -> Shard:
    """Returns the examples of a worker, which are poisoned if the attack does so to its data.

    Args:
        attack: of the run.
        problem: holds the examples of the workers.
        worker: i32[].
        number: i32[], of the question.
        byzantine: as of `answer`.
    """
    shard, spoil, classes = problem.shard(worker), attack.poison, problem.num_classes
    if spoil is None or byzantine is None or classes is None:
        return shard
    if byzantine.ndim == 2:  # questions before the first event are numbered 0, -1, ...
        byzantine = byzantine[jnp.maximum(number, 0) % len(byzantine)]

    def poison(lies: Array, examples: Any, rows: Array) -> Any:
        spoiled = spoil(examples, rows, classes)
        return jax.tree.map(lambda new, old: jnp.where(lies, new, old), spoiled, examples)

    lies = byzantine[worker]
    if not forging.always(attack):
        lies &= number >= attack.after
    # `Partial` makes it a pytree, so that a shard may be an argument of what JAX transforms.
    return shard._replace(poison=jax.tree_util.Partial(poison, lies))


def _map_states(leaf: Callable[..., Any], rows: Callable[..., Any], *states: Any) -> Any:
    """Maps states of workers: `rows` over the leaves of a `Table`, `leaf` over all others."""

    def is_table(node: Any) -> bool:
        return isinstance(node, Table)

    def one(*nodes: Any) -> Any:
        return jax.tree.map(rows if is_table(nodes[0]) else leaf, *nodes)

    return jax.tree.map(one, *states, is_leaf=is_table)


def deliver(
    system: System,
    problem: Problem,
    run: Run,
    reports: Report,
    byzantine: Array,
    keys: keys_lib.RunKeys,
) -> tuple[Run, Diagnostics]:
    """Replaces the values of Byzantine workers among s reports, then updates the server.

    Args:
        system: who takes part.
        problem: holds the examples of the workers, for attacks that ask them.
        run: the state of the run.
        reports: what the workers answered honestly, a leading axis [s].
        byzantine: bool[m], or bool[P, m] for events 0 .. P - 1 and from the beginning again.
        keys: of the run.

    Returns:
        The new state of the run, and the diagnostics of the server's update with `staleness`
        i32[s], server steps between question and answer (-1 in an empty slot), and `nonfinite`
        i32[], messages that contain NaN or infinity.
    """
    server, worker, attack = system
    if byzantine.ndim == 2:
        byzantine = byzantine[run.events % len(byzantine)]
    m = byzantine.shape[0]
    honest = reports._replace(measured=())
    # An adversary that sees a complete round knows what honest workers report in it, too.
    known = run.memory
    if known != () and len(reports.worker) > 1:
        known = _remember(known, reports, reports.value)
    jax.eval_shape(server.update, run.server, honest)  # rejects reports it cannot read

    def forge(attack_state: Any, report: Report) -> tuple[Any, Array]:
        reported = received = None
        if attack.omniscient and server.recall is not None:
            reported, received = server.recall(run.server, report.direction)
            reported = {"message": reported}
        elif attack.omniscient:
            reported, received = known
        asked = functools.partial(forging.answers, system, problem, run, report, keys)
        view = View(run.server, byzantine, reported, received, asked, run.events)
        key = keys_lib.message(keys.attacks, report.worker, run.events)
        return forging.apply_attack(attack, worker.encode, attack_state, report, view, key)

    def send(attack_state: Any, report: Report) -> tuple[Any, Array]:
        def honestly(attack_state: Any, report: Report) -> tuple[Any, Array]:
            return attack_state, report.value

        forged = byzantine[report.worker] & (report.worker < m)
        # Forging a complete gradient, or reading all that was reported, is expensive: such an
        # attack runs only for reports of Byzantine workers.
        if attack.omniscient or attack.asks or len(reports.worker) > 1:
            return jax.lax.cond(forged, forge, honestly, attack_state, report)
        after, value = forge(attack_state, report)
        after = jax.tree.map(lambda new, old: jnp.where(forged, new, old), after, attack_state)
        return after, jnp.where(forged, value, report.value)

    if len(reports.worker) > 1:  # one after the other: an attack may have a state
        attack_state, value = jax.lax.scan(send, run.attack, reports)
    else:
        attack_state, value = send(run.attack, jax.tree.map(lambda a: a[0], reports))
        value = value[None]

    present = reports.worker < m
    finite = jnp.isfinite(value).reshape(len(present), -1).all(axis=1)
    state, info = server.update(run.server, honest._replace(value=value))
    staleness = jnp.where(present, run.server.step - reports.version, -1)
    info = {
        "staleness": staleness,
        "nonfinite": jnp.sum(present & ~finite, dtype=jnp.int32),
    } | info
    memory = run.memory
    if memory != ():
        memory = _remember(memory, reports, value)
    received = run.staleness.received(reports.worker, staleness)
    run = run._replace(server=state, attack=attack_state, memory=memory, staleness=received)
    return run._replace(events=run.events + 1), info


def _remember(memory: Memory, reports: Report, message: Array) -> Memory:
    """Returns the memory after these reports, with `message` as their value."""
    new = {"message": message, "measured": reports.measured}
    reported = {
        name: scatter(reports.worker, old, new[name]) for name, old in memory.reported.items()
    }
    return Memory(reported, memory.received.at[reports.worker].set(True, mode="drop"))
