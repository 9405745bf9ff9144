"""The event loop: who speaks when.

`ask`, `answer` and `deliver` are the three lines of the conversation. One `event` speaks
them for the workers that arrive together, in one of two modes:

    fresh        the arriving worker is asked, answers and is heard within the event, as in
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
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import arrivals, attacks, programs
from farsign_jax import keys as keys_lib
from farsign_jax.base import (
    Array,
    Attack,
    Problem,
    Query,
    Report,
    System,
    Table,
    View,
    require,
)
from farsign_jax.staleness import Staleness

DELIVERIES = {
    "fresh": "Who arrives is asked, answers and is heard in one event",
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
    """What each worker last said, kept for servers that do not remember it themselves."""

    said: dict[str, Array]  # f32[m, k] in each space that an attack watches
    heard: Array  # bool[m]


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
    put = functools.partial(_put, i)
    if touched:  # not before they have been read
        at = (i[:, None], touched[0] + _zero_after((new, reports.value)))
        put_rows = functools.partial(_put, at)
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


def lie(
    attack: Attack, encode: Callable | None, state: Any, report: Report, view: View, key: Array
) -> tuple[Any, Array]:
    """What a liar sends: the attack's state and the message.

    `view.said` is a dict over spaces, `view.heard` bool[m] or bool[m, k].
    """
    if isinstance(attack.space, tuple):  # of several attacks, each of which calls this again
        return attack.forge(state, report, view, key)
    measured = attack.space == "measured" and encode is not None
    if measured:
        report = report._replace(value=report.measured)
    if attack.omniscient:
        said = view.said["measured" if measured else "message"]
        heard = view.heard.reshape(*view.heard.shape, *(1,) * (said.ndim - view.heard.ndim))
        view = view._replace(said=said, heard=jnp.broadcast_to(heard, said.shape))
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
    # Who hears a whole round knows what honest workers say in it, not only what they said.
    known = run.memory
    if known != () and len(reports.worker) > 1:
        known = _remember(known, reports, reports.value)
    jax.eval_shape(server.update, run.server, honest)  # it refuses what it cannot read

    def forge(attack_state, report):
        said = heard = None
        if attack.omniscient and server.recall is not None:
            said, heard = server.recall(run.server, report.direction)
            said = {"message": said}
        elif attack.omniscient:
            said, heard = known
        view = View(run.server, byzantine, said, heard)
        key = keys_lib.message(keys.attacks, report.worker, run.events)
        return lie(attack, worker.encode, attack_state, report, view, key)

    def speak(attack_state, report):
        def truth(attack_state, report):
            return attack_state, report.value

        lies = byzantine[report.worker] & (report.worker < m)
        # To make up a whole gradient, or to look at what everybody said, is work: only where it
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
    heard = run.staleness.heard(reports.worker, staleness)
    run = Run(state, run.workers, attack_state, run.inbox, memory, run.events + 1, heard)
    return run, info


def _remember(memory: Memory, reports: Report, message: Array) -> Memory:
    news = {"message": message, "measured": reports.measured}
    said = {name: _put(reports.worker, old, news[name]) for name, old in memory.said.items()}
    return Memory(said, memory.heard.at[reports.worker].set(True, mode="drop"))


def _put(i: Any, a: Array, new: Array) -> Array:
    return a.at[i].set(new, mode="drop")  # an empty slot writes nothing


Lines = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

_LINES: Lines = (ask, answer, deliver)


def event(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    workers: Array,
    lines: Lines = _LINES,
) -> tuple[Run, dict[str, Array]]:
    """One step of the loop: `workers`, i32[] or i32[s], are heard."""
    speak_ask, speak_answer, speak_deliver = lines
    workers = jnp.atleast_1d(workers)
    i = jnp.where(workers < 0, problem.num_workers, workers)

    def exchange(run):
        number = run.events
        queries = speak_ask(system, run.server, i, number, keys)
        states, reports = speak_answer(system, problem, run.workers, queries, number, keys)
        return run._replace(workers=states), reports

    open_questions = depth(delivery)
    if not open_questions:
        run, reports = exchange(run)
        return speak_deliver(system, run, reports, byzantine, keys)

    at = (i, run.staleness.answers[i] % open_questions)  # its oldest question
    reports = jax.tree.map(lambda a: a[at], run.inbox)._replace(worker=i)
    run, info = speak_deliver(system, run, reports, byzantine, keys)
    run, reports = exchange(run)
    readers = (run.server, run.attack, run.memory, run.staleness, info)
    at = (i + _zero_after(readers), at[1])
    inbox = jax.tree.map(functools.partial(_put, at), run.inbox, reports)
    return run._replace(inbox=inbox), info


def _zero_after(tree: Any) -> Array:
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


def start(system: System, problem: Problem, keys: keys_lib.RunKeys, delivery: str) -> Run:
    """The state before the first event; in outstanding delivery, every worker is asked."""
    open_questions = depth(delivery)
    server, worker, attack = system
    m, zero = problem.num_workers, jnp.zeros((), jnp.int32)
    require(
        server.num_workers == m,
        f"the server is for {server.num_workers} workers, the problem has {m}",
    )
    everyone = jnp.arange(m, dtype=jnp.int32)
    state = server.init(jnp.copy(problem.x0), keys.server)  # x0 is not the loop's to donate
    workers = jax.vmap(lambda i: worker.init(problem.shard(i)))(everyone)

    def converse(i, states, number):
        queries = ask(system, state, i[None], number, keys)
        states, reports = answer(system, problem, states, queries, number, keys)
        return states, jax.tree.map(lambda a: a[0], reports)

    def questions(i):  # numbered 0, -1, ...: events count from 1 on
        numbers = -jnp.arange(open_questions, dtype=jnp.int32)
        states, reports = jax.lax.scan(functools.partial(converse, i), workers, numbers)
        return jax.tree.map(lambda a: a[i], states), reports

    inbox: Any = ()
    memory: Any = ()
    if attack.omniscient and server.recall is None:
        _, report = jax.eval_shape(converse, everyone[0], workers, zero)
        whole = worker.encode is not None or not jax.tree.leaves(report.direction)
        require(
            server.comparable or whole,
            "an omniscient attack needs a server that can recall what was said about a "
            "direction, or whole gradients",
        )
        space = attack.space
        spaces = (space,) if isinstance(space, str) else space
        like = {"message": report.value, "measured": report.measured}
        if worker.encode is None:
            spaces = ("message",)
        said = {name: jnp.zeros((m, *like[name].shape), like[name].dtype) for name in spaces}
        memory = Memory(said, jnp.zeros((m,), bool))
    if open_questions:
        # One at a time: m oracle calls side by side would need m times the scratch memory.
        workers, inbox = jax.lax.map(questions, everyone)
    return Run(state, workers, attack.init(m), inbox, memory, zero, Staleness.none(m))


def advance(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    schedule: Array,
) -> tuple[Run, dict[str, Array]]:
    """All events of `schedule`, i32[T] or i32[T, s]. Info leaves lead with [T]."""
    step = functools.partial(event, system, problem, byzantine, keys, delivery)
    return jax.lax.scan(step, run, schedule)


def python_loop(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    schedule: Array,
) -> tuple[Run, dict[str, Array]]:
    """`advance` in plain Python: slow, and open to a debugger between any two lines."""
    infos = []
    for workers in map(jnp.asarray, np.asarray(schedule)):
        run, info = event(system, problem, byzantine, keys, delivery, run, workers, _SPOKEN)
        infos.append(info)
    return run, jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)


_speak = functools.partial(jax.jit, static_argnums=0)
_SPOKEN: Lines = (_speak(ask), _speak(answer), _speak(deliver))
_start = jax.jit(start, static_argnames=("system", "delivery"))
_advance = jax.jit(advance, static_argnames=("system", "delivery"), donate_argnames="run")


def output(run: Run) -> Array:
    """f32[..., d], what a run is judged by: the iterate, or what its server says instead."""
    return getattr(run.server, "output", run.server.params)


def bits_per_answer(system: System, problem: Problem) -> int:
    """Bits of the numbers in one answer."""
    if system.worker.bits is not None:
        return system.worker.bits
    keys = keys_lib.split(0)
    waiting = jax.eval_shape(lambda: start(system, problem, keys, "outstanding")).inbox.value
    leaves = jax.tree.leaves(waiting)  # [m, 1, ...]
    return sum(8 * a.size * a.dtype.itemsize for a in leaves) // problem.num_workers


def check_batch(system: System, sizes: Any) -> None:
    """Raises `InvalidConfig` where a mini-batch would be larger than the smallest shard."""
    smallest, b = int(np.min(sizes)), system.worker.batch_size
    require(
        b <= smallest,
        f"need batch_size <= examples of every worker: got batch_size={b}, and a worker has "
        f"{smallest}",
    )


def chunks(schedule: np.ndarray, every: int, begin: int = 0, axis: int = 0) -> list[np.ndarray]:
    """One piece of the schedule of each length that `drive` will meet: one or two."""
    left = schedule.shape[axis] - begin
    lengths = {min(every, left), left % every} - {0}
    return [np.take(schedule, range(length), axis) for length in sorted(lengths)]


def drive(
    step: Callable, run: Run, schedule: np.ndarray, every: int, begin: int = 0, axis: int = 0
) -> Iterator[tuple[int, Run, dict[str, Array], float]]:
    """Runs `step(run, chunk)` over chunks of `every` events, from event `begin` on.

    Yields (events done, run, info, seconds the chunk took). What happens between two
    chunks, metrics, progress, checkpoints, is the caller's, and is not in the seconds.
    """
    total = schedule.shape[axis]
    while begin < total:
        end = min(begin + every, total)
        chunk = schedule[begin:end] if axis == 0 else schedule[:, begin:end]
        clock = time.perf_counter()
        run, info = jax.block_until_ready(step(run, chunk))
        yield end, run, info, time.perf_counter() - clock
        begin = end


def run(
    problem: Problem,
    system: System,
    schedule: Any,
    *,
    seed: int = 0,
    byzantine: Any = 0,
    delivery: str = "fresh",
    every: int | None = None,
    measure: Callable[[Array], dict[str, Array]] | None = None,
    debug: bool = False,
) -> tuple[Run, list[dict[str, float]]]:
    """One run, from the first event to the last.

    Args:
        problem: what is minimised, by whose data.
        system: server, worker and attack. The same object compiles once.
        schedule: `arrivals.Schedule`, or who arrives alone, i32[T] or i32[T, s].
        seed: everything random that happens within the loop.
        byzantine: how many workers lie (the first ones), or a mask bool[m]; or bool[P, m], who
            lies at events 0 .. P - 1, and from the beginning again.
        delivery: "fresh", "outstanding" or "outstanding:L", see above.
        every: events between two records; default: one record at the end.
        measure: `params f32[d] -> {name: number}`, evaluated for each record, of `output`.
        debug: speak the lines one by one in a Python loop instead of `lax.scan`.

    Returns:
        The final `Run`, with the `Staleness` of each worker, and one record per `every` events:
        `event`, `seconds` (of the loop, compilation and measuring apart), `virtual_seconds`
        (where the schedule has times), `staleness` (the largest so far) and the measures.

    Raises:
        InvalidConfig: before the loop starts, on anything that cannot run as asked.
    """
    programs.release_if_many()
    depth(delivery)  # refuses what is none
    schedule, times = arrivals.check_schedule(schedule, problem.num_workers)
    check_batch(system, problem.sizes)
    lies = jnp.asarray(attacks.byzantine_mask(problem.num_workers, byzantine))
    keys = keys_lib.split(seed)
    every = max(len(schedule), 1) if every is None else every
    require(every > 0, f"need every > 0 events between records: got {every}")

    state = begin = _start(system, problem, keys, delivery)
    if debug:
        step = functools.partial(python_loop, system, problem, lies, keys, delivery)
    else:
        step = functools.partial(_advance, system, problem, lies, keys, delivery)
        for chunk in chunks(schedule, every):  # compile before the clock runs
            _advance.lower(system, problem, lies, keys, delivery, begin, chunk).compile()

    records, seconds, staleness = [], 0.0, 0
    for events, state, info, took in drive(step, begin, schedule, every):
        seconds += took
        staleness = max(staleness, int(info["staleness"].max()))
        record = {"event": events, "seconds": seconds, "staleness": staleness}
        if times is not None:
            record["virtual_seconds"] = float(times[events - 1])
        measured = measure(output(state)) if measure else {}
        records.append(record | {name: float(value) for name, value in measured.items()})
    return state, records
