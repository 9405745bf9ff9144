"""Ray actors as workers: they answer, are replaced when they are lost, and the run replays."""

import asyncio
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from farsign_jax import InvalidConfig, directions
from farsign_jax.runtime import journal, replay
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.state_machine import same_bits

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns about its next version
ray = pytest.importorskip("ray")

from farsign_jax.runtime import ray_server  # noqa: E402

D, K = 300, 8
UNLIMITED = Limits(4, float("inf"), float("inf"))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray_server.connect("local")
    yield
    ray.shutdown()


def core_of(kinds, log=lambda arrival: None):
    dictionary, x0 = directions.identity(D, K), np.zeros(D, np.float32)
    machine = NumpyServer(len(kinds), dictionary, x0, 0, step_size=0.01, average_step=0.3)
    return ServerCore(machine, UNLIMITED, by_seed=True, log=log)


def starting(kinds):
    """Starts actors of these kinds; Ray pickles the local class itself."""

    class Actor:
        def __init__(self, kind, worker):
            self.kind, self.count, self.x = kind, 0, None
            self.rng = np.random.default_rng(worker)

        def answer(self, question, indices, values):
            self.count += 1
            if indices is None:
                self.x = np.array(values)
            else:
                self.x[indices] = values
            if self.kind == "dies" and self.count == 20:
                os._exit(1)
            if self.kind == "fails":
                raise KeyError("no such example")
            if self.kind == "mute" or (self.kind == "stalls" and self.count == 3):
                time.sleep(600)
            if self.kind == "nonfinite":
                return np.full(K, np.nan)
            if self.kind == "text":
                return "not numbers"
            return self.rng.normal(size=K) + self.x[:K]

    remote = ray.remote(num_cpus=0)(Actor)
    return lambda worker: remote.remote(kinds[worker], worker)


def serve(kinds, until=lambda core: False, **options):
    """Serves actors until a condition holds; returns the core and its arrivals."""
    log = []
    core = core_of(kinds, log.append)
    server = ray_server.RayServer(core, starting(kinds), **options)

    async def end():
        while not until(core):
            await asyncio.sleep(0.05)
        core.last = core.events

    async def run():
        ending = asyncio.create_task(end())
        try:
            await asyncio.wait_for(server.run(), 120)
        finally:
            ending.cancel()
            await server.stop()

    asyncio.run(run())
    return core, log


def test_a_local_cluster_uses_loopback_addresses_and_a_token():
    (node,) = ray.nodes()
    assert node["NodeManagerAddress"].startswith("127.")
    assert ray.get_runtime_context().gcs_address.startswith("127.")
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    with pytest.raises(InvalidConfig, match="workers with --cpus=9 each need 27 cores"):
        ray_server.check_room(3, 9)


def test_f1_f2_f6_a_dead_actor_is_replaced_and_an_invalid_one_is_excluded(capsys):
    kinds = ["honest", "dies", "fails", "nonfinite", "text"]

    def seen(core):
        gone = [one.leaves["gone"] for one in core.statistics]
        return core.statistics[1].joins > 2 and gone[2] == gone[4] == 2 and core.strikes[3] == 4

    core, log = serve(kinds, seen, tries=2)
    assert core.events == len(log) and not core.sessions
    accepted = [one.verdicts["accepted"] for one in core.statistics]
    assert accepted[0] > 0 and accepted[1] >= 38 and accepted[2:] == [0, 0, 0]
    assert core.strikes.tolist() == [0, 0, 0, 4, 0]
    text = capsys.readouterr().err
    assert "worker 2 is restarted" in text and "worker 2 is given up" in text
    assert "no such example" in text and "worker 4 is given up" in text
    repeated = core_of(kinds)
    for worker, _, version, _, value in log:
        repeated.apply(worker, version, value)
    for name, array in core.state_dict().items():
        assert same_bits(repeated.state_dict()[name], array), name


def test_f4_a_silent_actor_is_replaced_and_the_others_do_not_wait(capsys):
    def seen(core):
        return (
            core.statistics[1].leaves["silent"]
            and core.statistics[0].verdicts["accepted"] > 200
        )

    core, _ = serve(["honest", "stalls"], seen, silence=1.0)
    assert core.statistics[1].verdicts["accepted"] >= 2
    with pytest.raises(InvalidConfig, match="no worker is left: silent"):
        serve(["mute"], silence=0.2, grace=0.3, tries=2)
    assert "worker 0 is given up: silent" in capsys.readouterr().err


def on_ray(folder, *flags):
    command = [sys.executable, "-m", "farsign_jax.runtime.on_ray", f"--out={folder}"]
    small = ["--directions=20", "--batch_size=16", "--model=softmax_regression", "--workers=2"]
    root = pathlib.Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name[:4] != "RAY_"}
    return subprocess.run(
        [*command, *small, *flags],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=root,
        env=environment,
    )


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_command_writes_a_run_that_replays_and_resumes(tmp_path, parts):
    for part in range(1, parts + 1):
        out = on_ray(tmp_path / "run", f"--events={200 * part}", "--byzantine=1")
        assert out.returncode == 0, out.stderr
        assert "serving 2 Ray actors (local)" in out.stdout
        assert ("resumes after 200 answers, 0 of them from the journal" in out.stdout) == (
            part == 2
        )
    found = replay.verify(tmp_path / "run")
    assert found.events == 200 * parts and found.differing == []
    workers = journal.read(tmp_path / "run" / "arrivals.log")["worker"]
    assert set(workers.tolist()) == {0, 1}
    rows = replay.recorded_rows(tmp_path / "run")
    assert rows[-1]["event"] == 200 * parts and 0 < rows[-1]["test_accuracy"] <= 1


def test_an_error_is_one_line_and_leaves_no_file(tmp_path):
    out = on_ray(tmp_path / "run", "--byzantine=4")
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == "error: need 0 <= byzantine < workers: got byzantine=4, workers=2\n"
    assert list(tmp_path.iterdir()) == []


def test_help_fits_the_width_and_says_that_workers_are_trusted(tmp_path):
    text = on_ray(tmp_path / "run", "--help").stdout
    assert "python -m farsign_jax.runtime.on_ray" in text and "trust each other" in text
    assert max(map(len, text.splitlines())) <= 96
