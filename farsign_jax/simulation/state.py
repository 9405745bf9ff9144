"""The state of a run between two events."""

from typing import Any, NamedTuple

from farsign_jax.base import Array
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.validation import require

DELIVERIES = {
    "fresh": "The arriving worker is asked, answers and is received in one event",
    "outstanding": "Each worker has L open questions (outstanding:L; 1): answers grow stale",
}


def depth(delivery: str) -> int:
    """Returns how many questions each worker has open between two events; 0 means "fresh".

    Raises:
        InvalidConfig: if there is no such delivery.
    """
    if delivery == "fresh":
        return 0
    name, colon, number = delivery.partition(":")
    good = name == "outstanding" and (not colon or (number.isdecimal() and int(number) > 0))
    rule = "delivery is fresh, outstanding or outstanding:L with 0 < L < 65536"
    require(good and int(number or 1) < 2**16, f"{rule}: got {delivery!r}")
    return int(number or 1)


class Memory(NamedTuple):
    """What each worker last reported, kept for servers that do not remember it themselves."""

    reported: dict[str, Array]  # f32[m, k] in each space that an attack looks at
    received: Array  # bool[m]


class Run(NamedTuple):
    """The complete state of a run between two events."""

    server: Any  # the server's state
    workers: Any  # states of the workers, leaves [m, ...]
    attack: Any  # the attack's state
    inbox: Any  # Report of [m, L]: answers under way; () in fresh delivery
    memory: Any  # Memory, or () if no attack needs it
    events: Array  # i32[], events so far; numbers the questions, whatever `step` counts
    staleness: Staleness


def output(run: Run) -> Array:
    """Returns f32[..., d], what a run is judged by: the server's `output`, else the iterate."""
    return getattr(run.server, "output", run.server.params)
