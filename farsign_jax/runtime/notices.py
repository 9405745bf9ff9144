"""What a server says about writes that fail while it runs."""

import contextlib
import sys
from collections.abc import Iterator


class Notice:
    """Says once that writes fail, and once that they succeed again.

    Args:
        what: what is written, the subject of a sentence in the plural: "answers".
        meanwhile: what happens until it can be written.
    """

    def __init__(self, what: str, meanwhile: str):
        self._what, self._meanwhile, self._failing = what, meanwhile, False

    @contextlib.contextmanager
    def watching(self, failures: type[Exception] = OSError) -> Iterator[None]:
        """Watches one write; its error is raised after it has been reported."""
        try:
            yield
        except failures as error:
            if not self._failing:
                text = f"{self._what} cannot be written: {error}: {self._meanwhile}"
                print(text, file=sys.stderr, flush=True)
            self._failing = True
            raise
        if self._failing:
            print(f"{self._what} are written again", file=sys.stderr, flush=True)
        self._failing = False

    @contextlib.contextmanager
    def tolerating(self) -> Iterator[None]:
        """Watches one write, whose `OSError` is reported and not raised."""
        with contextlib.suppress(OSError), self.watching():
            yield
