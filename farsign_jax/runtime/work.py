"""A worker: joins a server, learns what the run is, and answers from its own part of the data.

    python -m farsign_jax.runtime.work --server host:7077 --worker 3 --certificates certificates
    python -m farsign_jax.runtime.work --server localhost:7077 --worker 0 --insecure

--certificates has worker-3.key, worker-3.crt and authority.crt. The data set is loaded here,
by the name the server says; --data_dir says where it lies. Comes back by itself when the
connection or the server is lost; leaves at Ctrl-C. --attack makes a liar of it, to see what
that does.
"""

import asyncio
import contextlib
import signal
import sys
from typing import Any

from absl import flags

from farsign_jax import attacks
from farsign_jax.cli import commands
from farsign_jax.runtime.worker import attack_of, kind_of
from farsign_jax.validation import require

try:
    from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker, Refused
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define("string", "server", "localhost:7077", "HOST:PORT.")
_define("integer", "worker", None, "Its number, from 0 on.", lower_bound=0)
_define(
    "string", "certificates", None, "Folder with worker-N.key, worker-N.crt and authority.crt."
)
_define("bool", "insecure", False, "No certificates, no encryption; on this machine only.")
_define("string", "data_dir", None, "Where the data set lies on this machine.")
_define(
    "string",
    "attack",
    None,
    f"Lies instead: {', '.join(attacks.ATTACKS)}, with options as in sign_flip:scale=10.",
)
_define("float", "patience", 60.0, "Seconds without a server after which it gives up.")
_define("float", "ping", 10.0, "Seconds between two pings of an idle connection.")


def credentials_of(values: Any, host: str) -> Credentials | None:
    """What a worker shows to the server and checks it by; None with --insecure."""
    name = f"worker-{values.worker}"
    names = (f"{name}.key", f"{name}.crt", "authority.crt")
    found = commands.certificates_of(values, "--server", host, *names)
    return None if found is None else Credentials(*found)


async def _run(worker: GrpcWorker) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await worker.run()


def work() -> None:
    require(FLAGS.worker is not None, "--worker N says which worker this is: got none")
    host, _ = commands.address("--server", FLAGS.server)
    require(FLAGS.patience > 0, f"need --patience > 0 seconds: got {FLAGS.patience}")
    require(FLAGS.ping > 0, f"need --ping > 0 seconds: got {FLAGS.ping}")
    attack = attack_of(FLAGS.attack)
    credentials = credentials_of(FLAGS, host)
    commands.prepare_jax()

    def make(text, fingerprint):
        return kind_of(text, fingerprint, FLAGS.worker, attack, FLAGS.data_dir)

    worker = GrpcWorker(
        FLAGS.server,
        FLAGS.worker,
        make,
        credentials=credentials,
        patience=FLAGS.patience,
        ping=FLAGS.ping,
    )
    try:
        asyncio.run(_run(worker))
    except Refused as error:
        print(f"worker {FLAGS.worker} leaves: {error}", file=sys.stderr, flush=True)
        sys.exit(3)
    print(f"worker {FLAGS.worker}: {worker.accepted} answers accepted", flush=True)


if __name__ == "__main__":
    commands.main(work, FLAGS, __doc__)
