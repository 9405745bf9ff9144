"""What changed since: so that a worker is sent a few numbers instead of all of x."""

from typing import NamedTuple

import numpy as np

from farsign_jax.runtime.state_machine import Machine

_SMALL = 2**18  # numbers of x that may be sent at once


class Delta(NamedTuple):
    """From one version of x to another: x[at] is now `values`. To apply it twice is harmless.

    `at` may name a coordinate twice, with the same value.
    """

    at: np.ndarray | None  # i32[n]; None, all
    values: np.ndarray  # f32[n]; f32[d], x itself, to be read before the next arrival


NOTHING = Delta(np.zeros(0, np.int32), np.zeros(0, np.float32))


class History:
    """The coordinates that the last updates changed.

    Args:
        machine: whose x it is.
        length: updates remembered.
        version: of x, now.
    """

    def __init__(self, machine: Machine, length: int, version: int):
        self._machine, self._length = machine, length
        self._ring: list[np.ndarray] = [NOTHING.values] * length
        self._version, self._first = version, version  # known from `_first` on
        self._dense = False

    def add(self, changed: np.ndarray | None) -> None:
        """One more update; None: all of x may have changed."""
        if changed is None:
            self._dense = True
        else:
            self._ring[self._version % self._length] = changed
        self._version += 1

    def since(self, version: int | None) -> Delta | None:
        """From `version` to now: what changed, or all of x where that is fewer bytes or does
        not matter; None where all of a large x is needed."""
        now, x = self._version, self._machine.params
        if version == now:
            return NOTHING
        known = version is not None and max(self._first, now - self._length) <= version < now
        if known and not self._dense:
            parts = [self._ring[n % self._length] for n in range(version or 0, now)]
            at = np.concatenate(parts)
            at = at if 2 * len(at) <= len(x) else np.unique(at)
            if 2 * len(at) <= len(x) or len(x) > _SMALL:
                return Delta(at, x[at])
        return Delta(None, x) if self._dense or len(x) <= _SMALL else None
