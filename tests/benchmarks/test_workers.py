"""The cost against the number of workers is measured where it can be. Times are not tested."""

import json

import pytest

from tests.experiments.test_experiments import run

TINY = ["--dataset=mnist_subset", "--directions=5", "--batch_size=8", "--repeats=1"]


@pytest.mark.slow
def test_the_state_grows_with_the_number_of_workers(tmp_path):
    methods = "--methods=far_sign,far_sign:storage=hashed,slots=64,basgd:buffers=100,sgd"
    flags = [*TINY, methods, "--counts=25,200", "--timed_events=3", "--out", tmp_path]
    code, out, err = run("benchmarks.workers", *flags)
    assert code == 0, err
    rows = json.loads((tmp_path / "workers.json").read_text())["rows"]
    state = {(r["method"], r["workers"]): r.get("state_bytes") for r in rows}
    assert state["far_sign", 200] - state["far_sign", 25] >= 175 * 25450 * 4
    hashed = "far_sign:storage=hashed,slots=64"
    assert 175 * 64 * 4 <= state[hashed, 200] - state[hashed, 25] < 175 * 64 * 16
    assert state["basgd:buffers=100", 25] is None
    assert "need buffers <= workers: got buffers=100, workers=25" in out
    assert all(r["us"] > 0 for r in rows if "skipped" not in r)
    code, _, err = run("benchmarks.workers", *TINY, "--counts=3")
    assert code == 2 and err.strip().endswith("--counts are whole numbers from 5 on: got 3")
