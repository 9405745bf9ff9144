"""What a command would run, runs, and leaves: --dry_run, README.md, --tensorboard."""

import json
import re
import sys

import pytest
from absl.testing import flagsaver

from experiments import compare
from farsign_jax.harness import tensorboard
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files, folder_readme, run_folder
from farsign_jax.validation import InvalidConfig

SMALL = ["--events=60", "--eval_every=20", "--workers=5", "--byzantine=1", "--batch_size=4"]
SMALL += ["--model=softmax_regression", "--directions=5", "--methods=far_sign,sgd"]
SMALL += [
    "--aggregators=median",
    "--attacks=none,gaussian",
    "--seeds=2",
    "--max_parallel_runs=1",
]


def told(text):
    """The rows of the table that --dry_run prints, by sweep."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def command(capsys, *flags):
    """What `experiments.compare` prints."""
    with flagsaver.flagsaver():
        FLAGS(["compare", *SMALL, *flags])
        try:
            compare.compare()
        except SystemExit as end:
            assert end.code == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the command left."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with flagsaver.flagsaver():
        FLAGS(["compare", *SMALL, f"--out={out}"])
        assert compare.compare() == out
    return out


def rows_of(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def test_what_would_run_is_what_runs_and_nothing_is_written(folder, tmp_path, capsys):
    text = command(capsys, "--dry_run", f"--out={tmp_path / 'out'}")
    assert not list(tmp_path.iterdir()) and "which would be made" in text
    found, rows = told(text), rows_of(folder)
    last = [row for row in rows if row["event"] == (60 if row["method"] == "far_sign" else 12)]
    assert set(found) >= {"far_sign none", "far_sign gaussian:std=100", "sgd", "all"}
    assert len(last) == int(found["all"][0]) == 8 and found["all"][1] == "60"
    evaluations = sum(row["evaluations"] for row in last)
    assert int(found["all"][2].replace(",", "")) == evaluations
    sent = sum(row["bits_up"] for row in last) / 8
    assert found["all"][3] == f"{sent / 1e6:.3g} MB"
    assert found["all"][5] == "0" and re.search(r"^About [\d.]+ (s|min), as", text, re.M)
    (seconds,) = re.findall(r"begin and ([\d.]+) s of runs", text)
    assert 0 < float(seconds) < 60


def test_what_is_done_is_not_timed_again(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    text = command(capsys, "--dry_run", f"--out={folder}")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert told(text)["all"][5:] == ["100", "0 s"] and "which is there" in text


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, capsys):
    with pytest.raises(InvalidConfig, match="batch_size=5000, and worker 0"):
        command(capsys, "--dry_run", "--batch_size=5000", f"--out={tmp_path / 'out'}")
    (tmp_path / "config.json").write_text('{"experiment": "another"}')
    with pytest.raises(files.ConfigMismatch, match="experiment was 'another'"):
        command(capsys, "--dry_run", f"--out={tmp_path}")


def test_a_folder_says_what_it_holds(folder):
    text = (folder / "README.md").read_text()
    header = (folder / "results.csv").read_text().splitlines()[0].split(",")
    assert all(f"| `{name}` | " in text for name in header)
    assert "the setting or measure of that name" not in text
    run_folder.describe(folder)  # as at the end of the command: all files are there
    text = (folder / "README.md").read_text()
    for name in ("config.json", "results.csv", "table.md", "table.tex", "curves.png"):
        assert f"| `{name}` | " in text
    assert "| `checkpoints/` | from where the same command continues" in text
    assert "| `methods` | `far_sign,sgd` |" in text and "jaxlib" in text and "(cpu)" in text
    assert folder_readme.made_by() == ("", "")  # this is a test, and no command


def test_a_folder_says_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", compare)
    argv = ["compare", "--attacks", "none,alie:z=1", f"--out={tmp_path}/a b"]
    monkeypatch.setattr(sys, "argv", argv)
    folder = run_folder.RunFolder(tmp_path / "a b", {"events": 5})
    folder.claim()
    text = (folder.path / "README.md").read_text()
    asked = f"python -m experiments.compare --attacks none,alie:z=1 '--out={tmp_path}/a b'"
    assert f"```sh\n{asked}\n```" in text and "# Compares any methods" in text
    assert "The same command continues here." in text
    (folder.path / "README.md").write_text("mine")
    folder.write_rows([{"method": "sgd", "seed": 0}])
    assert (folder.path / "README.md").read_text() == "mine"


def test_tensorboard_reads_every_run_once(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # as after an interruption
        tensorboard.write(folder)
    runs = {path.name for path in (folder / "tensorboard").iterdir()}
    assert runs == {
        f"{method}-{attack}-seed={seed}"
        for method in ("far_sign", "sgd-median")
        for attack in ("none", "gaussian-std=100")
        for seed in (0, 1)
    }
    mine = accumulator.EventAccumulator(str(folder / "tensorboard" / "far_sign-none-seed=1"))
    mine.Reload()
    rows = [r for r in rows_of(folder) if (r["method"], r["attack"]) == ("far_sign", "none")]
    rows = [row for row in rows if row["seed"] == 1]
    for measure in ("test_accuracy", "test_loss"):
        for axis in ("event", "evaluations"):
            found = mine.Scalars(f"{measure}/{axis}")
            assert [point.step for point in found] == [row[axis] for row in rows]
            assert [p.value for p in found] == pytest.approx([row[measure] for row in rows])
    assert not list(folder.glob(".tensorboard*"))


def test_without_tensorboardx_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InvalidConfig, match=r"pip install 'farsign_jax\[tensorboard\]'"):
        tensorboard.check()
