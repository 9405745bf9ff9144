"""A small local cluster and a small benchmark: what the commands write."""

import csv
import json
import re
import signal
import time

import numpy as np
import pytest
from absl.testing import flagsaver

from benchmarks import runtime
from experiments import cluster
from farsign_jax.runtime import journal, run_config
from farsign_jax.runtime.rows import ServedRows
from tests import helpers
from tests.experiments import test_experiments as commands
from tests.runtime.recorded_runs import CONFIG, converse, open_run


def output_of(module, *flags):
    """Runs a command and returns what it prints."""
    code, out, err = commands.run(module, *flags)
    assert code == 0, err
    return out


def run_cluster(out, attack, *flags):
    """Runs two workers, one Byzantine; returns the table, the workers' lines and the rows."""
    few = ["--workers=2", "--byzantine=1", f"--attacks={attack}", f"--out={out}"]
    text = output_of("experiments.cluster", *few, *flags)
    table = (out / "table.md").read_text()
    assert table in text and (out / "workers.md").read_text() in text
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return table, (out / "workers.md").read_text().splitlines()[2:], rows


@pytest.mark.slow
@pytest.mark.parametrize("behaviours", [["stall"], pytest.param([], marks=pytest.mark.slow)])
def test_a_recorded_run_is_evaluated(tmp_path, behaviours):
    (tmp_path / "config.json").write_text(run_config.to_json(CONFIG))
    problem, _ = CONFIG.problem()
    core, store, _ = open_run(tmp_path, problem)
    values = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    answers = iter(values)
    converse(core, [1, 2, 1, 3] * 10, lambda i, x, question: next(answers))
    store.close()
    row = {"event": 40, "seconds": 1.5, "test_accuracy": 0.5}
    ServedRows(tmp_path).append(row)
    config = {"behaviours": behaviours, "byzantine": 1}
    with flagsaver.flagsaver():
        cluster.FLAGS.mark_as_parsed()
        line, rows = cluster.evaluate(config, "sign_flip:scale=10", tmp_path)
    assert line[:2] == ["sign_flip:scale=10", "40"] and line[-1] == "equal"
    assert rows[0] == row | {"attack": line[0], "method": "real processes"}
    assert len(line) == (5 if behaviours else 6) and len(rows) == (1 if behaviours else 6)
    last = {
        "farsign_answers_total": {
            (("verdict", "accepted"), ("worker", "1")): 20.0,
            (("verdict", "nonce"), ("worker", "0")): 3.0,
        },
        "farsign_staleness": {(("worker", "1"),): 2.0},
        "farsign_strikes": {(("worker", "0"),): 3.0},
    }
    kinds = ["adversarial client", "honest", "honest", "honest"]
    assert cluster.worker_lines(last, kinds, tmp_path)[:2] == [
        ["0", "adversarial client", "0", "3 nonce", "0", "3"],
        ["1", "honest", "20", "none", "2", "0"],
    ]


@pytest.mark.slow
def test_a_folder_in_use_is_refused_before_anything_is_touched(tmp_path):
    first = commands.start("experiments.cluster", "--events=1000000", f"--out={tmp_path}")
    try:
        while not (tmp_path / "lock").exists():
            assert first.poll() is None
            time.sleep(0.1)
        code, out, err = commands.run(
            "experiments.cluster", "--events=1000000", f"--out={tmp_path}"
        )
        assert code == 2 and out == ""
        assert err == f"error: {tmp_path} is in use: only one server may use a folder\n"
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=300)  # seven workers end what they are compiling


@pytest.mark.slow
def test_a_cluster_with_an_adversarial_client_is_replayed(tmp_path):
    flags = ["--events=300", "--behaviours=nonfinite", "--vote=median"]
    table, workers, rows = run_cluster(tmp_path / "out", "none", *flags)
    assert "simulator, %" not in table and "Use --behaviours none to compare" in table
    assert re.search(r"\| none +\| 300 .*\| equal", table)
    arrivals = journal.read(tmp_path / "out" / "none" / "arrivals.log")
    accepted = np.bincount(arrivals["worker"], minlength=2).tolist()
    assert accepted == [0, 300]  # NaN is never accepted
    kinds = ("adversarial client", "honest")
    for line, worker, kind in zip(workers, range(2), kinds, strict=True):
        start = ["none", str(worker), kind, str(accepted[worker])]
        assert [cell.strip() for cell in line.split("|")][1:5] == start
    assert {row["method"] for row in rows} == {"real processes"}
    assert max(int(row["event"]) for row in rows) == 300
    config = json.loads((tmp_path / "out" / "none" / "config.json").read_text())
    assert config["method"] == "far_sign:vote=median"


@pytest.mark.slow
@pytest.mark.long
def test_workers_fine_tune_and_the_run_is_replayed(tmp_path):
    flags = ["--events=120", "--behaviours=none", "--task=finetune"]
    table, _, _ = run_cluster(tmp_path / "out", "sign_flip", *flags)
    assert re.search(r"\| sign_flip +\| 120 .*\| equal", table)
    config = json.loads((tmp_path / "out" / "sign_flip" / "config.json").read_text())
    assert config["subspace"] == "low_rank:size=256"
    assert config["method"] == "far_sign:scheme=forward,vote=own"


@pytest.mark.slow
@pytest.mark.long
def test_a_cluster_with_an_attack_is_compared_with_the_simulator(tmp_path):
    flags = ["--events=300", "--behaviours=none", "--flood=9"]
    table, workers, rows = run_cluster(tmp_path / "out", "sign_flip:scale=10", *flags)
    header, _, line = ([c.strip() for c in text.split("|")] for text in table.splitlines())
    assert header[-3:-1] == ["simulator, %", "replayed bits"] and line[-2] == "equal"
    assert "Byzantine" in workers[0] and "honest" in workers[1]
    fast, slow = (int(line.split("|")[4]) for line in workers)
    assert fast + slow == 300 and fast > 2 * slow
    simulated = [row for row in rows if row["method"] == "simulator"]
    assert len(simulated) == 5 and {row["event"] for row in simulated} == {"300"}


def test_the_report_of_the_benchmark_contains_every_number():
    row = {"dim": 500, "workers": 2, "rate": 123.4, "pull_bytes": 456.7, "server_us": 78.9}
    row |= {"memory": 3 * 2**20, "x_and_y": 2**21}
    record = {"environment": {"cpu": "A processor", "cpu_cores": 2}, "trivial": [row]}
    record["votes"] = [row | {"vote": "own"}, row | {"vote": "median", "rate": 98.72}]
    text = runtime.report(record | {"mnist": [{"workers": 4, "rate": 5.6}]})
    assert text.startswith("A processor, 2 CPU cores")
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["500", "2", "123", "457", "79", "3", "2"] in cells and ["4", "6"] in cells
    assert ["median", "99", "0.80", "79"] in cells


@pytest.mark.slow
@pytest.mark.parametrize("mnist", [False, pytest.param(True, marks=helpers.LONG)])
def test_the_benchmark_reports_every_figure(tmp_path, mnist):
    tiny = ["--dims=500", "--counts=2", "--seconds=0.5", "--votes=median", f"--mnist={mnist}"]
    text = output_of("benchmarks.runtime", *tiny, f"--out={tmp_path}")
    record = json.loads((tmp_path / "runtime.json").read_text())
    (row,) = record["trivial"]
    assert (row["dim"], row["workers"], row["x_and_y"]) == (500, 2, 4 * 500 * 3)
    (vote,) = record["votes"]
    assert vote["vote"] == "median"
    for name in ("rate", "pull_bytes", "server_us", "memory"):
        assert 0 < row[name] < np.inf and 0 < vote[name] < np.inf, name
    assert row["memory"] > row["x_and_y"] and "cpu" in record["environment"]
    assert [each["workers"] for each in record["mnist"]] == [2] * mnist
    report = (tmp_path / "runtime.md").read_text()
    assert report in text and re.search(r"\| 500 +\| 2 +\|", report)
    assert "workers of the MNIST setting" in report
