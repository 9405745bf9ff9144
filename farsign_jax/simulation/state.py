"""The state of a run between two events."""

from typing import Any, NamedTuple

from farsign_jax.base import Array
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.validation import require

DELIVERIES = {
    "fresh": "The arriving worker is asked, answers and is received in one event",
    "outstanding": "Each worker has L open questions (outstanding:L; 1): answers grow stale",
    "inconsistent": "As fresh, but coordinates of x are 0..L-1 events old (inconsistent:L; 10)",
}
_USUAL = {"fresh": 0, "outstanding": 1, "inconsistent": 10}  # L, where it is not given


def _parse(delivery: str) -> tuple[str, int]:
    """Returns the name of a delivery and its L, which is 0 for "fresh".

    Raises:
        InvalidConfig: if there is no such delivery.
    """
    name, colon, number = delivery.partition(":")
    good = name in _USUAL
    if colon:
        good = good and name != "fresh" and number.isdecimal() and 0 < int(number) < 2**16
    rule = "delivery is fresh, outstanding:L or inconsistent:L with 0 < L < 65536"
    require(good, f"{rule}: got {delivery!r}")
    return name, int(number) if colon else _USUAL[name]


def depth(delivery: str) -> int:
    """Returns how many questions each worker has open between two events, or 0.

    Raises:
        InvalidConfig: if there is no such delivery.
    """
    name, number = _parse(delivery)
    return number if name == "outstanding" else 0


def history_length(delivery: str) -> int:
    """Returns how many of the last iterates are kept, for "inconsistent" delivery, or 0.

    Raises:
        InvalidConfig: if there is no such delivery.
    """
    name, number = _parse(delivery)
    return number if name == "inconsistent" else 0


class Memory(NamedTuple):
    """What each worker last reported, kept for servers that do not remember it themselves."""

    reported: dict[str, Array]  # f32[m, k] in each space that an attack looks at
    received: Array  # bool[m]


class History(NamedTuple):
    """The last L iterates that the server asked about, that of event n at n modulo L."""

    params: Array  # f32[L, d]
    versions: Array  # i32[L], the server step of each


class Run(NamedTuple):
    """The complete state of a run between two events."""

    server: Any  # the server's state
    workers: Any  # states of the workers, leaves [m, ...]
    attack: Any  # the attack's state
    inbox: Any  # Report of [m, L]: answers under way; () in fresh delivery
    memory: Any  # Memory, or () if no attack needs it
    events: Array  # i32[], events so far; numbers the questions, whatever `step` counts
    staleness: Staleness
    history: Any = ()  # History in inconsistent delivery, else ()


def output(run: Run) -> Array:
    """Returns f32[..., d], what a run is judged by: the server's `output`, else the iterate."""
    return getattr(run.server, "output", run.server.params)
