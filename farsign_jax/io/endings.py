"""How a command ends: in one line for what its user can mend, else in a traceback."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from farsign_jax.validation import DataError, InvalidConfig

BAD_INPUT = 2
INTERRUPTED = 130
CLOSED_PIPE = 141  # as if the signal had ended it: 128 + SIGPIPE

Leave = Callable[[int], NoReturn]


def fail(error: Any, leave: Leave = sys.exit) -> NoReturn:
    """Prints an error in one line and ends the command with exit code 2."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    leave(BAD_INPUT)


@contextlib.contextmanager
def in_one_line(leave: Leave = sys.exit, interrupted: str = "") -> Iterator[None]:
    """Runs a command; its input, its files and its user end it without a traceback.

    Bad input and errors of the system, such as a full disk, end in one line and exit code 2,
    Ctrl-C in exit code 130, and an output that nobody reads, as in `... | head`, silently in
    exit code 141; every other exception is an error in the code, and ends in its traceback.
    Characters that the output cannot encode are replaced by "?".

    Args:
        leave: ends the process with an exit code.
        interrupted: what is printed at Ctrl-C.
    """
    replace: Any = getattr(sys.stdout, "reconfigure", None)
    if replace is not None:
        replace(errors="replace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except (InvalidConfig, DataError) as error:
        fail(error, leave)
    except BrokenPipeError:
        _drop(sys.stdout, sys.stderr)
        leave(CLOSED_PIPE)
    except OSError as error:
        where = _name(error)
        fail(f"{where}: {error.strerror}" if where else error, leave)
    except KeyboardInterrupt:
        if interrupted:
            print(f"\n{interrupted}", file=sys.stderr)
        leave(INTERRUPTED)
    except Exception:
        traceback.print_exc()  # here, as `leave` may end the process in its own way
        leave(1)


def _name(error: OSError) -> str:
    """The file of an error; "" where it is not known, standard output if this fails too."""
    unknown = error.errno is not None and not error.filename
    try:
        print(end="\n" if unknown else "", flush=True)
    except OSError:
        _drop(sys.stdout)
        return str(error.filename or "standard output")
    return str(error.filename or "")


def _drop(*streams: Any) -> None:
    """Sends what these streams still hold nowhere: Python writes it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
