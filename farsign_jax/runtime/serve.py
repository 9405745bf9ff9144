"""Serves a run to workers that join over a network; every answer updates x as it arrives.

    python -m farsign_jax.runtime.serve --address 0.0.0.0:7077 --certificates certificates \\
        --out run --workers 8
    python -m farsign_jax.runtime.serve --insecure --workers 2 --out run     (this machine only)

The server reports its progress every few seconds: answers, answers per second, test accuracy,
staleness, and the strikes of each worker. It ends after --events answers or when it receives
Ctrl-C. The same command resumes a run that has ended or was killed. Writes config.json,
arrivals.log (every accepted answer), checkpoint.npz, strikes.json, results.csv (one row per
evaluation, as soon as it is measured) and results.json under --out.
"""

import asyncio
from typing import Any

from absl import flags

from farsign_jax.cli import commands
from farsign_jax.io import files
from farsign_jax.runtime import run_config
from farsign_jax.runtime.limits import Limits
from farsign_jax.validation import require

try:
    from farsign_jax.runtime import console, service
    from farsign_jax.runtime.allow_list import AllowList
    from farsign_jax.runtime.connection import ConnectionLimits, Security, most_connections
    from farsign_jax.runtime.grpc_server import GrpcServer
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define(
    "string",
    "address",
    "localhost:7077",
    "HOST:PORT at which the server listens. Port 0 selects a free port.",
)
_define(
    "string",
    "certificates",
    None,
    "Folder of the certificates. It contains server.key, server.crt, authority.crt and "
    "allowed.txt, as farsign_jax.runtime.tls creates them.",
)
_define(
    "bool", "insecure", False, "Use neither certificates nor encryption, on this machine only."
)
_define("float", "rate", 500.0, "Maximal answers per second of a worker. Bursts may exceed it.")
_define("float", "burst", 100.0, "Maximal burst, in answers.")
_define(
    "float", "silence", 30.0, "Seconds without a message after which a worker is disconnected."
)
_define("float", "ping", 10.0, "Seconds between two pings of an idle connection.")
_define(
    "integer",
    "wait_for",
    1,
    "Workers that must have answered before any answer is applied.",
)
service.define(FLAGS)


def load_security(values: Any, host: str, workers: int) -> Security | None:
    """Returns the keys and certificates of the server, or None with --insecure."""
    names = ("server.key", "server.crt", "authority.crt")
    contents = commands.certificates_of(values, "--address", host, *names)
    if contents is None:
        return None
    key, certificate, authority = contents
    path = files.expanded(values.certificates) / "allowed.txt"
    return Security(key, certificate, authority, AllowList(path, workers))


def serve() -> None:
    """Runs the command."""
    commands.prepare_jax()
    host, port = commands.address("--address", FLAGS.address)
    service.check_seconds(FLAGS, "silence", "ping")
    workers = service.config_of(FLAGS).workers
    rule = f"need 1 <= --wait_for <= {workers} workers: got {FLAGS.wait_for}"
    require(1 <= FLAGS.wait_for <= workers, rule)
    connections = most_connections(workers)
    limits = Limits(*(getattr(FLAGS, name) for name in Limits.__dataclass_fields__))
    security = load_security(FLAGS, host, workers)
    run = service.ServedRun(FLAGS, limits)
    server = GrpcServer(
        run.core,
        run_config.to_json(run.config),
        run.fingerprint,
        security=security,
        limits=ConnectionLimits(
            FLAGS.silence, FLAGS.ping, connections=connections, wait_for=FLAGS.wait_for
        ),
        began=run.store.seconds,
    )

    async def start() -> str:
        return f"at {host}:{await server.start(f'{host}:{port}')}"

    with console.unstoppable(server.rejected):
        asyncio.run(run.run(server, start))


if __name__ == "__main__":
    commands.main(serve, FLAGS, __doc__)
