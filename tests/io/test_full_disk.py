"""A disk that is full: what was written stays valid, and the same command continues later.

A limit on the size of files stands for it: a write beyond it fails after a part was written.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from farsign_jax.io import files, rows, run_folder
from farsign_jax.runtime.journal import Arrival, Journal, NotRecorded, read
from farsign_jax.runtime.testing.local_cluster import free_port
from farsign_jax.validation import InvalidConfig
from tests.experiments.test_experiments import TINY, timeless
from tests.helpers import LONG, files_of_at_most

ROOT = pathlib.Path(__file__).parents[2]
RUN = "0123456789abcdef"


def made(count):
    return [{"method": "sgd", "event": event, "zeal": event / 7} for event in range(count)]


@pytest.mark.parametrize("size", [100, 333, 1000])
def test_rows_continue_after_a_full_disk(tmp_path, size):
    path, columns = tmp_path / "rows.csv", ("method", "event", "zeal")
    begun = rows.RowFile(path, columns, ("event",))
    with files_of_at_most(size), pytest.raises(OSError) as caught:
        for row in made(100):
            begun.append([row])
    assert caught.value.filename == str(path) and 0 < path.stat().st_size <= size
    assert rows.read_rows(path) == made(len(rows.read_rows(path)))
    rows.RowFile(path, columns, ("event",)).append(made(100))
    assert rows.read_rows(path) == made(100)


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "state.npz"
    files.save_arrays(path, {"a": np.zeros(3)})
    with files_of_at_most(1000), pytest.raises(OSError) as caught:
        files.save_arrays(path, {"a": np.ones(1000)})
    assert caught.value.filename == str(path) and os.listdir(tmp_path) == [path.name]
    np.testing.assert_array_equal(files.load_arrays(path)["a"], np.zeros(3))


def test_rows_do_not_return_without_their_header(tmp_path):
    """A folder that vanished has no configuration either: the command must begin anew."""
    folder = run_folder.RunFolder(tmp_path / "out", {"events": 5})
    folder.append_rows(made(1), ["zeal"])
    for path in folder.path.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"results\.csv"):
        folder.append_rows(made(2), ["zeal"])
    assert not list(folder.path.iterdir())
    folder.path.rmdir()
    with pytest.raises(FileNotFoundError, match=r"results\.csv"):
        folder.append_rows(made(2), ["zeal"])


def arrival(number):
    return Arrival(number % 3, number, number, float(number), np.ones(2, np.float32))


@pytest.mark.parametrize("size", [40, 300, 301, 339])
def test_a_journal_ends_with_its_last_whole_record(tmp_path, size):
    path = tmp_path / "journal"
    opened, count = Journal(path, 2, RUN), 0
    with files_of_at_most(size), pytest.raises(NotRecorded, match=f"{path}: File too large"):
        for count in range(100):
            opened.append(arrival(count))
    opened.append(arrival(count))  # there is space again
    opened.close()
    assert read(path, RUN)["number"].tolist() == list(range(count + 1))


def test_a_journal_that_was_moved_is_noticed(tmp_path):
    opened = Journal(tmp_path / "journal", 2, RUN)
    opened.append(arrival(0))
    opened.sync()
    (tmp_path / "journal").rename(tmp_path / "elsewhere")
    for _ in range(2):  # there is no file, and then another one
        with pytest.raises(InvalidConfig, match="journal was removed or replaced while"):
            opened.sync()
        (tmp_path / "journal").write_bytes(b"")
    opened.close()


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(*words, size=None, **options):
    limited = ["-c", LIMITED, str(size)] if size else ["-m"]
    told = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": told}
    return subprocess.Popen([sys.executable, *limited, *map(str, words)], **pipes | options)


def run(*words, **options):
    process = start(*words, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_an_experiment_continues_bit_by_bit_after_a_full_disk(tmp_path):
    flags = ["experiments.compare", *TINY, "--methods=far_sign", "--attacks=none"]
    flags += ["--model=softmax_regression", "--checkpoint_every=20"]
    assert run(*flags, f"--out={tmp_path / 'whole'}")[0] == 0
    cut = [*flags, f"--out={tmp_path / 'cut'}"]
    named = set()
    for size in (300, 60_000):  # of README.md; of a checkpoint
        code, _, err = run(*cut, size=size)
        assert code == 2 and "Traceback" not in err, err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert str(tmp_path / "cut") in line and line.endswith("File too large")
        named.add(line)
    assert len(named) > 1
    code, _, err = run(*cut)
    assert code == 0, err
    found = [rows.read_rows(tmp_path / name / "results.csv") for name in ("whole", "cut")]
    assert timeless(found[0]) == timeless(found[1])


@pytest.mark.slow
def test_a_served_run_continues_after_a_full_disk_with_the_same_bits(tmp_path):
    pytest.importorskip("grpc")
    address, out = f"localhost:{free_port()}", tmp_path / "run"
    serve = ["farsign_jax.runtime.serve", "--insecure", f"--address={address}", f"--out={out}"]
    serve += ["--workers=1", "--byzantine=0", "--directions=10", "--events=60"]
    serve += ["--model=softmax_regression"]
    work = ["farsign_jax.runtime.work", "--insecure", f"--server={address}", "--worker=0"]
    with start(*work) as worker, contextlib.ExitStack() as stack:
        stack.callback(worker.kill)
        with start(*serve, size=2000) as server:
            stack.callback(server.kill)
            line = next(line for line in server.stderr if line.startswith("answers cannot"))
            assert "File too large: workers wait" in line
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=60)  # its last checkpoint is too large, too
        assert server.returncode == 2 and "Traceback" not in err, err
        assert err.splitlines()[-1] == f"error: {out}/checkpoint.npz: File too large"
        code, said, err = run(*serve)
        assert code == 0 and "60 answers were applied" in said, err
    code, said, err = run("farsign_jax.runtime.replay", out)
    assert code == 0 and "60 arrivals replayed: the simulator ends with the same" in said, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["experiments.report", "results"], marks=LONG),
        ["experiments.list", "attacks"],
        pytest.param(["benchmarks.aggregators", "--dims=100", "--repeats=1"], marks=LONG),
        ["farsign_jax.runtime.tls", "--workers=1"],
        pytest.param(["docs.layers"], marks=LONG),
    ],
    ids=lambda words: words[0],
)
def test_other_commands_end_in_one_line(tmp_path, words):
    if words[0].endswith("list"):
        with open("/dev/full", "w") as full:
            code, _, err = run(*words, stdout=full)
        assert (code, err) == (2, "error: standard output: No space left on device\n")
        return
    run_folder.RunFolder(tmp_path / "results", {}).write_rows(made(2))
    code, _, err = run(*words, f"--out={tmp_path / 'out'}", size=1, cwd=tmp_path)
    assert code == 2 and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith(f"error: {tmp_path / 'out'}/"), err
