"""What a command plans, and what it leaves in its folder: README.md and event files."""

import sys

import pandas as pd
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


def planned(text):
    """The rows of the table that --dry_run prints, by sweep."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def output_of_compare(capsys, *flags):
    """What `experiments.compare` prints with these flags."""
    with flagsaver.flagsaver():
        FLAGS(["compare", *SMALL, *flags])
        try:
            compare.compare()
        except SystemExit as end:
            assert end.code == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that the command wrote."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with flagsaver.flagsaver():
        FLAGS(["compare", *SMALL, f"--out={out}"])
        assert compare.compare() == out
    return out


def rows_of(folder):
    return pd.read_csv(folder / "results.csv", keep_default_na=False).to_dict("records")


@pytest.mark.slow
def test_a_dry_run_counts_what_a_run_does_and_writes_nothing(folder, tmp_path, capsys):
    text = output_of_compare(capsys, "--dry_run", f"--out={tmp_path / 'out'}")
    assert not list(tmp_path.iterdir()) and "which would be created" in text
    found, rows = planned(text), rows_of(folder)
    last = [row for row in rows if row["event"] == (60 if row["method"] == "far_sign" else 12)]
    assert set(found) >= {"far_sign none", "far_sign gaussian:std=100", "sgd", "all"}
    assert len(last) == int(found["all"][0]) == 8 and found["all"][1] == "60"
    evaluations = sum(row["evaluations"] for row in last)
    assert int(found["all"][2].replace(",", "")) == evaluations
    sent = sum(row["bits_up"] for row in last) / 8
    assert found["all"][3] == f"{sent / 1e6:.3g} MB"
    assert found["all"][5] == "0"


@pytest.mark.slow
def test_a_dry_run_counts_finished_runs(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    text = output_of_compare(capsys, "--dry_run", f"--out={folder}")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert planned(text)["all"][5:] == ["100"] and "which exists" in text


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, capsys):
    with pytest.raises(InvalidConfig, match="batch_size=5000, and worker 0"):
        output_of_compare(capsys, "--dry_run", "--batch_size=5000", f"--out={tmp_path / 'out'}")
    (tmp_path / "config.json").write_text('{"experiment": "another"}')
    with pytest.raises(files.ConfigMismatch, match="experiment was 'another'"):
        output_of_compare(capsys, "--dry_run", f"--out={tmp_path}")


@pytest.mark.slow
def test_the_readme_of_a_folder_describes_its_files(folder):
    text = (folder / "README.md").read_text()
    for name in ("config.json", "code.json", "results.csv", "results.json", "checkpoints/"):
        assert f"- `{name}`" in text
    assert folder_readme.made_by() == ("", "")  # this is a test, and no command


def test_the_readme_of_a_folder_has_the_command_that_made_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", compare)
    argv = ["compare", "--attacks", "none,alie:z=1", f"--out={tmp_path}/a b"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.compare", *argv[1:]])
    folder = run_folder.RunFolder(tmp_path / "a b", {"events": 5})
    folder.claim()
    text = (folder.path / "README.md").read_text()
    asked = f"python -m experiments.compare --attacks none,alie:z=1 '--out={tmp_path}/a b'"
    assert f"```sh\n{asked}\n```" in text and "# Compares any methods, attacks" in text
    assert "which continues here" in text
    (folder.path / "README.md").write_text("mine")
    folder.write_rows([{"method": "sgd", "seed": 0}])
    assert (folder.path / "README.md").read_text() == "mine"


@pytest.mark.slow
def test_tensorboard_reads_every_run_once_after_two_writes(folder):
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


def test_a_missing_tensorboardx_is_one_line_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InvalidConfig, match=r"pip install 'farsign_jax\[tensorboard\]'"):
        tensorboard.check()
