"""The types of the conversation between a server and its workers.

An asynchronous run is a conversation in three steps, each of which is a pure function:

    ask      server  -> worker     query = server.query(state, worker, key)
    answer   worker  -> network    value = worker.respond(state, query, shard, key)
    deliver  network -> server     attack.forge(...) if Byzantine, then server.update(...)

A driver (`simulation`, `sweeps`, a real parameter server) only decides when each step happens.

Shapes, here and everywhere else, are written with these letters: m workers, d parameters, K
directions that a worker can be asked about, k directions per query, s arrivals per event, n
examples per shard, b examples per mini-batch, T events.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from farsign_jax.examples import Poison as Poison
from farsign_jax.examples import Problem as Problem
from farsign_jax.examples import Shard as Shard

Array = jax.Array
Key = jax.Array  # a typed key, `jax.random.key(seed)`
PyTree = Any
Schedule = Callable[[Any], Any]  # step -> number: an optax schedule
Diagnostics = dict[str, Array]  # what an update tells beside the new state, by name


class Query(NamedTuple):
    """What the server asks one worker."""

    params: Array  # f32[d], the iterate to evaluate
    worker: Array  # i32[], who is asked
    direction: PyTree  # i32[k] ids of the directions; () where the whole gradient is meant
    version: Array  # i32[], server step at which the question was asked


class Report(NamedTuple):
    """What reaches the server. The runtime stamps everything but `value`.

    `Server.update` takes a set of s reports, one leading axis on every field: the set S_n
    of (worker, direction) pairs received in event n. In an empty slot `worker` is m, one past
    the last: JAX drops a write there.
    """

    worker: Array  # i32[s]
    version: Array  # i32[s], server step at which the question was asked
    direction: PyTree  # i32[s, k]
    value: PyTree  # f32[s, k]; the only field an adversary controls
    measured: PyTree = ()  # what `value` was made of, where that differs; no server sees it


class View(NamedTuple):
    """What an adversary knows when it forges a message: everything (omniscient, colluding)."""

    server: PyTree  # the server's full state
    byzantine: Array  # bool[m], which workers are Byzantine
    # For attacks that are omniscient or ask, else None:
    reported: Any = None  # f32[m, k], what each worker last reported about these directions
    received: Any = None  # bool[m, k], whether it has reported anything
    asked: Any = None  # for the driver: `() ->` f32[n, m, k], answers to its own question
    event: Any = 0  # i32[], the number of the event


class InitServer(Protocol):
    """Makes the state of a server before the first event.

    Args:
        params: f32[d], the first iterate.
        key: for servers that draw random numbers; others may be given None.
    """

    def __call__(self, params: Array, key: Key | None, /) -> PyTree: ...


class AskWorker(Protocol):
    """Asks one worker for an answer.

    Args:
        state: of the server.
        worker: i32[], the worker.
        key: differs between any two queries of a run.
    """

    def __call__(self, state: PyTree, worker: Array, key: Key, /) -> Query: ...


class Update(Protocol):
    """Moves the iterate on after a set of reports.

    Args:
        state: of the server.
        reports: a set of s reports, as `Report` describes it.

    Returns:
        The new state, and diagnostics: arrays by name, possibly none.
    """

    def __call__(self, state: PyTree, reports: Report, /) -> tuple[PyTree, Diagnostics]: ...


class Recall(Protocol):
    """Reads from the server's state what the workers have reported about `direction`.

    Returns:
        `(reported, received)`: f32[m, k], and bool[m, k], whether there is anything.
    """

    def __call__(self, state: PyTree, direction: PyTree, /) -> tuple[Array, Array]: ...


class Server(NamedTuple):
    """A method's server: pure functions of its state.

    A state has `params` f32[d], the iterate, and `step` i32[], the updates of it so far.

    Without `recall`, the driver remembers for an attack what can be compared between workers:
    whole gradients, and answers about directions if `comparable` is set.

    Attributes:
        init: makes the first state.
        query: asks a worker.
        update: receives a set of reports.
        num_workers: m, checked against the problem.
        recall: reads what the workers have reported from the state, or None.
        scheduled: names of the fields of the state that the order of arrivals alone decides.
            Runs that have a schedule in common have these fields in common.
        comparable: whether answers of different workers about directions may be compared.
        memory_advice: what to do if a run does not fit into a device, or None: `(field, size,
            rest, available) -> text`, with the largest field of the state and its bytes, those
            that the run needs beside it, and those of the device.
        in_rounds: whether it combines the answers of an event: it needs a schedule i32[T, s].
    """

    init: InitServer
    query: AskWorker
    update: Update
    num_workers: int
    recall: Recall | None = None
    scheduled: tuple[str, ...] = ("step",)
    comparable: bool = False
    memory_advice: Callable[[str, int, int, int], str] | None = None
    in_rounds: bool = False


class Table(NamedTuple):
    """What a worker keeps for each of its examples: part of a worker's state.

    An answer needs the rows `Worker.touched` alone. The loop hands these to `respond` and
    writes back what comes out, so that an event costs the same however many examples there are.
    """

    rows: PyTree  # leaves f32[n, ...]; in `respond` [b, ...]


class Respond(Protocol):
    """Answers a query honestly.

    Args:
        state: of the worker.
        query: what the server asked.
        shard: the examples of the worker.
        key: differs between any two answers of a run.

    Returns:
        The new state, and the value that was measured: f32[k] for k directions, f32[d] for
        the whole gradient.
    """

    def __call__(
        self, state: PyTree, query: Query, shard: Any, key: Key, /
    ) -> tuple[PyTree, Array]: ...


class Encode(Protocol):
    """Makes the message about `direction` that is sent from the value that was measured."""

    def __call__(self, direction: PyTree, measured: Array, /) -> Array: ...


class Worker(NamedTuple):
    """An honest worker: pure functions of its state and its shard.

    Attributes:
        init: `shard -> state`, makes the first state.
        respond: answers one query.
        evaluations: mini-batch losses or gradients computed per answer.
        batch_size: examples per mini-batch, at most those of the smallest shard.
        left_out: examples of each shard that the worker does not draw from.
        encode: makes the message from the measured value, or None if they are the same.
        bits: size of an answer; None means 32 bits per number.
        touched: `(shard, key) -> i32[b]`, the rows of the `Table`s in the state that the answer
            with this key reads and writes; None if there are no tables.
    """

    init: Callable[[PyTree], PyTree]
    respond: Respond
    evaluations: int = 1
    batch_size: int = 0
    encode: Encode | None = None
    bits: int | None = None
    touched: Callable[["Shard", Key], Array] | None = None
    left_out: int = 0


class Forge(Protocol):
    """Forges the message that a Byzantine worker sends instead of its honest one.

    Args:
        state: of the attack, which all Byzantine workers have in common.
        report: the honest report, without a leading axis.
        view: what the adversary knows.
        key: differs between any two messages of a run.

    Returns:
        The new state, and a value of the shape and type of `report.value`.
    """

    def __call__(
        self, state: PyTree, report: Report, view: View, key: Key, /
    ) -> tuple[PyTree, Array]: ...


class Attack(NamedTuple):
    """What Byzantine workers send instead of `report.value`, or compute it from.

    Attributes:
        init: `num_workers -> state`, makes the first state.
        forge: forges one message.
        omniscient: whether the driver must fill in `View.reported` and `View.received` with
            what the server has received so far.
        space: which value is forged if workers encode: the "message", or the "measured" value,
            which is then encoded; `report.value` and `view.reported` are in this space.
            Several attacks side by side (`Lockstep`) have a tuple.
        poison: what Byzantine workers make of their examples before they compute an answer, or
            None if they use them as they are. The answer then passes through `forge`.
        goal: what the attacker wants the model to learn of any example: `poison` at its full
            strength. How often it does so is recorded as `backdoor_success`. None if the
            attacker wants nothing in particular.
        asks: how many mini-batches every worker computes for the Byzantine worker's own
            question, at the present iterate, before each lie. `View.reported` then has the
            means of its answers, and `omniscient` is not needed. 0, nobody answers it.
        after: in how many events Byzantine workers are honest before they lie; may be traced.
    """

    init: Callable[[int], PyTree]
    forge: Forge
    omniscient: bool = False
    space: str | tuple[str, ...] = "message"
    poison: Poison | None = None
    goal: Poison | None = None
    asks: int = 0
    after: Any = 0


class System(NamedTuple):
    """Who takes part in a run: the server, honest workers and Byzantine workers."""

    server: Server
    worker: Worker
    attack: Attack
