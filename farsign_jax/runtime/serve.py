"""The server of a run: workers join, answer and leave, and x moves with every answer.

    python -m farsign_jax.runtime.serve --address 0.0.0.0:7077 --certificates certificates \\
        --out run --workers 8
    python -m farsign_jax.runtime.serve --insecure --workers 2 --out run     (this machine only)

Says every few seconds how far it is: answers heard, answers per second, test accuracy,
staleness, strikes per worker. Ctrl-C, or --events, ends it; the same command goes on where it
ended, or was killed. Writes under --out: config.json, arrivals.log (every accepted answer),
checkpoint.npz, strikes.json, results.csv and results.json.
"""

import asyncio
import pathlib
from typing import Any

from absl import flags

from farsign_jax.cli import commands
from farsign_jax.runtime import run_config, service
from farsign_jax.runtime.limits import Limits
from farsign_jax.validation import require

try:
    from farsign_jax.runtime.connection import Security, Terms
    from farsign_jax.runtime.grpc_server import GrpcServer
    from farsign_jax.runtime.tls import Allowed
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define("string", "address", "localhost:7077", "HOST:PORT to listen at; port 0: any.")
_define(
    "string",
    "certificates",
    None,
    "Folder with server.key, server.crt, authority.crt "
    "and allowed.txt (farsign_jax.runtime.tls).",
)
_define("bool", "insecure", False, "No certificates, no encryption; on this machine only.")
_define("float", "rate", 500.0, "Answers per second that a worker is asked for at most.")
_define("float", "burst", 100.0, "Answers that it may give ahead of that.")
_define("float", "silence", 30.0, "Seconds after which a silent worker is gone.")
_define("float", "ping", 10.0, "Seconds between two pings of an idle connection.")
_define("integer", "wait_for", 1, "Nobody is heard before so many workers have an answer.")
service.define(FLAGS)


def security_of(values: Any, host: str, workers: int) -> Security | None:
    """What the server shows to workers and checks them by; None with --insecure."""
    names = ("server.key", "server.crt", "authority.crt")
    found = commands.certificates_of(values, "--address", host, *names)
    if found is None:
        return None
    key, certificate, authority = found
    path = pathlib.Path(values.certificates).expanduser() / "allowed.txt"
    return Security(key, certificate, authority, Allowed(path, workers))


def serve() -> None:
    commands.prepare_jax()
    host, port = commands.address("--address", FLAGS.address)
    service.check_seconds(FLAGS, "silence", "ping")
    workers = service.config_of(FLAGS).workers
    rule = f"need 1 <= --wait_for <= {workers} workers: got {FLAGS.wait_for}"
    require(1 <= FLAGS.wait_for <= workers, rule)
    limits = Limits(*(getattr(FLAGS, name) for name in Limits.__dataclass_fields__))
    security = security_of(FLAGS, host, workers)
    run = service.Serving(FLAGS, limits)
    server = GrpcServer(
        run.core,
        run_config.to_json(run.config),
        run.fingerprint,
        security=security,
        terms=Terms(FLAGS.silence, FLAGS.ping, wait_for=FLAGS.wait_for),
        began=run.store.seconds,
    )

    async def start() -> str:
        return f"at {host}:{await server.start(f'{host}:{port}')}"

    asyncio.run(run.run(server, start))


if __name__ == "__main__":
    commands.main(serve, FLAGS, __doc__)
