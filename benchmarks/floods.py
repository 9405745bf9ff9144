"""Measures how many answers of honest workers a real server accepts while it is flooded.

    python -m benchmarks.floods                        about 3 minutes on two cores
    python -m benchmarks.floods --behaviours garbage --seconds 3

One server and its clients run as processes of this machine, use TLS over loopback addresses and
share the cores. Two honest workers answer as often as they may, 50 times a second each. After a
measurement without a flood, four clients behave as `farsign_jax.runtime.testing` describes it,
one behaviour after the other; with `connections`, 400 connections that send nothing are opened
again and again. Each has a server of its own.

Writes floods.json and floods.md under --out (default results/floods).
"""

import asyncio
import contextlib
import pathlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from benchmarks.runtime import key_files
from farsign_jax.cli import commands
from farsign_jax.io import files, provenance, tables
from farsign_jax.runtime.worker import Responder
from farsign_jax.validation import lookup, require

try:
    from farsign_jax.runtime import metrics
    from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker
    from farsign_jax.runtime.testing.adversarial_client import BEHAVIOURS
    from farsign_jax.runtime.testing.local_cluster import LocalCluster
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

CLIENT = "farsign_jax.runtime.testing.adversarial_client"
KINDS = [*BEHAVIOURS, "connections"]
HONEST, FLOODS, IDLE, K = 2, 4, 400, 20

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define("list", "behaviours", ",".join(KINDS), "The floods.")
_define("float", "seconds", 5.0, "Seconds for which answers are counted.")
_define("string", "out", "results/floods", "Folder of the results.")


async def answer(local: LocalCluster, number: int) -> None:
    """Lets a worker answer at once whatever it is asked."""
    responder = Responder(lambda x, question: np.ones(K, np.float32), np.zeros(0, np.float32))
    credentials = Credentials(*key_files(local.certificates, f"worker-{number}"))
    options: dict[str, Any] = {"credentials": credentials, "threaded": False}
    await GrpcWorker(local.target, number, lambda *_: responder, **options).run()


def rate(local: LocalCluster) -> float:
    """The accepted answers of honest workers per second."""

    def accepted() -> float:
        found = local.metrics()
        of = [
            metrics.total(found, "answers_total", worker=i, verdict="accepted") for i in (0, 1)
        ]
        return sum(of)

    before, then = accepted(), time.monotonic()
    time.sleep(FLAGS.seconds)
    return (accepted() - before) / (time.monotonic() - then)


@contextlib.contextmanager
def flood(local: LocalCluster, behaviour: str) -> Iterator[None]:
    """Floods the server until the block ends."""
    if behaviour != "connections":
        options = [f"--directions={K}", "--seconds=3600", f"--behaviours={behaviour}"]
        clients = [
            local.start_worker(HONEST + number, *options, module=CLIENT)
            for number in range(FLOODS)
        ]
        while metrics.total(local.metrics(), "joins_total") < HONEST + FLOODS:
            time.sleep(0.1)
        yield
        for client in clients:
            client.kill()
        return
    host, port = local.target.split(":")
    ended = threading.Event()

    def connect() -> None:
        while not ended.is_set():
            idle = []
            for _ in range(IDLE):
                with contextlib.suppress(OSError):
                    idle.append(socket.create_connection((host, int(port)), timeout=1))
            ended.wait(0.2)
            for one in idle:
                one.close()

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def both_rates(local: LocalCluster, behaviour: str) -> tuple[float, float]:
    """The rate without a flood, and during it."""
    while metrics.total(local.metrics(), "events_total") < 100:
        time.sleep(0.1)
    alone = rate(local)
    with flood(local, behaviour):
        return alone, rate(local)


async def measure(behaviour: str) -> dict[str, Any]:
    """Measures one flood, with a server of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(pathlib.Path(folder) / "run", HONEST + FLOODS) as local,
    ):
        local.start_server(
            f"--directions={K}", "--batch_size=16", "--model=softmax_regression",
            "--rate=50", "--burst=10", "--silence=3", "--eval_every=1000",
        )  # fmt: skip
        honest = [asyncio.create_task(answer(local, number)) for number in range(HONEST)]
        alone, flooded = await asyncio.to_thread(both_rates, local, behaviour)
        for task in honest:
            task.cancel()
        await asyncio.gather(*honest, return_exceptions=True)
        return {"behaviour": behaviour, "alone": alone, "flooded": flooded}


async def measure_all() -> dict[str, Any]:
    """Measures the floods that --behaviours names."""
    record: dict[str, Any] = {"environment": provenance.environment(), "floods": []}
    for behaviour in FLAGS.behaviours:
        record["floods"].append(await measure(behaviour))
        print(record["floods"][-1], flush=True)
    return record


def report(record: dict[str, Any]) -> str:
    """Returns the measurements as Markdown."""
    machine = record["environment"]
    lines = [
        [r["behaviour"], f"{r['alone']:.1f}", f"{r['flooded']:.1f}"]
        + [f"{100 * r['flooded'] / r['alone']:.0f} %"]
        for r in record["floods"]
    ]
    header = ["flood", "honest answers/s without it", "during it", "ratio"]
    text = f"{machine['cpu']}, {machine['cpu_cores']} CPU cores shared by all processes\n\n"
    return text + tables.markdown_table(header, lines)


def floods() -> pathlib.Path:
    """Runs the command and returns the folder of its results."""
    commands.prepare_jax()
    require(FLAGS.seconds > 0, f"need --seconds > 0: got {FLAGS.seconds:g}")
    require(len(FLAGS.behaviours) > 0, f"--behaviours names none: known: {', '.join(KINDS)}")
    for behaviour in FLAGS.behaviours:
        lookup("behaviour", behaviour, dict.fromkeys(KINDS))
    files.check_writable(FLAGS.out)
    record = asyncio.run(measure_all())
    out = pathlib.Path(FLAGS.out)
    files.write_json(out / "floods.json", record)
    files.write_text(out / "floods.md", report(record))
    print(f"\n{report(record)}\nThe results are in {out}")
    return out


if __name__ == "__main__":
    commands.main(floods, FLAGS, __doc__)
