"""The event loop: who speaks when.

`ask`, `answer` and `deliver` are the three lines of the conversation. One `event` speaks
them for the workers that arrive together, in one of two modes:

    fresh        the arriving worker is asked, answers and is received within the event, as in
                 the paper's MNIST experiment: staleness 0;
    outstanding  every worker always has one question open; an event delivers the answer of
                 the arriving worker and asks it the next question. Staleness follows from
                 the schedule: server step now - step when asked. Answers are computed when
                 asked and delivered late, so m answers are kept, not m stale iterates.
                 "outstanding:L" keeps L questions open, answered in the order of asking, for
                 networks with more on the way: about L times the staleness, L m answers.

A schedule is data: i32[T], the worker that arrives at each event, or i32[T, s] for sets of up
to s arrivals per update (the paper's S_n, or a synchronous round), padded with -1. The loop
over it is `lax.scan` in a compiled program, or `python_loop`, which speaks the same three
functions one by one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Attack, Problem, Query, Report, System, Table, View
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.validation import require

DELIVERIES = {
    "fresh": "Who arrives is asked, answers and is received in one event",
    "outstanding": "L open questions at each worker (outstanding:L; 1): answers grow stale",
}


def depth(delivery: str) -> int:
    """How many questions every worker has open between two events: 0 in fresh delivery.

    Raises:
        InvalidConfig: on a delivery that is none.
    """
    if delivery == "fresh":
        return 0
    name, colon, number = delivery.partition(":")
    good = name == "outstanding" and (not colon or (number.isdecimal() and int(number) > 0))
    rule = "delivery is fresh, outstanding or outstanding:L with 0 < L < 65536"
    require(good and int(number or 1) < 2**16, f"{rule}: got {delivery!r}")
    return int(number or 1)


class Memory(NamedTuple):
    """What each worker last reported, kept for servers that do not remember it themselves."""

    reported: dict[str, Array]  # f32[m, k] in each space that an attack watches
    received: Array  # bool[m]


class Run(NamedTuple):
    """The whole state of a run between two events."""

    server: Any  # the server's state
    workers: Any  # worker states, leaves [m, ...]
    attack: Any  # the attack's state
    inbox: Any  # Report of [m, L]: answers under way; () in fresh delivery
    memory: Any  # Memory, or () where no attack wants it
    events: Array  # i32[], events so far; numbers the questions, whatever `step` counts
    staleness: Staleness


def _over_slots(f: Callable, *trees: Any) -> Any:
    """Applies f along the leading axis [s]; a single slot stays free of a batch axis."""
    if len(jax.tree.leaves(trees)[0]) > 1:
        return jax.vmap(f)(*trees)
    return jax.tree.map(lambda a: a[None], f(*jax.tree.map(lambda a: a[0], trees)))


def ask(
    system: System, state: Any, workers: Array, number: Array, keys: keys_lib.RunKeys
) -> Query:
    """Question `number` i32[] to each of `workers` i32[s], leaves [s, ...]."""

    def one(worker):
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
) -> tuple[Any, Report]:
    """What the workers answer honestly: their new states, leaves [m, ...], and s reports."""

    worker = system.worker

    def one(query):
        i = query.worker
        key, shard = keys_lib.message(keys.batches, i, number), problem.shard(i)
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


def _map_states(whole: Callable, rows: Callable, *states: Any) -> Any:
    """Maps worker states: `rows` over what lies in a `Table`, `whole` over everything else."""

    def is_table(node):
        return isinstance(node, Table)

    def one(*nodes):
        return jax.tree.map(rows if is_table(nodes[0]) else whole, *nodes)

    return jax.tree.map(one, *states, is_leaf=is_table)


def apply_attack(
    attack: Attack, encode: Callable | None, state: Any, report: Report, view: View, key: Array
) -> tuple[Any, Array]:
    """What a liar sends: the attack's state and the message.

    `view.reported` is a dict over spaces, `view.received` bool[m] or bool[m, k].
    """
    if isinstance(attack.space, tuple):  # of several attacks, each of which calls this again
        return attack.forge(state, report, view, key)
    measured = attack.space == "measured" and encode is not None
    if measured:
        report = report._replace(value=report.measured)
    if attack.omniscient:
        reported = view.reported["measured" if measured else "message"]
        received = view.received.reshape(
            *view.received.shape, *(1,) * (reported.ndim - view.received.ndim)
        )
        view = view._replace(
            reported=reported, received=jnp.broadcast_to(received, reported.shape)
        )
    state, value = attack.forge(state, report._replace(measured=()), view, key)
    value, honest = jnp.asarray(value), report.value
    require(
        value.shape == honest.shape and value.dtype == honest.dtype,
        f"a forged value must be {honest.dtype}{list(honest.shape)} like the honest one: "
        f"got {value.dtype}{list(value.shape)}",
    )
    return state, encode(report.direction, value) if measured and encode else value


def deliver(
    system: System, run: Run, reports: Report, byzantine: Array, keys: keys_lib.RunKeys
) -> tuple[Run, dict[str, Array]]:
    """Lets the liars among s reports speak instead, then lets the server hear them all.

    Info: what the server says, and `staleness` i32[s], server steps between question and
    answer (-1 in an empty slot), and `nonfinite` i32[], messages with NaN or inf in them.
    """
    server, worker, attack = system
    if byzantine.ndim == 2:
        byzantine = byzantine[run.events % len(byzantine)]
    m = byzantine.shape[0]
    honest = reports._replace(measured=())
    # Who hears a whole round knows what honest workers say in it, not only what they reported.
    known = run.memory
    if known != () and len(reports.worker) > 1:
        known = _remember(known, reports, reports.value)
    jax.eval_shape(server.update, run.server, honest)  # it refuses what it cannot read

    def forge(attack_state, report):
        reported = received = None
        if attack.omniscient and server.recall is not None:
            reported, received = server.recall(run.server, report.direction)
            reported = {"message": reported}
        elif attack.omniscient:
            reported, received = known
        view = View(run.server, byzantine, reported, received)
        key = keys_lib.message(keys.attacks, report.worker, run.events)
        return apply_attack(attack, worker.encode, attack_state, report, view, key)

    def speak(attack_state, report):
        def truth(attack_state, report):
            return attack_state, report.value

        lies = byzantine[report.worker] & (report.worker < m)
        # To make up a whole gradient, or to look at what everybody reported, is work: only where it
        # matters.
        if attack.omniscient or len(reports.worker) > 1:
            return jax.lax.cond(lies, forge, truth, attack_state, report)
        after, value = forge(attack_state, report)
        after = jax.tree.map(lambda new, old: jnp.where(lies, new, old), after, attack_state)
        return after, jnp.where(lies, value, report.value)

    if len(reports.worker) > 1:  # liars of one set speak in turn: an attack may remember
        attack_state, value = jax.lax.scan(speak, run.attack, reports)
    else:
        attack_state, value = speak(run.attack, jax.tree.map(lambda a: a[0], reports))
        value = value[None]

    present = reports.worker < m
    finite = jnp.isfinite(value).reshape(len(present), -1).all(axis=1)
    state, info = server.update(run.server, honest._replace(value=value))
    staleness = jnp.where(present, run.server.step - reports.version, -1)
    info = {
        "staleness": staleness,
        "nonfinite": jnp.sum(present & ~finite),
    } | info
    memory = run.memory
    if memory != ():
        memory = _remember(memory, reports, value)
    received = run.staleness.received(reports.worker, staleness)
    run = Run(state, run.workers, attack_state, run.inbox, memory, run.events + 1, received)
    return run, info


def _remember(memory: Memory, reports: Report, message: Array) -> Memory:
    news = {"message": message, "measured": reports.measured}
    reported = {
        name: scatter(reports.worker, old, news[name]) for name, old in memory.reported.items()
    }
    return Memory(reported, memory.received.at[reports.worker].set(True, mode="drop"))


def scatter(i: Any, a: Array, new: Array) -> Array:
    return a.at[i].set(new, mode="drop")  # an empty slot writes nothing


def zero_after(tree: Any) -> Array:
    """0, but not before all of `tree` has been computed.

    Who overwrites an array must come after all who read it, or XLA copies the whole of it at
    every event. It knows no other order than that of the data, and an optimization barrier is
    gone before it decides.
    """

    def nothing(leaf):
        first = leaf[(0,) * leaf.ndim]
        if jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
            first = jax.random.key_data(first)[0]
        if first.dtype == jnp.bool_:
            first = first.astype(jnp.uint32)
        elif not jnp.issubdtype(first.dtype, jnp.integer):
            first = jax.lax.bitcast_convert_type(first.astype(jnp.float32), jnp.uint32)
        return (first & 1) >> 1

    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    return sum((nothing(leaf).astype(jnp.int32) for leaf in leaves), jnp.zeros((), jnp.int32))


def output(run: Run) -> Array:
    """f32[..., d], what a run is judged by: the iterate, or what its server says instead."""
    return getattr(run.server, "output", run.server.params)


def check_batch(system: System, sizes: Any) -> None:
    """Raises `InvalidConfig` where a mini-batch would be larger than the smallest shard."""
    smallest, b = int(np.min(sizes)), system.worker.batch_size
    require(
        b <= smallest,
        f"need batch_size <= examples of every worker: got batch_size={b}, and a worker has "
        f"{smallest}",
    )
