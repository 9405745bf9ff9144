"""The types of the conversation.

An asynchronous run is a conversation with three kinds of line, each a pure function:

    ask      server  -> worker     query = server.query(state, worker, key)
    answer   worker  -> network    value = worker.respond(state, query, shard, key)
    deliver  network -> server     attack.forge(...) for liars, then server.update(...)

A driver (`simulate`, `sweeps`, a real parameter server) only decides *when* each is spoken.

Legend for shapes, here and everywhere: m workers, d parameters, K directions a worker can
be asked about, k directions per question, s arrivals per event, n examples per shard,
b examples per mini-batch, T events.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


Key = jax.Array  # a typed key, `jax.random.key(seed)`


PyTree = Any


Schedule = Callable[[Any], Any]  # step -> number: an optax schedule


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
    """All that an adversary may look at before it lies: everything (omniscient, colluding)."""

    server: PyTree  # the server's full state
    byzantine: Array  # bool[m], who lies
    # For attacks that say they are omniscient, else None:
    reported: Any = (
        None  # f32[m, k], what workers reported of these directions, as it is remembered
    )
    received: Any = None  # bool[m, k], whether they reported anything


class Server(NamedTuple):
    """`update` returns diagnostics beside the state: a dict of arrays, `{}` if there are none.

    A state has `params` f32[d], the iterate, and `step` i32[], which measures staleness: the
    updates of the iterate so far. `num_workers` is m, checked against the problem.
    `scheduled` names the fields of the state that the order of arrivals alone decides: runs
    that share a schedule share them.

    `recall(state, direction)` reads what each worker has reported about these directions out of
    the server's own memory, as `(reported, received)`. A server that keeps no such memory leaves it
    out; the driver then remembers, and only where an attack wants to know, what it takes to be
    comparable: whole gradients, and answers about directions where the server says so.
    """

    init: Callable[..., PyTree]  # (params, key) -> state; the key is for servers that draw
    query: Callable[[PyTree, Array, Key], Query]  # (state, worker i32[], key)
    update: Callable[[PyTree, Report], tuple[PyTree, dict[str, Array]]]  # (state, reports)
    num_workers: int  # m
    recall: Callable[[PyTree, PyTree], tuple[Array, Array]] | None = None  # see above
    scheduled: tuple[str, ...] = ("step",)  # fields that the order of arrivals decides
    comparable: bool = False  # may answers of different workers be compared?


class Table(NamedTuple):
    """What a worker keeps for each of its examples: part of a state.

    An answer needs the rows `Worker.touched` alone. The loop hands these to `respond` instead
    of the table and writes back what comes out, so that an event costs the same however many
    examples there are.
    """

    rows: PyTree  # leaves f32[n, ...]; in `respond` [b, ...]


class Worker(NamedTuple):
    """An honest worker. `init` sees its shard, `respond` answers one question.

    What it measures is what it sends, unless there is `encode(direction, measured)`, which
    makes the one from the other. An answer takes 32 bits per number, unless `bits` says
    otherwise. `touched(shard, key)`, i32[b], are the rows of its `Table`s that the answer with
    this key reads and writes.
    """

    init: Callable[[PyTree], PyTree]  # shard -> state
    respond: Callable[[PyTree, Query, PyTree, Key], tuple[PyTree, Array]]  # -> state, value
    evaluations: int = 1  # mini-batch losses (or gradients) computed per answer
    batch_size: int = 0  # examples per mini-batch, at most those of the smallest shard
    encode: Callable[[PyTree, Array], Array] | None = None  # (direction, measured) -> value
    bits: int | None = None  # of an answer
    touched: Callable[["Shard", Key], Array] | None = None  # (shard, key) -> i32[b]


class Attack(NamedTuple):
    """What a Byzantine worker says instead of `report.value` (one report, no leading axis).

    `space` says what it lies about, where workers encode: its "message", or what it
    "measured", which it then encodes as an honest worker would; `report.value` and
    `view.reported` are these. Several attacks side by side (`lockstep`) have a tuple of them.
    """

    init: Callable[[int], PyTree]  # m -> state
    forge: Callable[[PyTree, Report, View, Key], tuple[PyTree, Array]]  # -> state, value
    omniscient: bool = False  # must the driver fill `View.reported` and `View.received`?
    space: str | tuple[str, ...] = "message"  # what it lies about


class System(NamedTuple):
    """Who takes part in a run."""

    server: Server  # who listens
    worker: Worker  # what honest workers do
    attack: Attack  # what Byzantine workers do


class Shard(NamedTuple):
    """One worker's examples: rows of a data set that all workers share in memory."""

    data: PyTree  # leaves [N, ...]
    rows: Array  # i32[n]
    size: Array  # i32[], how many of the rows count; the rest is padding

    def draw(self, key: Key, size: int) -> Array:
        """i32[size], places of a mini-batch in the shard, with replacement."""
        return jax.random.randint(key, (size,), 0, self.size, jnp.int32)

    def take(self, places: Array) -> PyTree:
        """The examples there, leaves [size, ...]."""
        rows = self.rows[places]
        return jax.tree.map(lambda a: a[rows], self.data)

    def batch(self, key: Key, size: int) -> PyTree:
        """A mini-batch, drawn with replacement."""
        return self.take(self.draw(key, size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """What is minimised: the mean of `losses` over everybody's examples.

    Attributes:
        data: leaves [N, ...], all examples, once.
        rows: i32[m, n], the examples of each worker.
        sizes: i32[m], how many of the n rows count for each worker.
        x0: f32[d], where the run starts.
        losses: `(x f32[d], batch) -> f32[b]`, one loss per example, so that differences can
            be averaged instead of averages differenced (float32).
        structure: hashable description of `losses` that a faster oracle may use, or None.
    """

    data: PyTree
    rows: Array
    sizes: Array
    x0: Array
    losses: Callable[[Array, PyTree], Array] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(default=None, metadata={"static": True})

    @property
    def num_workers(self) -> int:
        return self.rows.shape[-2]

    def shard(self, worker: Array) -> Shard:
        return Shard(self.data, self.rows[worker], self.sizes[worker])
