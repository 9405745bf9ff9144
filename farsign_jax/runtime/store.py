"""The files of a run, arranged so that its server may be killed at any moment.

    config.json     the configuration
    arrivals.log    every accepted answer, written before it is applied
    checkpoint.npz  the state after some of these answers, replaced atomically
    strikes.json    the strike counts, replaced at every strike

A server that is restarted restores the checkpoint and applies the answers in the journal that
came after it: no arrival is lost, and none counts twice. An answer that was recorded before the
server could reply is part of the run; its worker receives the next question when it returns.
"""

import fcntl
import json
import os
import pathlib

import numpy as np

from farsign_jax.io import files
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.journal import Arrival, Journal
from farsign_jax.validation import InvalidConfig


class Store:
    """The files in the folder of a run.

    Args:
        path: the folder; it is created if it does not exist.
        fingerprint: of the configuration.
        shape: the shape of the values of one answer.
        workers: the number m of workers.

    Attributes:
        strikes: i64[m], the strikes of earlier sessions of the server.
        seconds: the time of the last arrival, in seconds since the run began.

    Raises:
        InvalidConfig: if a file is damaged or belongs to another run, or another server uses
            the folder.
    """

    def __init__(
        self, path: str | os.PathLike, fingerprint: str, shape: tuple[int, ...], workers: int
    ):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path / "lock")
        self._fingerprint, self.seconds = fingerprint, 0.0
        try:
            durable = 0
            if self._checkpoint.exists():
                durable = int(_read_checkpoint(self._checkpoint, fingerprint)["events"])
            path, size = self.path / "arrivals.log", int(np.prod(shape))
            self._journal = Journal(path, size, fingerprint, durable)
            self.strikes = self._read_strikes(workers)
        except InvalidConfig:
            os.close(self._lock)
            raise

    @property
    def _checkpoint(self) -> pathlib.Path:
        return self.path / "checkpoint.npz"

    @property
    def set_aside(self) -> pathlib.Path | None:
        """The file to which an incomplete last record of the journal was moved, if any."""
        return self._journal.set_aside

    def append(self, arrival: Arrival) -> None:
        """Records an arrival; to be passed to `ServerCore` as `log`.

        Raises:
            NotRecorded: if it cannot be written.
        """
        self._journal.append(arrival)
        self.seconds = arrival.seconds

    def resume(self, core: ServerCore) -> int:
        """Restores the state of a run and returns the number of arrivals from the journal.

        Raises:
            InvalidConfig: if the checkpoint does not fit the core.
        """
        if self._checkpoint.exists():
            self.seconds = restore_checkpoint(core, self._checkpoint, self._fingerprint)
        apply_arrivals(core, self._journal.tail)
        if len(self._journal.tail):
            self.seconds = float(self._journal.tail["seconds"][-1])
        count, self._journal.tail = len(self._journal.tail), self._journal.tail[:0]
        return count

    def save(self, core: ServerCore) -> None:
        """Writes a checkpoint between two arrivals, which wait for it."""
        self._journal.sync()
        metadata = {
            "fingerprint": np.asarray(self._fingerprint),
            "seconds": np.asarray(self.seconds, np.float64),
        }
        files.save_arrays(self._checkpoint, core.state_dict() | metadata)

    def save_strikes(self, strikes: np.ndarray) -> None:
        """Writes all strike counts, at every strike.

        The number of writes is bounded, since an excluded worker can cause no more strikes.
        """
        counts = {str(i): int(count) for i, count in enumerate(strikes) if count}
        files.write_json(self.path / "strikes.json", counts, indent=None)

    def _read_strikes(self, workers: int) -> np.ndarray:
        path, strikes = self.path / "strikes.json", np.zeros(workers, np.int64)
        if path.exists():
            try:
                for worker, count in json.loads(path.read_text(encoding="utf-8")).items():
                    if not (worker.isdecimal() and isinstance(count, int) and count >= 0):
                        raise ValueError(f"{worker!r}: {count!r}")
                    strikes[int(worker)] = count
            except (ValueError, AttributeError, LookupError, OverflowError) as error:
                raise InvalidConfig(f"{path} is damaged ({error})") from error
        return strikes

    def close(self) -> None:
        self._journal.close()
        os.close(self._lock)


def _read_checkpoint(path: pathlib.Path, fingerprint: str) -> dict[str, np.ndarray]:
    try:
        state = files.load_arrays(path)
    except InvalidConfig as error:
        advice = "move it away, and the server makes it again from arrivals.log, which has all"
        raise InvalidConfig(f"{path} is damaged: {advice} answers") from error
    if str(state.pop("fingerprint", "")) != fingerprint:
        raise InvalidConfig(f"{path} belongs to another run: choose another --out")
    return state


def restore_checkpoint(core: ServerCore, path: pathlib.Path, fingerprint: str) -> float:
    """Restores a core from a checkpoint and returns its time in seconds since the run began.

    Raises:
        InvalidConfig: if the checkpoint is damaged, or belongs to another run.
    """
    state = _read_checkpoint(path, fingerprint)
    try:
        seconds = float(state.pop("seconds"))
        core.restore(state)
    except (ValueError, KeyError) as error:
        raise InvalidConfig(f"{path}: {error}") from error
    return seconds


def apply_arrivals(core: ServerCore, arrivals: np.ndarray) -> None:
    """Applies the arrivals of a journal to a core."""
    for arrival in arrivals:
        value = np.array(arrival["value"]).reshape(core.machine.shape)
        core.apply(int(arrival["worker"]), int(arrival["version"]), value)


def lock(path: pathlib.Path) -> int:
    """Locks a file until this process closes it or ends, for whatever reason it ends.

    Raises:
        InvalidConfig: if another process has locked it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        rule = "is in use: only one server may use a folder"
        raise InvalidConfig(f"{path.parent} {rule}") from None
    return descriptor
