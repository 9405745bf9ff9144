"""Random keys of a run: from its seed one key per role, and from each role one per message.

Every key is a function of the worker and the number of the question, and not of the order of
arrivals. Every role draws from its own key, so that a new draw in one role changes no other,
and all methods and attacks with the same seed have the same schedule, data and directions.
"""

from typing import NamedTuple

import jax
import numpy as np

from farsign_jax.base import Array, Key
from farsign_jax.validation import check_key


class RunKeys(NamedTuple):
    """The roles. New ones are added at the end, so that the others keep their keys."""

    init: Key
    partition: Key
    schedule: Key
    queries: Key
    batches: Key
    attacks: Key
    server: Key
    reads: Key
    asked: Key  # what workers answer for an adversary


def split(seed: int | Array) -> RunKeys:
    """Returns the keys of a run; `seed` may be traced."""
    key = jax.random.key(seed)
    return RunKeys(*(jax.random.fold_in(key, role) for role in range(len(RunKeys._fields))))


def message(role: Key, worker: Array, number: Array) -> Key:
    """Returns the key of a message of `worker`.

    Args:
        role: one of the keys of the run.
        worker: i32[].
        number: i32[], the event in which the message is asked for, or received.
    """
    return jax.random.fold_in(jax.random.fold_in(role, worker), number)


def host_rngs(role: Key, count: int) -> list[np.random.Generator]:
    """Returns NumPy generators for draws on the host, of partitions and schedules.

    A role is drawn from in one place, which asks for all of its generators at once: number n
    of one call has the same numbers in every call, as n is part of its seed. NumPy ignores
    zeros at the end of a seed, so that a seed without a number would be that of number 0.

    Args:
        role: one of the keys of the run.
        count: the number of generators, each independent of the others.

    Raises:
        InvalidConfig: if `role` is not one key, such as `jax.random.key(0)`.
    """
    check_key(role)
    words = np.asarray(jax.random.key_data(role))
    return [np.random.default_rng([*words, number]) for number in range(count)]
