"""Measures the throughput, the cost per answer and the memory of a real server.

    python -m benchmarks.runtime                 about 5 minutes on two cores
    python -m benchmarks.runtime --dims 25450 --counts 4

One server and 1 to 8 workers run as processes of this machine, use TLS over loopback addresses
and share the cores. After a warm-up of one second, answers are counted for --seconds:

1. Trivial workers answer with 64 ones at once, for d = 25,450, a million and a hundred million:
   answers per second, bytes that a worker receives per answer, the memory of the server beside
   that of x and y, 4 d (1 + m) bytes, and the processor time of the server per answer.
2. Trivial workers answer with 100 ones to a server of 25 workers, for each of the --votes.
3. Workers of the MNIST setting use 100 directions and mini-batches of 64.

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
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from farsign_jax import directions
from farsign_jax.cli import commands
from farsign_jax.io import files, provenance, tables
from farsign_jax.methods import table_vote
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.journal import Journal
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.worker import Responder
from farsign_jax.validation import require

try:
    from farsign_jax.runtime import metrics, tls
    from farsign_jax.runtime.allow_list import AllowList
    from farsign_jax.runtime.connection import Security
    from farsign_jax.runtime.grpc_server import GrpcServer
    from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

VOTES = "own,median,nnm:f=5+trimmed_mean:f=5"
FLAGS = flags.FlagValues()
_define = commands.definer(FLAGS)
_define("list", "dims", "25450,1000000,100000000", "Dimensions d for the trivial workers.")
_define("list", "counts", "1,2,4,8", "Numbers of workers.")
_define("list", "votes", VOTES, "Votes of 25 workers to measure.")
_define("bool", "mnist", True, "Whether to measure the MNIST setting.")
_define("float", "seconds", 5.0, "Seconds for which answers are counted.")
_define("string", "out", "results/runtime", "Folder of the results.")
_define("string", "role", None, "Role of a process of this benchmark, server or worker.")
_define("string", "keys", None, "Folder of the certificates of such a process.")
_define("string", "case", None, "Case of such a process, JSON.")
_define("integer", "number", None, "Worker.")
_define("string", "target", None, "HOST:PORT of the server, for a worker.")

OWN = ("dims", "counts", "votes", "mnist", "seconds", "out")


class Case(NamedTuple):  # a server of trivial workers
    dim: int  # d
    connected: int  # the number of workers that answer
    workers: int  # m
    directions: int = 64  # k
    vote: str = table_vote.OWN


async def _serve(case: Case) -> None:
    """Serves trivial workers; prints the port, and then its counters for each line of input."""
    dim, count, m, k, vote = case
    machine = NumpyServer(
        m,
        directions.identity(dim, k),
        np.zeros(dim, np.float32),
        0,
        step_size=0.01,
        average_step=0.3,
        votes={"vote": vote},
    )
    machine.averages[:] = 0  # brings all of y into memory, as after a long run
    if vote != table_vote.OWN:
        for i in range(m):  # all vote on all directions
            machine.update(i, 0, machine.query(i, 0), np.ones(k, np.float32))
        machine.averages[:] = np.random.default_rng(0).normal(size=machine.averages.shape)
    keys = pathlib.Path(FLAGS.keys)
    security = Security(*key_files(keys, "server"), AllowList(keys / "allowed.txt", count))
    journal = Journal(keys / f"{os.getpid()}.log", k, "benchmark-of-run")
    limits = Limits(rate=1e6, burst=1e6, history=2**16)  # sending all of x takes seconds
    core = ServerCore(machine, limits, by_seed=True, log=journal.append)
    server = GrpcServer(core, "{}", "", security=security)
    port = await server.start("127.0.0.1:0")
    print(port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        used = time.process_time()
        counters = {"events": core.events, "down": server.bytes["down"], "cpu": used}
        print(files.json_text(counters | {"sessions": len(core.sessions)}), flush=True)
    await server.stop()


async def _work(number: int, case: Case) -> None:
    """Runs a trivial worker."""
    ones, nothing = np.ones(case.directions, np.float32), np.zeros(0, np.float32)
    responder = Responder(lambda x, question: ones, nothing)
    credentials = Credentials(*key_files(pathlib.Path(FLAGS.keys), f"worker-{number}"))
    worker = GrpcWorker(
        FLAGS.target, number, lambda *_: responder, credentials=credentials, threaded=False
    )
    await worker.run()


def key_files(keys: pathlib.Path, name: str) -> tuple[bytes, bytes, bytes]:
    """Returns a key, its certificate and that of the authority, in PEM form."""
    names = (f"{name}.key", f"{name}.crt", "authority.crt")
    key, certificate, authority = (keys.joinpath(each).read_bytes() for each in names)
    return key, certificate, authority


def _memory(pid: int) -> int:
    """Returns the proportional set size of a process in bytes."""
    for line in (
        pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    ):
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no Pss of {pid}")


def _start(*arguments: str, **options: Any) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    single = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], env=os.environ | single, **pipes, **options
    )


def _ask(server: subprocess.Popen) -> dict[str, Any]:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write("\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def trivial(case: Case, keys: pathlib.Path) -> dict[str, Any]:
    """Measures the server of trivial workers."""
    dim, count, text = case.dim, case.connected, files.json_text(list(case))
    module, common = "benchmarks.runtime", [f"--keys={keys}", f"--case={text}"]
    server = _start(module, "--role=server", *common)
    processes = [server]
    try:
        assert server.stdout is not None
        target = f"--target=127.0.0.1:{int(server.stdout.readline())}"
        for i in range(count):
            processes.append(_start(module, "--role=worker", f"--number={i}", target, *common))
        while (first := _ask(server))["sessions"] < count or first["events"] < 100 * count:
            time.sleep(0.1)
        time.sleep(1.0)
        before, then = _ask(server), time.monotonic()
        time.sleep(FLAGS.seconds)
        after, took = _ask(server), time.monotonic() - then
        answers = after["events"] - before["events"]
        return {
            "dim": dim,
            "workers": count,
            "vote": case.vote,
            "rate": answers / took,
            "pull_bytes": (after["down"] - before["down"]) / answers,
            "server_us": 1e6 * (after["cpu"] - before["cpu"]) / answers,
            "memory": _memory(server.pid),
            "x_and_y": 4 * dim * (1 + case.workers),
        }
    finally:
        _end(processes)


def mnist(count: int) -> dict[str, Any]:
    """Measures `count` workers of the MNIST setting."""
    from farsign_jax.runtime.testing.local_cluster import LocalCluster

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(pathlib.Path(folder) / "run", count) as local,
    ):
        local.start_server("--rate=1e6", "--burst=1e6", "--eval_every=1000")
        for i in range(count):
            local.start_worker(i)

        def answers() -> metrics.Samples:
            return local.metrics().get(metrics.ANSWERS, {})

        while len(found := answers()) < count or min(found.values()) < 20:
            time.sleep(0.2)
        time.sleep(1.0)
        before, then = sum(answers().values()), time.monotonic()
        time.sleep(FLAGS.seconds)
        after, took = sum(answers().values()), time.monotonic() - then
        return {"workers": count, "rate": (after - before) / took}


def _end(processes: list[subprocess.Popen]) -> None:
    for process in reversed(processes):
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def report(record: dict[str, Any]) -> str:
    """Returns the measurements as Markdown."""
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
    lines = [
        [r["vote"], f"{r['rate']:,.0f}", f"{r['rate'] / record['votes'][0]['rate']:.2f}"]
        + [f"{r['server_us']:,.0f}"]
        for r in record["votes"]
    ]
    header = [
        "vote of 25 workers, k=100",
        "answers/s",
        "of the first",
        "server, us per answer",
    ]
    text.append(tables.markdown_table(header, lines))
    lines = [[str(r["workers"]), f"{r['rate']:,.0f}"] for r in record["mnist"]]
    text.append(tables.markdown_table(["workers of the MNIST setting", "answers/s"], lines))
    return "\n".join(text)


def _numbers(name: str) -> list[int]:
    values = getattr(FLAGS, name)
    good = bool(values) and all(value.isdecimal() and int(value) > 0 for value in values)
    require(good, f"--{name} needs positive integers: got {','.join(values) or 'none'}")
    return [int(value) for value in values]


def runtime() -> pathlib.Path | None:
    """Runs the command; returns the folder of its results, or None in a subprocess."""
    commands.prepare_jax()
    if FLAGS.role is not None:
        case = Case(*json.loads(FLAGS.case))
        asyncio.run(_serve(case) if FLAGS.role == "server" else _work(FLAGS.number, case))
        return None
    dims, counts = _numbers("dims"), _numbers("counts")
    require(min(dims) >= 64, f"need --dims >= 64: got {FLAGS.dims}")
    for vote in FLAGS.votes:
        table_vote.table_vote(25, 25_450, vote)
    require(FLAGS.seconds > 0, f"need --seconds > 0: got {FLAGS.seconds:g}")
    files.check_writable(FLAGS.out)
    record: dict[str, Any] = {
        "environment": provenance.environment(),
        "trivial": [],
        "votes": [],
        "mnist": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        four = pathlib.Path(folder) / "keys"
        tls.make(four, 4, ("127.0.0.1",))
        for count in counts:
            keys = pathlib.Path(folder) / f"keys-{count}"
            tls.make(keys, count, ("127.0.0.1",))
            for dim in dims:
                record["trivial"].append(trivial(Case(dim, count, count), keys))
                print(record["trivial"][-1], flush=True)
        for vote in FLAGS.votes:  # 4 of the workers are connected and keep the server busy
            record["votes"].append(trivial(Case(25_450, 4, 25, 100, vote), four))
            print(record["votes"][-1], flush=True)
    for count in counts if FLAGS.mnist else ():
        record["mnist"].append(mnist(count))
        print(record["mnist"][-1], flush=True)
    out = pathlib.Path(FLAGS.out)
    files.write_json(out / "runtime.json", record)
    files.write_text(out / "runtime.md", report(record))
    print(f"\n{report(record)}\nThe results are in {out}")
    return out


if __name__ == "__main__":
    commands.main(runtime, FLAGS, __doc__, OWN)
