"""What a server has a limited number of: disk, file descriptors, readers of its output."""

import asyncio
import collections
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from farsign_jax.io.rows import RowFile, read_rows
from farsign_jax.runtime import connection, console, journal, metrics
from farsign_jax.runtime.connection import ConnectionLimits
from farsign_jax.runtime.journal import Arrival, Journal, NotRecorded
from farsign_jax.runtime.notices import Notice
from farsign_jax.runtime.session import WorkerStatistics
from farsign_jax.runtime.testing.local_cluster import free_port
from farsign_jax.validation import InvalidConfig
from tests.helpers import files_of_at_most
from tests.runtime.helpers import (
    answer_question,
    exchange,
    make_core,
    network_core,
    serving,
    state_bytes,
    stream,
)

RUN = "0123456789abcdef"


def test_f20_an_answer_that_cannot_be_recorded_is_asked_for_again():
    full, recorded = [True], []

    def log(arrival):
        if full[0]:
            raise NotRecorded("arrivals.log: No space left on device")
        recorded.append(arrival)

    core = make_core(log=log)
    session, reply = core.join(0, None, 0.0)
    before = state_bytes(core)
    for _ in range(3):
        again = answer_question(core, session, reply.question)
        assert again.verdict == "unrecorded" and again.wait > 0
        assert again.question == reply.question and len(again.delta.values) == 0
        assert state_bytes(core) == before and core.events == 0 and not core.strikes.any()
    full[0] = False
    assert answer_question(core, session, reply.question).verdict == "accepted"
    assert core.events == len(recorded) == 1


def test_f20_a_full_disk_leaves_the_journal_as_it_was(tmp_path):
    path = tmp_path / "journal"
    opened = Journal(path, 2, RUN)
    arrival = Arrival(0, 0, 0, 0.0, np.ones(2, np.float32))
    opened.append(arrival)
    before = path.read_bytes()
    for room in (0, 7):  # nothing and a part of a record can be written
        with (
            files_of_at_most(len(before) + room),
            pytest.raises(NotRecorded, match="journal: "),
        ):
            opened.append(arrival)
        assert path.read_bytes() == before
    opened.append(arrival)
    opened.close()
    assert len(journal.read(path)) == 2


def test_f20_a_full_disk_leaves_no_part_of_a_row(tmp_path):
    path = tmp_path / "results.csv"
    rows = RowFile(path, ["event", "value"], key=("event",))
    rows.append([{"event": 1, "value": 0.5}])
    before = path.read_bytes()
    with files_of_at_most(len(before) + 5), pytest.raises(OSError, match=r"results\.csv"):
        rows.append([{"event": 2, "value": 0.123456789}])
    assert path.read_bytes() == before
    rows.append([{"event": 3, "value": 1.5}])
    assert [row["event"] for row in read_rows(path)] == [1, 3]


def test_failing_writes_are_reported_once(capsys):
    notice = Notice("checkpoints", "the next one is tried in time")
    for error in (None, OSError(24, "Too many open files"), OSError(28, "full"), None, None):
        with notice.tolerating():
            if error:
                raise error
    assert capsys.readouterr().err.splitlines() == [
        "checkpoints cannot be written: [Errno 24] Too many open files: the next one is tried "
        "in time",
        "checkpoints are written again",
    ]


def test_f21_idle_connections_beyond_the_limit_are_closed_at_once(certificates):
    core = network_core()

    async def run():
        limits = ConnectionLimits(handshake=30, connections=8)
        async with serving(core, None, limits) as (_, target), stream(target) as worker:
            question = await exchange(worker, await worker.join(0))
            before, address = len(os.listdir("/proc/self/fd")), target.split(":")
            idle = [
                await asyncio.open_connection(address[0], int(address[1])) for _ in range(60)
            ]
            await asyncio.sleep(0.5)
            assert len(os.listdir("/proc/self/fd")) - before - len(idle) <= 8
            for _ in range(20):
                question = await exchange(worker, question)
                assert question.verdict == "accepted"
            for _, writer in idle:
                writer.close()

    asyncio.run(run())


def test_the_number_of_open_files_bounds_the_connections(monkeypatch):
    limits = [64, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(2), new))
    assert 3000 < connection.most_connections(8) < 4096 and limits == [4096, 4096]
    with pytest.raises(InvalidConfig, match=r"3000 workers need 6128 open files: got .* 4096"):
        connection.most_connections(3000)


WRITER = """
import collections, os, sys, time
from farsign_jax.runtime import console
rejected = collections.Counter()
begin = time.monotonic()
with console.unstoppable(rejected):
    for i in range(20_000):
        print(i, "x" * 80)
    os.write(2, b"I1 ssl_transport_security.cc:2563] Handshake failed with error\\nkept\\n" * 3)
    sys.stderr.flush()
    written = time.monotonic() - begin
    time.sleep(0.2)
print(rejected["handshake"], written < 10, file=open(sys.argv[1], "w"))
"""


@pytest.mark.parametrize("reader", ["none", "closed", "prompt"])
def test_f22_output_that_nobody_reads_stops_nothing(tmp_path, reader):
    result = tmp_path / "result"
    code = [sys.executable, "-c", WRITER, str(result)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    process = subprocess.Popen(code, text=True, **options)
    if reader == "closed":
        process.stdout.close()
    if reader == "prompt":
        out, err = process.communicate(timeout=60)
        assert out.splitlines()[-1].startswith("19999 ") and err == "kept\n" * 3
    assert process.wait(60) == 0
    assert result.read_text() == "3 True\n"
    process.stderr.close()
    process.stdout.close()


def test_lines_are_in_order_and_complete(capfd):
    with console.unstoppable(collections.Counter()):
        for i in range(500):
            os.write(1, f"{i}\n".encode())
            time.sleep(0)
        os.write(1, b"without an end")
    out = capfd.readouterr().out.splitlines()
    assert out == [*map(str, range(500)), "without an end"]


class Monitored:
    """A server without workers."""

    def __init__(self):
        self.core, self.bytes = network_core(), collections.Counter()
        self.rejected, self.statistics = collections.Counter(), [WorkerStatistics()]

    def now(self):
        return 0.0


def test_f23_a_reader_of_metrics_that_does_not_read_is_disconnected(monkeypatch):
    monkeypatch.setattr(metrics, "_SECONDS", 0.5)
    measured = {f"measure_{i}": float(i) for i in range(50_000)}  # 5 MB

    async def run():
        page = await metrics.listen(Monitored(), measured, "127.0.0.1", 0)
        port = page.sockets[0].getsockname()[1]
        mine = socket.socket()  # the kernel keeps little of what it does not read
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mine.connect(("127.0.0.1", port))
        mine.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=mine, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await asyncio.sleep(2)
        received = 0
        try:
            while data := await asyncio.wait_for(reader.read(1 << 16), 20):
                received += len(data)
        except ConnectionResetError:
            pass
        assert 0 < received < 5_000_000
        writer.close()
        page.close()

    asyncio.run(run())


@pytest.mark.slow
def test_f21_f22_a_server_with_few_descriptors_and_an_unread_output_goes_on(tmp_path):
    port = free_port()
    flags = ["--insecure", f"--address=localhost:{port}", f"--out={tmp_path / 'run'}"]
    flags += ["--workers=6", "--directions=16", "--batch_size=8", "--model=softmax_regression"]
    flags += ["--checkpoint_every=0.3", "--eval_every=0.02"]
    code = [sys.executable, "-m", "farsign_jax.runtime.serve", *flags]

    few_files = ["sh", "-c", 'ulimit -n 200 && exec "$@"', "sh"]
    server = subprocess.Popen([*few_files, *code], stdout=subprocess.PIPE, text=True)
    fcntl.fcntl(server.stdout, fcntl.F_SETPIPE_SZ, 4096)
    assert server.stdout.readline().startswith("serving at")
    checkpoint = tmp_path / "run" / "checkpoint.npz"

    async def answer(seconds):
        async with stream(f"localhost:{port}") as worker:
            question, count = await worker.join(0), 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                question = await exchange(worker, question)
                count += question.verdict == "accepted"
            return count

    assert asyncio.run(answer(1.0)) > 10
    idle = [socket.create_connection(("localhost", port)) for _ in range(400)]
    began = time.time()
    assert asyncio.run(answer(4.0)) > 10
    assert checkpoint.stat().st_mtime > began + 2  # written while all descriptors were wanted
    for one in idle:
        one.close()
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    server.stdout.close()
