"""The output of a server, which neither a stalled terminal nor a full pipe stops.

While a server runs, its file descriptors 1 and 2 are pipes, each of which one thread empties at
all times. Another thread writes what was read to where the output went before. If that stalls,
only the most recent lines are kept.

This also holds for what gRPC writes by itself: it reports every failed TLS handshake, which
anyone can cause at any rate. These lines are counted instead of shown.
"""

import collections
import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator

_KEPT = 1000  # lines that wait for a stalled output
_PATIENCE = 1.0  # seconds that a stalled output has at the end
_HANDSHAKE = b"andshak"  # in the lines of gRPC: "Handshake failed", "handshaker"


class _Pump:
    """Carries the lines that are written to a descriptor to where they went before."""

    def __init__(self, descriptor: int, rejected: Counter[str]):
        self._descriptor, self._rejected = descriptor, rejected
        self._target = os.dup(descriptor)
        self._source, sink = os.pipe()
        os.dup2(sink, descriptor)
        os.close(sink)
        self._lines = collections.deque[bytes](maxlen=_KEPT)
        self._news, self._ended = threading.Event(), False
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        with open(self._source, "rb") as source:
            for line in source:
                if _HANDSHAKE in line and self._descriptor == 2:
                    self._rejected["handshake"] += 1
                else:
                    self._lines.append(line)
                    self._news.set()
        self._ended = True
        self._news.set()

    def _write(self) -> None:
        with open(self._target, "wb", buffering=0) as target:
            while self._lines or not self._ended:
                self._news.wait()
                self._news.clear()
                with contextlib.suppress(IndexError):
                    while True:
                        line = self._lines.popleft()
                        with contextlib.suppress(OSError):  # nobody reads it any more
                            while line:
                                line = line[target.write(line) :]

    def close(self) -> None:
        """Ends both threads; what a stalled output does not take is lost."""
        os.dup2(self._target, self._descriptor)  # closes the pipe for writing
        for thread in self._threads:
            thread.join(_PATIENCE)


@contextlib.contextmanager
def unstoppable(rejected: Counter[str]) -> Iterator[None]:
    """Lets nothing that this process writes to its output wait for a reader.

    Args:
        rejected: counts failed handshakes as "handshake".
    """
    pumps = []
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        pumps.append(_Pump(descriptor, rejected))
    try:
        yield
    finally:
        for stream, pump in zip((sys.stdout, sys.stderr), pumps, strict=True):
            stream.flush()
            pump.close()
