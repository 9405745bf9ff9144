"""Votes over the table for `NumpyServer`: what all workers have said becomes one number.

The rules that work on each direction by itself are in NumPy and take a third of the time of a
call of their compiled program; NNM and all others are that program. Only the sign of the result
reaches x, and it is that of the compiled update: sums add the same numbers in the same order,
and numbers below 2^-126 become zero, as in XLA.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from farsign_jax import aggregators
from farsign_jax.aggregators.row_ops import UNROLLED, headroom
from farsign_jax.methods import table_vote
from farsign_jax.methods.table_vote import TableVote
from farsign_jax.runtime.numpy_floats import flush_subnormals
from farsign_jax.runtime.state_machine import from_named, named_arrays

_ABSENT = np.float32(1e38)  # sorted after all averages, which are at most 1e30
_HALF = np.float32(0.5)


class NumpyVote(Protocol):
    """How the averages of all workers decide; it keeps what a vote keeps beside the table."""

    def decide(self, worker: int, rows: np.ndarray, new: np.ndarray, step: int) -> np.ndarray:
        """Returns numbers f32[k] with the signs of the vote.

        Args:
            worker: the worker that has answered.
            rows: f32[k, m], the averages before its answer, which may be overwritten.
            new: f32[k], its averages after it.
            step: the number of the update.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays of `VoteState` by name."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `state` returned."""
        ...


Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(averages f32[k, m], who votes bool[k, m]) -> f32[k]."""


def _majority_vote(rows: np.ndarray, cast: np.ndarray) -> np.ndarray:
    return np.where(cast, np.sign(rows), 0).sum(axis=1)


def _sorted(rows: np.ndarray, cast: np.ndarray) -> np.ndarray:
    ordered = np.where(cast, rows, _ABSENT)
    ordered.sort(axis=1)
    return ordered


def _median(rows: np.ndarray, cast: np.ndarray) -> np.ndarray:
    n, each = cast.sum(axis=1), np.arange(len(rows))
    ordered = _sorted(rows, cast)
    low, high = ordered[each, np.maximum(n - 1, 0) // 2], ordered[each, n // 2]
    middle = flush_subnormals(flush_subnormals(low + high) * _HALF)
    return np.where(n > 0, middle, 0)


def _trimmed_mean(f: int, m: int) -> Rule:
    part = np.float32(1 / headroom(m))

    def rule(rows: np.ndarray, cast: np.ndarray) -> np.ndarray:
        n = cast.sum(axis=1)
        drop = np.clip(np.minimum(f, (n - 1) // 2), 0, None)
        ordered = _sorted(flush_subnormals(rows * part), cast)
        lowest = ordered[np.arange(len(rows)), drop]
        place = np.arange(m)[:, None]
        kept = (drop <= place) & (place < n - drop)
        terms = np.where(kept, flush_subnormals(ordered.T - lowest), np.float32(0))
        total = np.add.accumulate(terms, axis=0)[-1]  # one after the other, unlike `sum`
        mean = total / np.maximum(n - 2 * drop, 1).astype(np.float32)
        return np.where(n > 0, flush_subnormals(lowest + flush_subnormals(mean)), 0)

    return rule


def _rule(m: int, text: str) -> Rule | None:
    """The rule in NumPy, if there is one."""
    (name, options), *others = aggregators.parse(text)
    if others:
        return None
    if name == "majority_vote":
        return _majority_vote
    if name == "median" and options.get("even", "mean") == "mean":
        return _median
    if name == "trimmed_mean" and "f" in options and m <= UNROLLED:
        return _trimmed_mean(options["f"], m)
    return None


class ByDirection:
    """A vote on each direction by itself."""

    def __init__(self, m: int, rule: Rule, max_age: int | None):
        self._rule, self._max_age = rule, max_age
        self._heard = np.full(m, -1, np.int32)

    def decide(self, worker: int, rows: np.ndarray, new: np.ndarray, step: int) -> np.ndarray:
        self._heard[worker] = step
        rows[:, worker] = new
        votes = self._heard >= 0
        if self._max_age is not None:
            votes &= step - self._heard <= self._max_age
        return self._rule(rows, (rows != 0) & votes)

    def state(self) -> dict[str, np.ndarray]:
        return {"heard": self._heard}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._heard = state["heard"].copy()


class Compiled:
    """Any vote, as a compiled program."""

    def __init__(self, vote: TableVote):
        self._hear, self._state = jax.jit(vote.hear, donate_argnums=0), vote.init()

    def decide(self, worker: int, rows: np.ndarray, new: np.ndarray, step: int) -> np.ndarray:
        columns = np.ascontiguousarray(rows.T)
        given = np.int32(worker), columns, new, np.int32(step)
        self._state, decisive = self._hear(self._state, *given)
        return np.asarray(decisive)

    def state(self) -> dict[str, np.ndarray]:
        return named_arrays(self._state)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._state = from_named(self._state, state)


def make(m: int, size: int, options: dict[str, Any]) -> NumpyVote | None:
    """The vote of `table_vote.table_vote` with these options; None if each answer decides.

    Raises:
        InvalidConfig: as `table_vote` does.
    """
    vote = table_vote.table_vote(m, size, **options)
    if vote is None:
        return None
    rule = _rule(m, options["vote"])
    if rule is None or options.get("age_decay", 1.0) != 1:
        return Compiled(vote)
    return ByDirection(m, rule, options.get("max_age"))
