"""Runs a worker, which joins a server and answers its questions from its own part of the data.

    python -m farsign_jax.runtime.work --server host:7077 --worker 3 --certificates certificates
    python -m farsign_jax.runtime.work --server localhost:7077 --worker 0 --insecure

The folder --certificates contains worker-3.key, worker-3.crt and authority.crt. The server
names the data set, and the worker loads it on its own machine, from --data_dir. The worker
reconnects by itself if the connection or the server is lost, and stops at Ctrl-C. With
--attack, it behaves as a Byzantine worker.
"""

import asyncio
import contextlib
import math
import signal
import sys
import time
from typing import Any

from absl import flags

from farsign_jax import attacks
from farsign_jax.cli import commands, imports
from farsign_jax.runtime.worker import Answer, make_attack, make_responder
from farsign_jax.validation import require

try:
    from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker, Rejected
except ModuleNotFoundError as error:
    commands.missing(error, __name__)


def define_connection(values: flags.FlagValues) -> None:
    """Defines the flags by which a worker reaches its server."""
    define, folder = commands.definer(values), "Folder with worker-N.key, worker-N.crt and "
    define("string", "server", "localhost:7077", "HOST:PORT of the server.")
    define("integer", "worker", None, "Number of this worker, beginning with 0.", lower_bound=0)
    define("string", "certificates", None, folder + "authority.crt.")
    text = "Use neither certificates nor encryption, on this machine only."
    define("bool", "insecure", False, text)
    imports.define(values)


FLAGS = flags.FlagValues()
define_connection(FLAGS)
_define = commands.definer(FLAGS)
_define("string", "data_dir", None, "Directory of the data set on this machine.")
_define(
    "string",
    "attack",
    None,
    f"Attack that this worker runs, with options as in sign_flip:scale=10. One of "
    f"{', '.join(attacks.ATTACKS)}.",
)
_define(
    "float",
    "rate",
    None,
    "Answers per second of this worker, at most. After a pause it makes up for at most a "
    "second. By default, it answers as fast as it can.",
)
_define("float", "patience", 60.0, "Seconds without a server after which the worker gives up.")
_define("float", "ping", 10.0, "Seconds between two pings of an idle connection.")


def load_credentials(values: Any, host: str) -> Credentials | None:
    """Returns the key and certificates of the worker, or None with --insecure."""
    name = f"worker-{values.worker}"
    names = (f"{name}.key", f"{name}.crt", "authority.crt")
    contents = commands.certificates_of(values, "--server", host, *names)
    return None if contents is None else Credentials(*contents)


def paced(answer: Answer, rate: float) -> Answer:
    """Returns the same function, which waits where it is called more often per second."""
    due = time.monotonic()

    def answer_in_time(x, question):
        nonlocal due
        value = answer(x, question)
        time.sleep(max(due - time.monotonic(), 0.0))
        due = max(due, time.monotonic() - 1.0) + 1 / rate
        return value

    return answer_in_time


async def _run(worker: GrpcWorker) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await worker.run()


def work() -> None:
    """Runs the command."""
    require(FLAGS.worker is not None, "need --worker N, the number of this worker: got none")
    host, _ = commands.address("--server", FLAGS.server)
    require(FLAGS.patience > 0, f"need --patience > 0 seconds: got {FLAGS.patience}")
    require(FLAGS.ping > 0, f"need --ping > 0 seconds: got {FLAGS.ping}")
    if FLAGS.rate is not None:
        # A thread that waits longer would keep Ctrl-C waiting.
        require(0.1 <= FLAGS.rate < math.inf, f"need 0.1 <= --rate < inf: got {FLAGS.rate}")
    attack = make_attack(FLAGS.attack)
    credentials = load_credentials(FLAGS, host)
    commands.prepare_jax()

    def responder(config, fingerprint):
        made = make_responder(config, fingerprint, FLAGS.worker, attack, FLAGS.data_dir)
        if FLAGS.rate is None:
            return made
        return made._replace(answer=paced(made.answer, FLAGS.rate))

    worker = GrpcWorker(
        FLAGS.server,
        FLAGS.worker,
        responder,
        credentials=credentials,
        patience=FLAGS.patience,
        ping=FLAGS.ping,
    )
    try:
        asyncio.run(_run(worker))
    except Rejected as error:
        print(f"worker {FLAGS.worker} stops: {error}", file=sys.stderr, flush=True)
        sys.exit(3)
    print(f"worker {FLAGS.worker}: {worker.accepted} answers were accepted", flush=True)


if __name__ == "__main__":
    commands.main(work, FLAGS, __doc__)
