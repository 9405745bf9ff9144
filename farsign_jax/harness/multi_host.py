"""Several hosts: the same command runs on each, and they divide its runs among them."""

import sys
from typing import NoReturn

from absl import flags

from farsign_jax.io import processes
from farsign_jax.validation import InvalidConfig, require

FLAGS = flags.FLAGS

flags.DEFINE_integer("processes", 1, "The number of processes.")
flags.DEFINE_integer("process", None, "The number of this one, from 0 on.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of the first.")


def check(many: bool) -> None:
    """Raises `InvalidConfig` on flags that do not go together.

    `many`: whether the command can divide its runs at all.
    """
    count, own, coordinator = FLAGS.processes, FLAGS.process, FLAGS.coordinator
    require(count > 0, f"need --processes > 0: got {count}")
    if count == 1:
        rule = "--process and --coordinator go with --processes: got"
        require(own is None, f"{rule} --process={own} alone")
        require(coordinator is None, f"{rule} --coordinator={coordinator} alone")
        return
    require(many, f"this command runs in one process: got --processes={count}")
    value = "none" if own is None else f"{own} of {count}"
    require(own is not None and 0 <= own < count, f"--process is 0..N-1: got {value}")
    host, colon, port = (coordinator or "").rpartition(":")
    good = host and colon and port.isdigit() and 0 < int(port) < 65536
    require(good, f"--coordinator is HOST:PORT of process 0: got {coordinator or 'none'}")


def join() -> None:
    """Connects the processes; must be called before anything else of JAX.

    Raises:
        InvalidConfig: if the coordinator cannot be reached.
    """
    if FLAGS.processes == 1:
        return
    try:
        processes.join(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
    except OSError as error:
        raise InvalidConfig(f"--coordinator={FLAGS.coordinator}: {error}") from error


def part() -> None:
    """Ends all processes but the first, after the last sweep: by then it knows all results."""
    if processes.place()[1] == 1:
        return
    first = processes.first()
    processes.part()
    if not first:
        sys.exit(0)


def leave(code: int) -> NoReturn:
    """Ends a command that failed; with it, soon, those that would wait for it."""
    processes.part()
    sys.exit(code)
