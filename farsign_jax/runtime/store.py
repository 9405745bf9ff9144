"""What is on disk of a run, so that its server may be killed at any moment.

    config.json     the setting
    arrivals.log    every accepted answer, written before it is heard
    checkpoint.npz  the state after some of them, replaced as a whole
    strikes.json    replaced at every strike

What a checkpoint lacks is heard again from the log: no arrival is lost, none counts twice. An
answer that was logged and not yet replied to is part of the run; its worker is asked the next
question when it comes back.
"""

import json
import os
import pathlib

import numpy as np

from farsign_jax import results
from farsign_jax.base import InvalidConfig
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.log import Arrival, Log


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
        self._state = None
        if self._checkpoint.exists():
            self._state = results.load_arrays(self._checkpoint)
            if str(self._state.pop("fingerprint", "")) != fingerprint:
                raise InvalidConfig(
                    f"{self._checkpoint} is of another run: choose another --out"
                )
        durable = 0 if self._state is None else int(self._state["events"])
        size = int(np.prod(shape))
        self._log = Log(self.path / "arrivals.log", size, fingerprint, durable)
        self._shape, self._fingerprint = shape, fingerprint
        self.strikes = self._read_strikes(workers)
        self.seconds = 0.0 if self._state is None else float(self._state.pop("seconds"))

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
        if self._state is not None:
            try:
                core.restore(self._state)
            except (ValueError, KeyError) as error:
                raise InvalidConfig(f"{self._checkpoint}: {error}") from error
            self._state = None
        for arrival in self._log.tail:
            value = np.array(arrival["value"]).reshape(self._shape)
            core.apply(int(arrival["worker"]), int(arrival["version"]), value)
            self.seconds = float(arrival["seconds"])
        count, self._log.tail = len(self._log.tail), self._log.tail[:0]
        return count

    def save(self, core: ServerCore) -> None:
        """Writes a checkpoint; between two arrivals, which wait for it."""
        self._log.sync()
        more = {
            "fingerprint": np.asarray(self._fingerprint),
            "seconds": np.asarray(self.seconds, np.float64),
        }
        results.save_arrays(self._checkpoint, core.state_dict() | more)

    def save_strikes(self, strikes: np.ndarray) -> None:
        """At every strike: who has too many can make no more of them."""
        told = {str(i): int(count) for i, count in enumerate(strikes) if count}
        results.write_text(self.path / "strikes.json", json.dumps(told) + "\n")

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
