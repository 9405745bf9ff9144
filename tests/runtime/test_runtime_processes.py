"""The commands as real processes: killed, frozen, replaced, flooded; and what is left of it.

Every process that is ended was started here, and is ended by its own handle.
"""

import asyncio
import contextlib
import importlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from farsign_jax.cli import commands
from farsign_jax.runtime import journal, replay
from farsign_jax.runtime.grpc_worker import Credentials
from farsign_jax.runtime.testing import adversarial_client
from farsign_jax.runtime.testing.local_cluster import Fleet
from tests import helpers
from tests.runtime.test_runtime_grpc import stream

HOSTILE = "farsign_jax.runtime.testing.adversarial_client"
WORKERS, K = 8, 20


class Watched(Fleet):
    """A fleet, and what can be read off its metrics."""

    def seen(self):
        return super().seen() or {"farsign_leaves_total": {}}

    def of(self, name, worker):
        """One metric of a worker, all its labels together."""
        told = self.seen().get(f"farsign_{name}", {})
        return sum(v for k, v in told.items() if f'worker="{worker}"' in k)

    def accepted(self, worker):
        told = self.seen().get("farsign_answers_total", {})
        return told.get(f'worker="{worker}",verdict="accepted"', 0)

    def joined(self, worker):
        return self.of("joined", worker) == 1

    def until(self, true, seconds=90):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.05)


FLAGS = (f"--directions={K}", "--batch_size=16", "--model=softmax_regression")


@contextlib.contextmanager
def fleet(tmp_path, *flags):
    with Watched(tmp_path / "run", WORKERS, quiet=False) as one:
        one.again = lambda: one.serve(*FLAGS, *flags)
        one.again()
        yield one


def test_f1_f2_f3_f11_f16_who_is_killed_or_frozen_comes_back_and_the_run_goes_on(tmp_path):
    """Two workers and their server, each killed once; then the simulator is the judge."""
    with fleet(tmp_path, "--silence=90", "--ping=1", "--checkpoint_every=1") as it:
        first, second = it.work(0), it.work(1)
        it.until(lambda: it.accepted(0) > 20 and it.accepted(1) > 20)

        # F1: a killed worker is gone at once; nobody waits for it, and y keeps what it said.
        first.kill()
        begin = time.monotonic()
        it.until(lambda: not it.joined(0))
        assert time.monotonic() - begin < 5  # 13 ms; the machine may be busy
        said = it.accepted(0)
        before = it.accepted(1)
        it.until(lambda: it.accepted(1) > before + 50)
        assert it.accepted(0) == said

        # F2: its certificate joins again, and is asked what it was asked.
        third = it.work(0)
        it.until(lambda: it.accepted(0) > said + 20)

        # F3: a frozen one is noticed by pings, long before the silence limit; then it is back.
        second.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        it.until(lambda: not it.joined(1))
        assert time.monotonic() - begin < 20  # 1 s + 0.75 s; not the 90 s of --silence
        frozen = it.accepted(1)
        second.send_signal(signal.SIGCONT)
        it.until(lambda: it.accepted(1) > frozen + 20)

        # F11: so is the server, killed in the middle of everything.
        it.until(lambda: (tmp_path / "run" / "checkpoint.npz").exists())
        events = it.seen()["farsign_events_total"][""]
        it.server.kill()
        it.server.wait()
        logged = len(journal.read(tmp_path / "run" / "arrivals.log"))
        assert logged >= events  # what it said was heard, is in the log
        line = it.again()
        assert f"goes on after {logged}," in line
        it.until(lambda: it.accepted(0) > 20 and it.accepted(1) > 20)

        # F16: who is stopped, ends.
        for worker, number in ((third, signal.SIGTERM), (second, signal.SIGINT)):
            worker.send_signal(number)
            assert worker.wait(60) == 0
        it.until(lambda: not it.joined(0) and not it.joined(1))
        it.server.send_signal(signal.SIGTERM)
        assert it.server.wait(60) == 0
        found = replay.verify(tmp_path / "run")
        assert found.differing == [] and found.events >= logged + 40


def files_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


async def honest(it, number, seconds):
    """A worker that thinks for 10 ms; how often it was heard."""
    names = (f"worker-{number}.key", f"worker-{number}.crt", "authority.crt")
    credentials = Credentials(*((it.keys / name).read_bytes() for name in names))
    rng, count, end = np.random.default_rng(number), 0, time.monotonic() + seconds
    async with stream(it.target, credentials) as connection:
        question = await connection.join(number)
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
            await connection.send(adversarial_client.answer(question, rng.normal(size=K)))
            question = await connection.question()
            count += question.verdict == "accepted"
    return count


def heard(it, seconds):
    async def both():
        return await asyncio.gather(*(honest(it, i, seconds) for i in (0, 1)))

    return sum(asyncio.run(both()))


def test_f4_f7_f8_f9_f10_no_peer_slows_down_grows_or_ends_the_server(tmp_path):
    """Floods of five kinds while two honest workers go on at 90 % of their rate, at least."""
    canary, floods, long = tmp_path / "canary", [], 4.0
    with fleet(tmp_path, "--silence=3", "--rate=50", "--burst=10") as it:
        heard(it, 1.0)
        before, memory = heard(it, long), helpers.memory_of(it.server.pid)
        module, flags = (
            HOSTILE,
            [f"--directions={K}", f"--canary={canary}"],
        )
        for number, deed in enumerate(("lies", "pipeline", "alive", "garbage", "oversize"), 2):
            floods.append(
                it.work(number, *flags, f"--behaviours={deed}", "--seconds=60", module=module)
            )
        it.until(
            lambda: it.accepted(2) > 0 and all(it.of("joins_total", i) for i in (3, 4, 5, 6))
        )
        flooded, begin = it.accepted(2), time.monotonic()
        during = heard(it, long)
        rate = (it.accepted(2) - flooded) / (time.monotonic() - begin)
        assert during >= 0.9 * before, f"{during} answers heard of {before} in {long} s"
        assert rate <= 50 * 1.3  # the flood that keeps to the rules is held to its rate
        strikes = it.seen()["farsign_strikes"]
        assert [strikes[f'worker="{i}"'] for i in (0, 1, 2)] == [0, 0, 0]
        for number in (3, 4):  # these were out at once, and still are
            assert strikes[f'worker="{number}"'] >= 1
        assert helpers.memory_of(it.server.pid) - memory < 20 * 2**20
        assert not canary.exists()
        for process in floods:
            process.kill()
            process.wait()

        # F4: a connection that lives and a program that does not.
        stalled = it.work(7, "--behaviours=stall", "--seconds=60", module=module)
        it.until(lambda: it.joined(7))
        it.until(lambda: it.seen()["farsign_leaves_total"].get('worker="7",why="silent"'))
        stalled.kill()

        # F10: who connects and says nothing.
        files = files_of(it.server.pid)
        host, port = it.target.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(500)]
        it.until(lambda: files_of(it.server.pid) >= files + 450)
        it.until(lambda: files_of(it.server.pid) <= files + 10, seconds=30)
        for one in idle:
            one.close()
        assert it.server.poll() is None and heard(it, 1.0) > 0


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=helpers.LONG)])
def test_f16_workers_that_are_stopped_end(tmp_path, count):
    with fleet(tmp_path) as it:
        for number in range(count):
            worker = it.work(number % WORKERS)
            it.until(lambda n=number: it.joined(n % WORKERS))
            before = it.accepted(number % WORKERS)
            it.until(lambda n=number, b=before: it.accepted(n % WORKERS) > b)
            worker.send_signal(signal.SIGTERM if number % 2 else signal.SIGINT)
            assert worker.wait(30) == 0
            it.until(lambda n=number: not it.joined(n % WORKERS))


WRONG = [
    ("serve", ["--address=0.0.0.0:7077"], "--certificates DIR, or, on this machine alone"),
    ("serve", ["--insecure", "--address=0.0.0.0:7077"], "got --address host '0.0.0.0'"),
    ("serve", ["--insecure", "--certificates=x"], "either --certificates or --insecure"),
    ("serve", ["--insecure", "--method=sgd"], "sgd works in rounds"),
    ("serve", ["--insecure", "--method=far_sing"], "did you mean 'far_sign'?"),
    ("serve", ["--insecure", "--rate=0"], "need rate >= 1: got 0"),
    ("serve", ["--insecure", "--silence=0"], "need --silence > 0 seconds: got 0"),
    ("serve", ["--insecure", "--address=here"], "--address is HOST:PORT: got 'here'"),
    ("serve", ["--certificates=nowhere"], "nowhere/server.key: No such file"),
    ("serve", ["--insecure", "--colour=1"], "Unknown command line flag 'colour'"),
    ("serve", ["--insecure", "loud"], "unexpected argument 'loud'"),
    ("work", [], "--worker N says which worker this is: got none"),
    ("work", ["--worker=1"], "--certificates DIR, or, on this machine alone"),
    ("work", ["--worker=1", "--insecure", "--server=example.com:1"], "host 'example.com'"),
    ("work", ["--worker=1", "--insecure", "--attack=sign_flop"], "did you mean 'sign_flip'"),
    ("certificates", ["--workers=0"], "need --workers > 0: got 0"),
]


def test_bad_input_is_one_line_that_names_value_and_rule(tmp_path):
    """All commands side by side in one process, as a fork of what is imported once."""
    code = (
        "import os, sys, importlib\n"
        "from farsign_jax.runtime import serve, work, certificates\n"
        "for line in sys.stdin:\n"
        "    name, *flags = line.rstrip('\\n').split('\\t')\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        sys.stderr = sys.stdout\n"
        "        sys.argv = [name, *flags]\n"
        "        module = sys.modules['farsign_jax.runtime.' + name]\n"
        "        from farsign_jax.runtime import command\n"
        "        try:\n"
        "            if name == 'certificates':\n"
        "                module.main()\n"
        "            else:\n"
        "                command.main(getattr(module, name), module.FLAGS, module.__doc__)\n"
        "        except SystemExit as end:\n"
        "            print('exit', end.code, flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    told = "\n".join("\t".join([name, *flags]) for name, flags, _ in WRONG)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=told,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )
    lines = out.stdout.splitlines()
    assert len(lines) == 2 * len(WRONG), out.stdout + out.stderr
    for (name, flags, message), line, end in zip(WRONG, lines[::2], lines[1::2], strict=True):
        assert line.startswith("error: ") and message in line, (name, flags, line)
        assert end == "exit 2"
    assert list(tmp_path.iterdir()) == []  # a command that fails leaves no trace


@pytest.mark.parametrize("name", ["serve", "work", "certificates", "replay"])
def test_help_fits_and_says_how(name, capsys, monkeypatch):
    module = importlib.import_module(f"farsign_jax.runtime.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with contextlib.suppress(SystemExit):
        if name in ("serve", "work"):
            commands.main(getattr(module, name), module.FLAGS, module.__doc__)
        elif name == "certificates":
            module.main()
        else:
            assert module.main(sys.argv) == 0
    told = capsys.readouterr().out
    assert f"python -m farsign_jax.runtime.{name}" in told
    assert max(map(len, told.splitlines())) <= 96
