"""What is on disk of a run, so that its server may be killed at any moment.

    config.json     the setting
    arrivals.log    every accepted answer, written before it is heard
    checkpoint.npz  the state after some of them, replaced as a whole
    strikes.json    replaced at every strike

What a checkpoint lacks is heard again from the log: no arrival is lost, none counts twice. An
answer that was logged and not yet replied to is part of the run; its worker is asked the next
question when it comes back.
"""

import fcntl
import json
import os
import pathlib

import numpy as np

from farsign_jax.io import files
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.journal import Arrival, Log
from farsign_jax.validation import InvalidConfig


class Store:
    """The folder of a run.

    Args:
        path: the folder; created where it is not there.
        fingerprint: of the setting.
        shape: of one answer.
        workers: m.

    Attributes:
        strikes: i64[m], those of earlier sessions of the server.
        seconds: how long the run had been running at its last arrival.

    Raises:
        InvalidConfig: where its files are damaged, or of another run.
    """

    def __init__(
        self, path: str | os.PathLike, fingerprint: str, shape: tuple[int, ...], workers: int
    ):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.path / "lock")
        self._fingerprint, self.seconds = fingerprint, 0.0
        try:
            durable = 0
            if self._checkpoint.exists():
                durable = int(_read(self._checkpoint, fingerprint)["events"])
            path, size = self.path / "arrivals.log", int(np.prod(shape))
            self._log = Log(path, size, fingerprint, durable)
            self.strikes = self._read_strikes(workers)
        except InvalidConfig:
            os.close(self._lock)
            raise

    @property
    def _checkpoint(self) -> pathlib.Path:
        return self.path / "checkpoint.npz"

    @property
    def cut(self) -> int:
        """Bytes of a torn record that were cut off the log."""
        return self._log.cut

    def append(self, arrival: Arrival) -> None:
        """For `ServerCore.log`."""
        self._log.append(arrival)
        self.seconds = arrival.seconds

    def resume(self, core: ServerCore) -> int:
        """Brings a core to where the run was; how many arrivals came out of the log.

        Raises:
            InvalidConfig: where the checkpoint is that of something else.
        """
        if self._checkpoint.exists():
            self.seconds = restore(core, self._checkpoint, self._fingerprint)
        hear_again(core, self._log.tail)
        if len(self._log.tail):
            self.seconds = float(self._log.tail["seconds"][-1])
        count, self._log.tail = len(self._log.tail), self._log.tail[:0]
        return count

    def save(self, core: ServerCore) -> None:
        """Writes a checkpoint; between two arrivals, which wait for it."""
        self._log.sync()
        more = {
            "fingerprint": np.asarray(self._fingerprint),
            "seconds": np.asarray(self.seconds, np.float64),
        }
        files.save_arrays(self._checkpoint, core.state_dict() | more)

    def save_strikes(self, strikes: np.ndarray) -> None:
        """At every strike: who has too many can make no more of them."""
        told = {str(i): int(count) for i, count in enumerate(strikes) if count}
        files.write_text(self.path / "strikes.json", json.dumps(told) + "\n")

    def _read_strikes(self, workers: int) -> np.ndarray:
        path, strikes = self.path / "strikes.json", np.zeros(workers, np.int64)
        if path.exists():
            try:
                for worker, count in json.loads(path.read_text()).items():
                    strikes[int(worker)] = int(count)
            except (ValueError, AttributeError, IndexError, TypeError) as error:
                raise InvalidConfig(f"{path} is damaged ({error})") from error
        return strikes

    def close(self) -> None:
        self._log.close()
        os.close(self._lock)


def _read(path: pathlib.Path, fingerprint: str) -> dict[str, np.ndarray]:
    state = files.load_arrays(path)
    if str(state.pop("fingerprint", "")) != fingerprint:
        raise InvalidConfig(f"{path} is of another run: choose another --out")
    return state


def restore(core: ServerCore, path: pathlib.Path, fingerprint: str) -> float:
    """Brings a core to where it was at a checkpoint; when that was, in seconds of the run.

    Raises:
        InvalidConfig: where it is damaged, or that of another run.
    """
    state = _read(path, fingerprint)
    try:
        seconds = float(state.pop("seconds"))
        core.restore(state)
    except (ValueError, KeyError) as error:
        raise InvalidConfig(f"{path}: {error}") from error
    return seconds


def hear_again(core: ServerCore, arrivals: np.ndarray) -> None:
    """Lets a core hear what a log says was accepted."""
    for arrival in arrivals:
        value = np.array(arrival["value"]).reshape(core.machine.shape)
        core.apply(int(arrival["worker"]), int(arrival["version"]), value)


def _locked(path: pathlib.Path) -> int:
    """A file that is this process' until it closes it or ends, however it ends.

    Raises:
        InvalidConfig: where it is another's.
    """
    lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise InvalidConfig(f"{path.parent} is being served: one server to a folder") from None
    return lock
