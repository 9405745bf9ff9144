"""The list of the workers that may join."""

import os
import pathlib
import sys
import time
from typing import Any

from farsign_jax.runtime.tls import fingerprint
from farsign_jax.validation import InvalidConfig, require

_CALM = 0.5  # seconds without a change, after which a file that was rewritten in place is whole


class AllowList:
    """The workers that may join: `allowed.txt`, which is read again whenever it changes.

    A file that replaces the old one in a single step is read at once; one that is rewritten in
    place is read when it has not changed for half a second. Until a whole new list has been
    read, the old one stays: a file that cannot be read, has a wrong line or lists no worker is
    refused, which is said on standard error.

    Args:
        path: the file.
        workers: number of workers.

    Raises:
        InvalidConfig: if the file is refused when the server starts.
    """

    def __init__(self, path: str | os.PathLike, workers: int):
        self.path, self._workers = pathlib.Path(path), workers
        self._used, self._known = self._state(), self._read()
        self._seen, self._since = self._used, 0.0
        self._refused: Any = ()

    @property
    def changing(self) -> bool:
        """Whether the file is not the list that is in use."""
        return self._state() != self._used

    def worker(self, certificate: bytes) -> int | None:
        """Returns the worker with this PEM certificate, or None if it is not listed."""
        self.refresh()
        return self._known.get(fingerprint(certificate))

    def refresh(self) -> None:
        """Reads the file again if it has changed."""
        state, now = self._state(), time.monotonic()
        if state != self._seen:
            self._seen, self._since = state, now
        in_place = None in (state, self._used) or state[0] == self._used[0]
        if state in (self._used, self._refused) or (in_place and now - self._since < _CALM):
            return
        try:
            known = self._read()
            require(self._state() == state, f"{self.path} changes while it is read")
        except InvalidConfig as error:
            self._refused = state
            text = f"{error}: the workers of the list before may still join"
            print(text, file=sys.stderr, flush=True)
        else:
            self._used, self._known = state, known

    def _state(self) -> Any:
        try:
            status = self.path.stat()
            return status.st_ino, status.st_mtime_ns, status.st_size
        except OSError:
            return None

    def _read(self) -> dict[str, int]:
        known: dict[str, int] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(
                f"cannot read the list of allowed workers: {self.path}: {error}"
            ) from None
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            where = f"{self.path}, line {number}"
            rule = f"{where}: lines are WORKER FINGERPRINT: got {line[:100]!r}"
            require(len(words) == 2 and words[0].isdecimal(), rule)
            digest = words[1].replace(":", "").lower()
            require(len(digest) == 64 and set(digest) <= set("0123456789abcdef"), rule)
            digits = words[0].lstrip("0") or "0"
            most = f"{self._workers - 1}"
            fits = len(digits) <= len(most) and int(digits) < self._workers
            require(fits, f"{where}: workers are 0..{most}: got {words[0][:20]}")
            require(digest not in known, f"{where}: listed twice: {digest}")
            known[digest] = int(digits)
        require(len(known) > 0, f"{self.path} lists no worker")
        return known
