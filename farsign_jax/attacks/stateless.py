"""What attacks on messages are made of: attacks without state, and the numbers of options."""

from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import require


class Forge(Protocol):
    """The message of an attack without state.

    Args:
        report: the honest report of the Byzantine worker, without a leading axis.
        view: all that the adversary may look at.
        key: a key of this message alone.

    Returns:
        The value to send, of the shape and type of `report.value`.
    """

    def __call__(self, report: Report, view: View, key: Key, /) -> Array: ...


def stateless(forge: Forge, *, omniscient: bool = False) -> Attack:
    """An attack without state."""

    def init(num_workers: int) -> tuple[()]:
        return ()

    def with_state(
        state: tuple[()], report: Report, view: View, key: Key
    ) -> tuple[tuple[()], Array]:
        return state, forge(report, view, key)

    return Attack(init, with_state, omniscient)


def check_finite(attack: str, option: str, value: Any) -> None:
    """Raises `InvalidConfig` unless an option is a number that float32 can hold.

    Infinity times an answer of 0 would be NaN.
    """
    rule = f"{attack} needs a finite {option}, at most 3.4e38 in size: got {value}"
    require(abs(value) <= float(np.finfo(np.float32).max), rule)


def like(report: Report, option: Any) -> Array:
    """A number in the type of the honest answer, whatever type the option has."""
    return jnp.asarray(option, report.value.dtype)
