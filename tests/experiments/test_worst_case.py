"""The command that searches the strongest adversary of every method."""

import json
import re
from pathlib import Path

import pytest

from docs.figures import read as read_tables
from farsign_jax.harness.adversary import Adversary
from tests.experiments.test_experiments import read, run, start

SMALL = ["--workers=5", "--byzantine=1", "--buffers=3", "--events=96", "--directions=4"]
SMALL += ["--batch_size=8", "--model=softmax_regression", "--seeds=2", "--configurations=16"]
SMALL += ["--attacks=none,sign_flip", "--aggregators=median"]


@pytest.mark.slow
def test_the_command_writes_what_it_finds(tmp_path):
    command = ["experiments.worst_case", "--methods=far_sign", *SMALL]
    code, out, err = run(*command, "--out", tmp_path / "a")
    assert code == 0, err
    for name in ("table", "ranking", "certificate", "constants"):
        assert (tmp_path / "a" / f"{name}.md").read_text() in out
    (table,) = read_tables(tmp_path / "a" / "table.md")
    assert [row[0] for row in table[1:]] == ["far_sign"]
    assert [row[0] for row in read_tables(tmp_path / "a" / "certificate.md")[0][1:]] == [
        "far_sign"
    ]
    rows = read(tmp_path / "a")
    kinds = {(row["method"], row["adversary"], row["attack"], row["seed"]) for row in rows}
    assert len(kinds) == len(rows) == 3 * 2

    file = tmp_path / "a" / "adversaries" / "far_sign.json"
    assert {row["attack"] for row in rows} >= {str(Adversary.from_json(file.read_text()))}


@pytest.mark.slow
@pytest.mark.long
def test_a_method_of_ones_own_runs_under_an_adversary_that_is_given(tmp_path):
    page = (Path(__file__).parents[2] / "docs/pages/worst_case.md").read_text()
    code = re.search("```py\n(.*?)```", page, re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 17
    (tmp_path / "my_module.py").write_text(code)
    process = start(
        "experiments.worst_case",
        "--method=my_module:my_method",
        *SMALL,
        "--out=o",
        cwd=tmp_path,
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "| my_method " in out
    assert json.loads((tmp_path / "o" / "config.json").read_text())["methods"] == ["my_method"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--configurations=8"], "3 rungs need at least 16 configurations: got 8"),
        (
            ["--events=100"],
            "the shortest runs have a sixteenth: --events is a multiple of 16: got 100",
        ),
        (["--adversary=no.json"], "--adversary no.json: No such file"),
        (["--method=math:pi2"], "--method math:pi2: there is no pi2 in math"),
        (["--method=a:b", "--methods=sgd"], "give either --method or --methods"),
        (["--methods=sgdd"], "unknown method 'sgdd'"),
        (
            ["--budget=10", "--methods=sgd", *SMALL],
            "a search needs a budget of at least 27 runs",
        ),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, run_forked):
    code, _, err = run_forked("experiments.worst_case", *flags)
    assert code == 2, err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


def test_a_dry_run_says_what_would_run(tmp_path, run_forked):
    flags = ["--methods=far_sign,sgd", *SMALL, "--dry_run", "--out", tmp_path / "none"]
    code, out, _ = run_forked("experiments.worst_case", *flags)
    assert code == 0 and "| far_sign " in out and "Nothing was written." in out
    assert not (tmp_path / "none").exists()
