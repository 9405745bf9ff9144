"""The shell examples of README and pages run, for a short time and on the embedded digits."""

import contextlib
import re

import pytest

from farsign_jax.io import run_folder
from farsign_jax.runtime.testing.local_cluster import free_port
from tests import helpers
from tests.cli.test_usage import examples
from tests.experiments import test_experiments as commands
from tests.experiments.test_compare import grid

EXAMPLES = list(examples())
# Tests of other files run these commands; the examples differ only in their duration.
ELSEWHERE = {"pytest", "farsign_jax.runtime.on_ray", "benchmarks.throughput"}
ELSEWHERE |= {
    f"experiments.{name}"
    for name in ("quickstart", "table3", "tune", "ablation", "asynchrony", "rates")
} | {"experiments.asynrsa", "experiments.brsgd", "experiments.prior_art", "experiments.vote"}
ELSEWHERE |= {"experiments.worst_case", "experiments.finetune"}
SWEEPS = [words for words in EXAMPLES if words[0] == "experiments.compare"]
RUNTIME = [words for words in EXAMPLES if words[0].startswith("farsign_jax.runtime.")]
RUNTIME = [words for words in RUNTIME if words[0] not in ELSEWHERE]
REPORTS = [words for words in EXAMPLES if words[0] == "experiments.report"]


def test_every_example_is_run_here_or_elsewhere():
    known = {words[0] for words in (*SWEEPS, *RUNTIME, *REPORTS)}
    assert {words[0] for words in EXAMPLES} - known == ELSEWHERE
    assert len(SWEEPS) == 4 and len(REPORTS) == 2 and len(RUNTIME) == 4


def start(words, folder):
    return commands.start(*words, cwd=folder, stderr=None)


def ended(process):
    """What a command printed."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [SWEEPS[0], *(pytest.param(sweep, marks=helpers.LONG) for sweep in SWEEPS[1:])],
    ids=" ".join,
)
def test_sweeps(words, tmp_path):
    assert grid(*words[1:])  # as it is written: names, and numbers that can be
    few = ["--seeds=1", "--events=50", "--eval_every=25", "--dataset=mnist_subset"]
    few += ["--model=softmax_regression"]  # compiles sooner
    out = ended(start([*words, *few, "--out=out"], tmp_path))
    assert (tmp_path / "out" / "table.md").read_text() in out
    assert (tmp_path / "out" / "results.csv").exists()


@pytest.mark.slow
def test_reports(tmp_path):
    pytest.importorskip("altair")
    for name in ("results/table3-12ab34cd", "elsewhere"):
        row = {"method": "far_sign", "attack": "none", "seed": 0, "event": 1}
        run_folder.RunFolder(tmp_path / name, {}).write_rows([row | {"test_accuracy": 0.5}])
    for words, out in zip(REPORTS, ("results/report", "page"), strict=True):
        assert f"{out}/index.html" in ended(start(words, tmp_path))
        assert (tmp_path / out / "index.html").exists()


@pytest.mark.slow
def test_a_server_and_a_worker(tmp_path):
    """As on two hosts, but both are this one, so that no file is copied to the other."""
    pytest.importorskip("grpc")
    here = {"HOST": "127.0.0.1", "0.0.0.0": "127.0.0.1"}
    here |= {"7077": str(free_port()), "9100": str(free_port())}
    made, serve, work, replay = (
        [re.sub("|".join(map(re.escape, here)), lambda m: here[m[0]], word) for word in words]
        for words in RUNTIME
    )
    ended(start(made, tmp_path))
    with contextlib.ExitStack() as stack:
        server, worker = (start(words, tmp_path) for words in ([*serve, "--events=30"], work))
        stack.callback(server.kill)
        stack.callback(worker.kill)
        assert "30 answers were applied; the run is in run" in ended(server)
        assert "worker 3: 30 answers were accepted" in ended(worker)
    assert "30 arrivals replayed" in ended(start(replay, tmp_path))
