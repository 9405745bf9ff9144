"""Several processes of one job, as a rule one per host, each with devices of its own.

They train apart and meet when there is something to tell, through the key-value store of
`jax.distributed`. Collectives of the devices would do that too, but they want as many devices
in every process, round float64 to float32, and give up after half an hour of waiting on a CPU,
while a process that resumes may have hours more to do than the others.
"""

import itertools
import pickle
from typing import Any

import jax
from jax._src import distributed

from farsign_jax.validation import require

_HOUR = 3600 * 1000  # milliseconds, to carry what all have said


_PIECE = 2**26  # bytes of one message


_meetings = itertools.count()


def place() -> tuple[int, int]:
    """(which process this is, of how many): (0, 1) unless `jax.distributed` connects some."""
    state = distributed.global_state
    return (0, 1) if state.client is None else (state.process_id, state.num_processes)


def first() -> bool:
    """Whether this is the process that writes results and says how far it is."""
    return place()[0] == 0


def exchange(value: Any) -> list[Any]:
    """What every process says, by process. Waits until all of them have said something.

    All processes must call it, and equally often. `value` is anything that pickles.
    """
    index, count = place()
    if count == 1:
        return [value]
    client: Any = distributed.global_state.client
    meeting = f"farsign_jax/{next(_meetings)}"
    text = pickle.dumps(value)
    pieces = range(0, len(text), _PIECE)
    for number, begin in enumerate(pieces):
        piece = text[begin : begin + _PIECE]
        client.key_value_set_bytes(f"{meeting}/{index}/{number}", piece)
    client.key_value_set(f"{meeting}/{index}", str(len(pieces)))
    said = [_heard(client, meeting, other) for other in range(count)]
    client.wait_at_barrier(f"{meeting}/heard", _HOUR)
    for number in range(len(pieces)):  # the store is in the memory of one host
        client.key_value_delete(f"{meeting}/{index}/{number}")
    return said


def agree(value: Any, what: str) -> None:
    """Raises `InvalidConfig` where `value`, a number or a text, differs between processes."""
    told = exchange(value)
    require(len(set(told)) == 1, f"all processes need the same {what}: got {told}")


def _heard(client: Any, meeting: str, other: int) -> Any:
    """What another process says at a meeting."""
    count = _waited(client.blocking_key_value_get, f"{meeting}/{other}")
    pieces = range(int(count))
    get = client.blocking_key_value_get_bytes
    return pickle.loads(b"".join(_waited(get, f"{meeting}/{other}/{n}") for n in pieces))


def _waited(get: Any, name: str) -> Any:
    """What is under a name, as soon as it is there."""
    while True:
        try:
            return get(name, 1000)  # in between, Python hears of Ctrl-C
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
