"""The progress of a long command, and Ctrl-C at the right moment."""

import signal
import sys
import threading
import time
import weakref
from typing import Any

import tqdm

from farsign_jax.io import processes

_SECONDS = 10  # between two lines where there is no terminal
_open: "weakref.WeakSet[Progress]" = weakref.WeakSet()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Progress:
    """A bar with an estimate of the time left on a terminal or in a notebook; elsewhere a line
    every ten seconds. Threads may share it.

    Ctrl-C takes effect between two segments, when all files are complete; a second Ctrl-C takes
    effect at once. Of several processes, the first one shows the progress, and learns that of
    the others when a sweep ends.
    """

    def __init__(self, total: int):
        self.silent = not processes.first()
        drawn = sys.stderr.isatty() or "ipykernel" in sys.modules  # these overwrite a line
        self.bar = tqdm.tqdm(
            total=total, unit="event", unit_scale=True, disable=self.silent or not drawn
        )
        self.total, self.done, self.began, self.printed = total, 0, time.monotonic(), 0.0
        self.label = ""
        self.interrupted = False
        self.handler: Any = None
        self.lock = threading.Lock()
        if _in_main_thread():  # others may not set handlers
            self.handler = signal.signal(signal.SIGINT, self._interrupt)
        _open.add(self)

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def close(self) -> None:
        """Removes the bar and gives Ctrl-C back to whoever had it."""
        if self.handler is not None and _in_main_thread():
            signal.signal(signal.SIGINT, self.handler)
            self.handler = None
        self.bar.close()
        _open.discard(self)

    def start(self, label: str) -> None:
        """Names what runs from now on."""
        self.label = label
        self.bar.set_description(label)

    def __call__(self, events: int) -> None:
        """Counts events as done.

        Raises:
            KeyboardInterrupt: if Ctrl-C was pressed since the last call.
        """
        if self.interrupted:
            self.close()
            raise KeyboardInterrupt
        with self.lock:
            self._count(events)

    def _count(self, events: int) -> None:
        self.done += events
        self.bar.update(events)
        elapsed = time.monotonic() - self.began
        late = elapsed - self.printed > _SECONDS or self.done == self.total
        if self.bar.disable and late and not self.silent:
            self.printed = elapsed
            line = tqdm.tqdm.format_meter(
                int(self.done), int(self.total), elapsed, unit="event", ncols=80
            )
            print(f"{self.label}: {line}", file=sys.stderr, flush=True)


def interrupt_all() -> None:
    """Ends whatever shows its progress, in any thread, at the end of its segment."""
    for progress in list(_open):
        progress.interrupted = True


def close_all() -> None:
    """Removes all bars."""
    for progress in list(_open):
        progress.close()
