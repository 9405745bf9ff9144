"""The files of a run: a killed server resumes it, and damaged files are reported."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from farsign_jax import InvalidConfig
from farsign_jax.io import files
from farsign_jax.runtime import journal
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.store import Store
from tests import helpers
from tests.runtime.recorded_runs import CONFIG, converse, open_run


@pytest.fixture(scope="module")
def problem():
    return CONFIG.problem()[0]


def test_a_killed_server_resumes_from_checkpoint_and_journal_without_counting_twice(
    tmp_path, problem
):
    rng = np.random.default_rng(4)
    values = rng.normal(size=(90, 20)).astype(np.float32)
    schedule = rng.integers(0, 4, 90).tolist()

    def go(core, part):
        answers = iter(values[part])
        converse(core, schedule[part], lambda i, x, q: next(answers))

    uninterrupted, store, _ = open_run(tmp_path / "uninterrupted", problem)
    go(uninterrupted, slice(0, 90))
    store.close()
    for begin, end in (
        (0, 30),
        (30, 60),
        (60, 90),
    ):  # each part ends as if the server were killed
        core, store, applied = open_run(tmp_path / "parts", problem)
        assert core.events == begin and applied == (0 if begin == 0 else 15)
        go(core, slice(begin, begin + 15))
        store.save(core)
        go(core, slice(begin + 15, end))
        store.close()
    core, store, _ = open_run(tmp_path / "parts", problem)
    store.close()
    for name, array in uninterrupted.state_dict().items():
        assert same_bits(core.state_dict()[name], array), name


def test_strikes_are_on_disk_before_the_next_message(tmp_path, problem):
    core, store, _ = open_run(tmp_path, problem)
    with pytest.raises(InvalidConfig, match="is in use: only one server may use a folder"):
        open_run(tmp_path, problem)
    core.strikes[2] = 3
    store.save_strikes(core.strikes)
    store.close()
    restarted, store, _ = open_run(tmp_path, problem)
    store.close()
    assert restarted.strikes.tolist() == [0, 0, 3, 0]
    (tmp_path / "strikes.json").write_text("{")
    with pytest.raises(InvalidConfig, match=r"strikes\.json is damaged"):
        open_run(tmp_path, problem)


def test_damaged_checkpoints_and_those_of_other_runs_are_rejected(tmp_path, problem):
    core, store, _ = open_run(tmp_path, problem)
    converse(core, [0, 1, 2], lambda i, x, q: np.ones(20, np.float32))
    store.save(core)
    store.close()
    with pytest.raises(InvalidConfig, match="belongs to another run"):
        Store(tmp_path, "f" * 16, (20,), 4)
    path = tmp_path / "checkpoint.npz"
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(InvalidConfig, match="is damaged"):
        open_run(tmp_path, problem)
    path.write_bytes(complete)
    (tmp_path / "arrivals.log").unlink()
    with pytest.raises(InvalidConfig, match="includes 3 arrivals, and the journal has fewer"):
        open_run(tmp_path, problem)


JOURNAL_AND_REPLACE = ("sync arrivals.log", "replace")


def name_of(descriptor):
    return pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")).name


@pytest.mark.slow
def test_f26_no_loss_of_power_leaves_a_run_that_cannot_be_resumed(
    tmp_path, problem, monkeypatch
):
    """A disk keeps all that was synchronised, and any part of what came after it.

    Checkpoints are replaced in one step, so that one or the other is there; of the journal, any
    number of bytes beyond those of its last synchronisation.
    """
    calls, saved = [], []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (calls.append(f"sync {name_of(f)}"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    folder = tmp_path / "run"
    core, store, _ = open_run(folder, problem)
    states = [core.state_dict()]
    rng = np.random.default_rng(0)
    for _ in range(6):
        values = rng.normal(size=(5, 20)).astype(np.float32)
        for value in values:
            converse(core, [int(rng.integers(4))], lambda i, x, q, value=value: value)
            states.append({name: a.copy() for name, a in core.state_dict().items()})
        calls.clear()
        store.save(core)
        order = [call for call in calls if "checkpoint" in call or call in JOURNAL_AND_REPLACE]
        assert [name.split()[0] for name in order] == ["sync", "sync", "replace"]
        assert order[0] == "sync arrivals.log"  # before the checkpoint that refers to it
        saved.append(((folder / "checkpoint.npz").read_bytes(), core.events))
    store.close()
    log = (folder / "arrivals.log").read_bytes()
    record = journal.record_dtype(20).itemsize
    begin = len(log) - 30 * record
    for number, (checkpoint, events) in enumerate(saved):
        for cut in rng.integers(begin + events * record, len(log) + 1, 4).tolist():
            after = tmp_path / f"{number}-{cut}"
            after.mkdir(exist_ok=True)
            (after / "checkpoint.npz").write_bytes(checkpoint)
            (after / "arrivals.log").write_bytes(log[:cut])
            resumed, store, _ = open_run(after, problem)
            store.close()
            assert resumed.events == (cut - begin) // record
            for name, array in states[resumed.events].items():
                assert same_bits(resumed.state_dict()[name], array), name


SAVING = """
import sys, numpy as np
from farsign_jax.io import files
for n in range(10**6):
    arrays = {"a": np.full(300_000, n), "b": np.full(300_000, n)}
    files.save_arrays(sys.argv[1], arrays)
    print(n, flush=True)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=helpers.LONG)])
def test_f12_a_checkpoint_is_complete_whenever_its_writer_is_killed(kills, tmp_path):
    path, rng = tmp_path / "checkpoint.npz", np.random.default_rng(0)
    for _ in range(kills):
        command = [sys.executable, "-c", SAVING, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(3):
                writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split()
        arrays = files.load_arrays(path)
        assert (arrays["a"] == arrays["b"]).all() and len(set(arrays["a"].tolist())) == 1
        last = int(rest[-1]) if rest else 2
        assert arrays["a"][0] in (last, last + 1)
