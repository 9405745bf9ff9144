"""One seed -> one key per role -> one key per message.

Every key is a function of *who* and *which question*, never of the order of arrivals, and
every role draws from its own key: a new draw in one role shifts no other, and all methods
and attacks of a seed face the same schedule, data and directions.
"""

from typing import NamedTuple

import jax
import numpy as np

from farsign_jax.base import Array, Key


class RunKeys(NamedTuple):
    """The roles. New ones go last, so that the others keep their keys."""

    init: Key
    partition: Key
    schedule: Key
    queries: Key
    batches: Key
    attacks: Key
    server: Key


def split(seed: int | Array) -> RunKeys:
    """The keys of a run; `seed` may be traced."""
    key = jax.random.key(seed)
    return RunKeys(*(jax.random.fold_in(key, role) for role in range(len(RunKeys._fields))))


def message(role: Key, worker: Array, number: Array) -> Key:
    """The key of message `number` of `worker`: the event in which it was asked, or is heard."""
    return jax.random.fold_in(jax.random.fold_in(role, worker), number)


def host_rng(role: Key) -> np.random.Generator:
    """A NumPy generator for work done on the host before the loop (partitions, schedules)."""
    return np.random.default_rng(np.asarray(jax.random.key_data(role)))
