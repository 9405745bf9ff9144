"""How many answers a real server hears, what they cost, and what it takes to hold them.

    python -m benchmarks.runtime                 about 5 minutes on two cores
    python -m benchmarks.runtime --dims 25450 --counts 4

One server and 1 to 8 workers as processes of this machine, over TLS on loopback addresses.
They share its cores. After a second of warm-up, answers are counted for --seconds:

1. trivial workers, which answer 64 ones at once, for d = 25,450, a million and a hundred
   million: answers per second, bytes that a worker pulls per answer, the memory of the server
   beside 4 d (1 + m), x and y, and the processor time of the server per answer;
2. workers of the MNIST setting, 100 directions and mini-batches of 64.

Writes runtime.json and runtime.md under --out (default results/runtime).
"""

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags

from farsign_jax import directions
from farsign_jax.cli import commands
from farsign_jax.io import files, provenance, tables
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.journal import Log
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import OnHost
from farsign_jax.runtime.worker import Kind
from farsign_jax.validation import require

try:
    from farsign_jax.runtime import metrics, tls
    from farsign_jax.runtime.connection import Security
    from farsign_jax.runtime.grpc_server import GrpcServer
    from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker
    from farsign_jax.runtime.tls import Allowed
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define("list", "dims", "25450,1000000,100000000", "d of the trivial workers.")
_define("list", "counts", "1,2,4,8", "Numbers of workers.")
_define("bool", "mnist", True, "Whether the MNIST setting is timed.")
_define("float", "seconds", 5.0, "For which answers are counted.")
_define("string", "out", "results/runtime", "Folder of the report.")
_define("string", "role", None, "server or worker: what a process of this benchmark is.")
_define("string", "keys", None, "Of such a process.")
_define("string", "target", None, "Of such a process.")

OWN = ("dims", "counts", "mnist", "seconds", "out")
K = 64


async def _serve(dim: int, count: int) -> None:
    """A server of trivial workers; says its port, then a line for each line it is sent."""
    machine = OnHost(
        count,
        directions.identity(dim, K),
        np.zeros(dim, np.float32),
        0,
        step_size=0.01,
        average_step=0.3,
    )
    machine.averages[:] = 0  # all of y in memory, as after a long run
    keys = pathlib.Path(FLAGS.keys)
    security = Security(*_read(keys, "server"), Allowed(keys / "allowed.txt", count))
    log = Log(keys / f"{dim}-{count}.log", K, "benchmark-of-run")
    limits = Limits(rate=1e6, burst=1e6, history=2**16)  # to send all of x takes seconds
    core = ServerCore(machine, limits, by_seed=True, log=log.append)
    server = GrpcServer(core, "{}", "", security=security)
    port = await server.start("127.0.0.1:0")
    print(port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        used = time.process_time()
        told = {"events": core.events, "down": server.bytes["down"], "cpu": used}
        print(json.dumps(told | {"sessions": len(core.sessions)}), flush=True)
    await server.stop()


async def _work(number: int) -> None:
    """A trivial worker."""
    ones, nothing = np.ones(K, np.float32), np.zeros(0, np.float32)
    kind = Kind(lambda x, question: ones, nothing)
    credentials = Credentials(*_read(pathlib.Path(FLAGS.keys), f"worker-{number}"))
    worker = GrpcWorker(
        FLAGS.target, number, lambda *_: kind, credentials=credentials, threaded=False
    )
    await worker.run()


def _read(keys: pathlib.Path, name: str) -> tuple[bytes, bytes, bytes]:
    names = (f"{name}.key", f"{name}.crt", "authority.crt")
    key, certificate, authority = (keys.joinpath(each).read_bytes() for each in names)
    return key, certificate, authority


def _memory(pid: int) -> int:
    """Bytes that a process holds itself."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no Pss of {pid}")


def _start(*told: str, **options: Any) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    single = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    return subprocess.Popen(
        [sys.executable, "-m", *told], env=os.environ | single, **pipes, **options
    )


def _ask(server: subprocess.Popen) -> dict[str, Any]:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write("\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def trivial(dim: int, count: int, keys: pathlib.Path) -> dict[str, Any]:
    """Question 1, one of its figures."""
    module, common = "benchmarks.runtime", [f"--keys={keys}", f"--dims={dim}"]
    server = _start(module, "--role=server", f"--counts={count}", *common)
    processes = [server]
    try:
        assert server.stdout is not None
        target = f"--target=127.0.0.1:{int(server.stdout.readline())}"
        for i in range(count):
            processes.append(_start(module, "--role=worker", f"--counts={i}", target, *common))
        while (first := _ask(server))["sessions"] < count or first["events"] < 100 * count:
            time.sleep(0.1)
        time.sleep(1.0)
        before, at = _ask(server), time.monotonic()
        time.sleep(FLAGS.seconds)
        after, took = _ask(server), time.monotonic() - at
        heard = after["events"] - before["events"]
        return {
            "dim": dim,
            "workers": count,
            "rate": heard / took,
            "pull_bytes": (after["down"] - before["down"]) / heard,
            "server_us": 1e6 * (after["cpu"] - before["cpu"]) / heard,
            "memory": _memory(server.pid),
            "x_and_y": 4 * dim * (1 + count),
        }
    finally:
        _end(processes)


def mnist(count: int) -> dict[str, Any]:
    """Question 2, one of its figures."""
    from farsign_jax.runtime.testing.local_cluster import Fleet

    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(pathlib.Path(folder) / "run", count) as fleet,
    ):
        fleet.serve("--rate=1e6", "--burst=1e6", "--eval_every=1000")
        for i in range(count):
            fleet.work(i)

        def heard() -> dict[str, float]:
            return fleet.seen().get(metrics.ANSWERS, {})

        while len(found := heard()) < count or min(found.values()) < 20:
            time.sleep(0.2)
        time.sleep(1.0)
        before, at = sum(heard().values()), time.monotonic()
        time.sleep(FLAGS.seconds)
        after, took = sum(heard().values()), time.monotonic() - at
        return {"workers": count, "rate": (after - before) / took}


def _end(processes: list[subprocess.Popen]) -> None:
    for process in reversed(processes):
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def report(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = record["environment"]
    text = [f"{machine['cpu']}, {machine['cpu_cores']} CPU cores shared by all processes\n"]
    header = ["d", "workers", "answers/s", "bytes pulled per answer", "server, us per answer"]
    lines = [
        [f"{r['dim']:,}", str(r["workers"]), f"{r['rate']:,.0f}", f"{r['pull_bytes']:,.0f}"]
        + [
            f"{r['server_us']:,.0f}",
            f"{r['memory'] / 2**20:,.0f}",
            f"{r['x_and_y'] / 2**20:,.0f}",
        ]
        for r in record["trivial"]
    ]
    text.append(tables.markdown_table([*header, "memory, MiB", "x and y, MiB"], lines))
    lines = [[str(r["workers"]), f"{r['rate']:,.0f}"] for r in record["mnist"]]
    text.append(tables.markdown_table(["workers of the MNIST setting", "answers/s"], lines))
    return "\n".join(text)


def _numbers(name: str) -> list[int]:
    values = getattr(FLAGS, name)
    good = bool(values) and all(value.isdecimal() and int(value) > 0 for value in values)
    require(good, f"--{name} are positive whole numbers: got {','.join(values) or 'none'}")
    return [int(value) for value in values]


def runtime() -> pathlib.Path | None:
    commands.prepare_jax()
    if FLAGS.role == "server":
        asyncio.run(_serve(int(FLAGS.dims[0]), int(FLAGS.counts[0])))
        return None
    if FLAGS.role == "worker":
        asyncio.run(_work(int(FLAGS.counts[0])))  # its number
        return None
    dims, counts = _numbers("dims"), _numbers("counts")
    require(min(dims) >= K, f"need --dims >= {K}: got {FLAGS.dims}")
    require(FLAGS.seconds > 0, f"need --seconds > 0: got {FLAGS.seconds:g}")
    files.check_writable(FLAGS.out)
    record: dict[str, Any] = {
        "environment": provenance.environment(),
        "trivial": [],
        "mnist": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            keys = pathlib.Path(folder) / f"keys-{count}"
            tls.make(keys, count, ("127.0.0.1",))
            for dim in dims:
                record["trivial"].append(trivial(dim, count, keys))
                print(record["trivial"][-1], flush=True)
    for count in counts if FLAGS.mnist else ():
        record["mnist"].append(mnist(count))
        print(record["mnist"][-1], flush=True)
    out = pathlib.Path(FLAGS.out)
    files.write_text(out / "runtime.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "runtime.md", report(record))
    print(f"\n{report(record)}\nwritten to {out}")
    return out


if __name__ == "__main__":
    commands.main(runtime, FLAGS, __doc__, OWN)
