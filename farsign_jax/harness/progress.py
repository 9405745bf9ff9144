"""How far a long command has come, and Ctrl-C at the right moment."""

import signal
import sys
import threading
import time
from typing import Any

import tqdm

from farsign_jax.io import processes


class Progress:
    """A bar with an ETA on a terminal or in a notebook, elsewhere a line every ten seconds.

    Ctrl-C takes effect between two segments, when everything is in its place; a second one
    at once. Of several processes, the first says how far it is, and hears of the others when a
    sweep ends.
    """

    def __init__(self, total: int):
        self.silent = not processes.first()
        drawn = sys.stderr.isatty() or "ipykernel" in sys.modules  # which draw over a line
        self.bar = tqdm.tqdm(
            total=total, unit="event", unit_scale=True, disable=self.silent or not drawn
        )
        self.total, self.done, self.began, self.said = total, 0, time.monotonic(), 0.0
        self.label = ""
        self.interrupted = False
        self.handler: Any = None
        if threading.current_thread() is threading.main_thread():  # only there may we listen
            self.handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def close(self) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
        self.bar.close()

    def start(self, label: str) -> None:
        self.label = label
        self.bar.set_description(label)

    def __call__(self, events: int) -> None:
        if self.interrupted:
            self.close()
            raise KeyboardInterrupt
        self.done += events
        self.bar.update(events)
        elapsed = time.monotonic() - self.began
        if self.silent:
            return
        if self.bar.disable and (elapsed - self.said > 10 or self.done == self.total):
            self.said = elapsed
            line = tqdm.tqdm.format_meter(
                int(self.done), int(self.total), elapsed, unit="event", ncols=80
            )
            print(f"{self.label}: {line}", file=sys.stderr, flush=True)
