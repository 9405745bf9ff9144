"""The commands as real processes, which are killed, frozen, replaced and flooded.

The tests end only processes that they have started, through their own handles.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time

import numpy as np
import pytest

from farsign_jax.runtime import journal, metrics, replay, rows
from farsign_jax.runtime.testing import adversarial_client
from farsign_jax.runtime.testing.local_cluster import LocalCluster
from tests import helpers
from tests.runtime.helpers import read_credentials, stream

CLIENT = "farsign_jax.runtime.testing.adversarial_client"
WORKERS, K = 8, 20
FLAGS = (f"--directions={K}", "--batch_size=16", "--model=softmax_regression")


class MonitoredCluster(LocalCluster):
    """A local cluster with its metrics."""

    def total(self, name, **labels):
        return metrics.total(self.metrics(), name, **labels)

    def accepted(self, worker):
        return self.total("answers_total", worker=worker, verdict="accepted")

    def connected(self, worker):
        return self.total("worker_connected", worker=worker) == 1

    def until(self, condition, seconds=90):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the condition did not become true"
            time.sleep(0.05)


@contextlib.contextmanager
def cluster(tmp_path, *flags):
    """A cluster whose server is running, and a function that starts the server again."""
    with MonitoredCluster(tmp_path / "run", WORKERS, quiet=False) as local:

        def restart():
            return local.start_server(*FLAGS, *flags)

        restart()
        yield local, restart


@pytest.mark.slow
def test_f1_f2_f3_f11_f16_killed_and_frozen_processes_return_and_the_run_continues(tmp_path):
    """Two workers and their server are killed once each; the simulator verifies the run."""
    flags = ("--silence=90", "--ping=1", "--checkpoint_every=1", "--eval_every=0.5")
    folder = tmp_path / "run"
    with cluster(tmp_path, *flags) as (local, restart):
        first, second = local.start_worker(0), local.start_worker(1)
        local.until(lambda: local.accepted(0) > 20 and local.accepted(1) > 20)

        # F1: a killed worker is disconnected at once, and the others do not wait for it.
        first.kill()
        begin = time.monotonic()
        local.until(lambda: not local.connected(0))
        assert time.monotonic() - begin < 5  # 13 ms on an idle machine
        accepted, before = local.accepted(0), local.accepted(1)
        local.until(lambda: local.accepted(1) > before + 50)
        assert local.accepted(0) == accepted

        # F2: a process with the same certificate replaces it.
        third = local.start_worker(0)
        local.until(lambda: local.accepted(0) > accepted + 20)

        # F3: pings detect a frozen worker long before the silence limit; then it returns.
        second.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        local.until(lambda: not local.connected(1))
        assert time.monotonic() - begin < 20  # 1 s + 0.75 s, not the 90 s of --silence
        frozen = local.accepted(1)
        second.send_signal(signal.SIGCONT)
        local.until(lambda: local.accepted(1) > frozen + 20)

        # F11: the server is killed at an arbitrary moment, and loses no answer and no row.
        local.until(lambda: (folder / "checkpoint.npz").exists())
        local.until(lambda: len(rows.read(folder)) >= 3)
        events, measured = local.total("events_total"), rows.read(folder)
        local.server.kill()
        local.server.wait()
        recorded = len(journal.read(folder / "arrivals.log"))
        assert recorded >= events
        assert rows.read(folder)[: len(measured)] == measured
        assert f"resumes after {recorded} answers," in restart()
        local.until(lambda: local.accepted(0) > 20 and local.accepted(1) > 20)

        # F16: a process that receives a signal ends.
        for worker, number in ((third, signal.SIGTERM), (second, signal.SIGINT)):
            worker.send_signal(number)
            assert worker.wait(60) == 0
        local.until(lambda: not local.connected(0) and not local.connected(1))
        local.server.send_signal(signal.SIGTERM)
        assert local.server.wait(60) == 0
        found = replay.verify(folder)
        assert found.differing == [] and found.events >= recorded + 40
        final = rows.read(folder)
        assert final[: len(measured)] == measured and final[-1]["event"] == found.events


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


async def answer_honestly(local, number, seconds):
    """Runs a worker that needs 10 ms per answer; returns how many answers were accepted."""
    credentials = read_credentials(local.certificates, f"worker-{number}")
    rng, count, end = np.random.default_rng(number), 0, time.monotonic() + seconds
    async with stream(local.target, credentials) as connection:
        question = await connection.join(number)
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
            await connection.send(adversarial_client.answer(question, rng.normal(size=K)))
            question = await connection.question()
            count += question.verdict == "accepted"
    return count


def honest_answers(local, seconds):
    """Runs two honest workers; returns how many of their answers were accepted."""

    async def both():
        return await asyncio.gather(*(answer_honestly(local, i, seconds) for i in (0, 1)))

    return sum(asyncio.run(both()))


@pytest.mark.slow
def test_f4_f7_f8_f9_f10_no_peer_slows_down_enlarges_or_ends_the_server(tmp_path):
    """During five kinds of floods, two honest workers keep at least 90 % of their rate."""
    canary, seconds = tmp_path / "canary", 4.0
    with cluster(tmp_path, "--silence=3", "--rate=50", "--burst=10") as (local, _):

        def misbehave(number, behaviour):
            flags = [f"--directions={K}", f"--canary={canary}", "--seconds=60"]
            flags.append(f"--behaviours={behaviour}")
            return local.start_worker(number, *flags, module=CLIENT)

        honest_answers(local, 1.0)
        before = honest_answers(local, seconds)
        memory = helpers.memory_of(local.server.pid)
        kinds = ("outliers", "pipeline", "heartbeat", "garbage", "oversize")
        floods = [misbehave(number, kind) for number, kind in enumerate(kinds, 2)]
        local.until(
            lambda: (
                local.accepted(2) > 0
                and all(local.total("joins_total", worker=i) for i in (3, 4, 5, 6))
            )
        )
        flooded, begin = local.accepted(2), time.monotonic()
        during = honest_answers(local, seconds)
        rate = (local.accepted(2) - flooded) / (time.monotonic() - begin)
        assert during >= 0.9 * before, f"{during} of {before} answers accepted in {seconds} s"
        assert rate <= 50 * 1.3  # valid answers are limited to --rate
        assert [local.total("strikes", worker=i) for i in (0, 1, 2)] == [0, 0, 0]
        for number in (3, 4):  # pipeline and heartbeat are excluded at once
            assert local.total("strikes", worker=number) >= 1
        assert helpers.memory_of(local.server.pid) - memory < 20 * 2**20
        assert not canary.exists()
        for process in floods:
            process.kill()
            process.wait()

        # F4: a process that hangs while its connection lives.
        stalled = misbehave(7, "stall")
        local.until(lambda: local.connected(7))
        local.until(lambda: local.total("leaves_total", worker=7, reason="silent"))
        stalled.kill()

        # F10: connections without a message.
        files = open_files(local.server.pid)
        host, port = local.target.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(500)]
        local.until(lambda: open_files(local.server.pid) >= files + 450)
        local.until(lambda: open_files(local.server.pid) <= files + 10, seconds=30)
        for one in idle:
            one.close()
        assert local.server.poll() is None and honest_answers(local, 1.0) > 0


COUNTS = [1, pytest.param(3, marks=helpers.LONG), pytest.param(100, marks=helpers.LONG)]


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_f16_workers_that_receive_a_signal_end(tmp_path, count):
    with cluster(tmp_path) as (local, _):
        for number in range(count):
            worker = number % WORKERS
            process = local.start_worker(worker)
            local.until(lambda w=worker: local.connected(w))
            before = local.accepted(worker)
            local.until(lambda w=worker, b=before: local.accepted(w) > b)
            process.send_signal(signal.SIGTERM if number % 2 else signal.SIGINT)
            assert process.wait(30) == 0
            local.until(lambda w=worker: not local.connected(w))


@pytest.mark.slow
def test_rows_survive_a_killed_server(tmp_path):
    """Without workers: the first row is measured when the server starts."""
    folder = tmp_path / "run"
    with cluster(tmp_path) as (local, restart):
        local.until(lambda: rows.read(folder))
        (row,) = rows.read(folder)
        assert row["event"] == 0 and 0 <= row["test_accuracy"] <= 1
        local.server.kill()
        local.server.wait()
        with (folder / "results.csv").open("a") as file:
            file.write("far_sign,,,iid")  # as after a crash of the machine
        restart()
        local.server.send_signal(signal.SIGTERM)
        assert local.server.wait(60) == 0
        assert rows.read(folder) == [row]
