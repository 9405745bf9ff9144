"""Workers change their buffers where a buffer starves, as in the complete BASGD.

The server keeps a table of the buffer of each worker, beta_i, at first i mod B. A worker is
active if one of the last W answers was its own and was taken. On the arrival of an answer that
does not complete the set, for the first buffer b that has been empty for more than W answers:

    j <- the buffer with the most active workers, at least two, one of which may be moved
    i <- the active worker of j that was moved the longest time ago, if ever, and not since the
         last update
    beta_i <- b;   buffers b and j are empty, and have another W answers of time

Ties go to the lowest number. The order of arrivals alone decides, no value does.

Since the old buffer is emptied, no worker has answers in two buffers of one update: q Byzantine
workers spoil at most q of them, with and without reassignment, whenever they are silent and
however many answers they send. What they can do is to delay updates. They may fall silent in a
buffer of their own, or right after they were moved, and each time cost W answers; as a worker
is moved at most once between two updates, these are a few times W answers for each of them.
And as W is a number of answers, Byzantine workers that send many make honest ones look inactive
whose answers are more than W apart, and starve a buffer sooner. Where fewer than B workers are
active, some buffer stays empty, and updates stop as without reassignment.

References:
    Yang and Li, "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021, and
    "Buffered Asynchronous SGD for Byzantine Learning", JMLR 24(204), 2023. Of these, the text
    about the reassignment was not available: the table and its aim, to map active workers
    evenly to buffers if one starves, are theirs as far as is known. The rule above is
    reconstructed: the window W, which worker is moved, that its old buffer is emptied, and the
    limit of one move between two updates.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array


class Assignment(NamedTuple):
    """Which worker has which buffer, and since when. Times are numbers of answers."""

    slots: Array  # i32[m], beta
    answered: Array  # i32[m], when an answer of the worker was last taken; 0 for never
    moved: Array  # i32[m], when the worker was last moved; 0 for never
    since: Array  # i32[B], when the buffer was last emptied, also by a move
    emptied: Array  # i32[], the last update


def first_assignment(table: np.ndarray, buffers: int) -> Assignment:
    """Returns the assignment before the first answer, from the buffer of each worker."""
    zeros = jnp.zeros(len(table), jnp.int32)
    empty = jnp.zeros(buffers, jnp.int32)
    return Assignment(jnp.asarray(table, jnp.int32), zeros, zeros, empty, zeros[0])


def reassigned(
    now: Assignment,
    worker: Array,
    taken: Array,
    counts: Array,
    full: Array,
    time: Array,
    w: int,
) -> tuple[Assignment, Array]:
    """Returns the assignment and the counts after an answer.

    Args:
        now: the assignment before it.
        worker: i32[], who has answered; m in an empty slot.
        taken: bool[], whether the answer was put into a buffer.
        counts: i32[B], the answers in each buffer, this one among them.
        full: bool[], whether it completes the set, after which all counts are 0.
        time: i32[], the number of answers, this one among them.
        w: W, static.
    """
    m, buffers = len(now.slots), len(counts)
    answered = now.answered.at[worker].set(time, mode="drop")
    answered = jnp.where(taken, answered, now.answered)
    active = (answered > 0) & (time - answered <= w)
    movable = active & (now.moved <= now.emptied)
    where = now.slots[:, None] == jnp.arange(buffers, dtype=jnp.int32)[None]  # [m, B]
    load = jnp.sum(where & active[:, None], axis=0, dtype=jnp.int32)
    gives = jnp.any(where & movable[:, None], axis=0) & (load >= 2)
    j = jnp.argmax(jnp.where(gives, load, 0)).astype(jnp.int32)
    latest = jnp.iinfo(jnp.int32).max
    i = jnp.argmin(jnp.where(movable & (now.slots == j), now.moved, latest)).astype(jnp.int32)
    starving = (counts == 0) & (time - now.since > w)
    b = jnp.argmax(starving).astype(jnp.int32)
    moves = (worker < m) & ~full & jnp.any(starving) & jnp.any(gives)
    i = jnp.where(moves, i, m)  # where a write is dropped
    both = jnp.where(moves, jnp.stack([b, j]), buffers)
    after = Assignment(
        slots=now.slots.at[i].set(b, mode="drop"),
        answered=answered,
        moved=now.moved.at[i].set(time, mode="drop"),
        since=jnp.where(full, time, now.since.at[both].set(time, mode="drop")),
        emptied=jnp.where(full, time, now.emptied),
    )
    return after, jnp.where(full, 0, counts.at[both].set(0, mode="drop"))
