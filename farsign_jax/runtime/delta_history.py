"""The recent changes of x, so that a worker receives a few values instead of all of x."""

from typing import NamedTuple

import numpy as np

from farsign_jax.runtime.state_machine import StateMachine

_SMALL = 2**18  # number of values of x that may be sent at once


class Delta(NamedTuple):
    """The difference between two versions of x: x[indices] has become `values`.

    `indices` may contain a coordinate twice, with the same value. Applying a delta twice has
    the same effect as applying it once.
    """

    indices: np.ndarray | None  # i32[n]; None means every coordinate
    # f32[n]; if indices is None, x itself, f32[d], which must be read before the next update.
    values: np.ndarray


NO_CHANGE = Delta(np.zeros(0, np.int32), np.zeros(0, np.float32))


class DeltaHistory:
    """The coordinates that the most recent updates have changed.

    Args:
        machine: the state machine that holds x.
        length: number of updates that are remembered.
        version: the current version of x.
    """

    def __init__(self, machine: StateMachine, length: int, version: int):
        self._machine, self._length = machine, length
        self._ring: list[np.ndarray] = [NO_CHANGE.values] * length
        self._version, self._first = version, version  # changes are known from `_first` on
        self._dense = False

    def add(self, changed: np.ndarray | None) -> None:
        """Records the coordinates that an update may have changed; None means all of them."""
        if changed is None:
            self._dense = True
        else:
            self._ring[self._version % self._length] = changed
        self._version += 1

    def since(self, version: int | None) -> Delta | None:
        """Returns the changes from `version` to the current version of x.

        The delta contains all of x if that takes fewer bytes, or if x is small. Returns None
        if all of a large x is needed.
        """
        current, x = self._version, self._machine.params
        if version == current:
            return NO_CHANGE
        oldest = max(self._first, current - self._length)
        known = version is not None and oldest <= version < current
        if known and not self._dense:
            changes = [self._ring[n % self._length] for n in range(version or 0, current)]
            indices = np.concatenate(changes)
            indices = indices if 2 * len(indices) <= len(x) else np.unique(indices)
            if 2 * len(indices) <= len(x) or len(x) > _SMALL:
                return Delta(indices, x[indices])
        return Delta(None, x) if self._dense or len(x) <= _SMALL else None
