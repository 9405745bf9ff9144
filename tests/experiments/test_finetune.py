"""The command that fine-tunes a transformer with users who lie."""

import csv

import numpy as np
import pytest

from docs.figures import read as read_tables
from tests.experiments.test_experiments import read, run

SMALL = ["--preset=smoke", "--model=transformer:layers=1,width=8,heads=1,context=24"]
SMALL += ["--events=8", "--eval_every=4", "--subspace=low_rank:size=20", "--directions=4"]


@pytest.mark.slow
def test_the_command_writes_what_it_measures(tmp_path):
    code, out, err = run("experiments.finetune", *SMALL, "--out", tmp_path)
    assert code == 0, err
    assert (tmp_path / "table.md").read_text() in out
    (table,) = read_tables(tmp_path / "table.md")
    names = ["far_sign", "mezo", "mezo, all parameters"]
    assert [row[0] for row in table[1:]] == names
    rows = read(tmp_path)
    assert {row["entry"] for row in rows} == set(names)
    assert {row["timing"] for row in rows} == {"", "flood:rate=5"}
    with (tmp_path / "users.csv").open() as file:
        users = list(csv.DictReader(file))
    assert {row["user"] for row in users} == {str(n) for n in range(26)}
    ends = {
        (row["entry"], row["attack"], row["timing"], row["seed"]): float(row["worst_users"])
        for row in rows  # in the order of events
    }
    for of, worst in ends.items():
        names = "entry", "attack", "timing", "seed"
        own = [float(row["test_accuracy"]) for row in users if tuple(map(row.get, names)) == of]
        assert np.mean(sorted(own)[:3]) == pytest.approx(worst, abs=1e-6)
    evaluations = {float(row["evaluations"]) for row in rows if not row["timing"]}
    assert max(evaluations) == 8 * 5  # of all methods alike


@pytest.mark.slow
def test_subspaces_are_compared_by_number_and_rank(tmp_path):
    small = [flag for flag in SMALL[1:] if "subspace" not in flag]
    code, out, err = run("experiments.subspaces", *small, "--panels=b", "--out", tmp_path)
    assert code == 0, err
    assert (tmp_path / "b.md").read_text() in out
    (calm, attacked) = read_tables(tmp_path / "b.md")
    assert calm[0][1:] == attacked[0][1:] == ["1", "4", "16"]
    assert {row["attack"] for row in read(tmp_path)} == {"none", "sign_flip:scale=10"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_dir=x"], "--model_dir and --data go together"),
        (
            ["--model_dir=/nowhere", "--data=x.tsv"],
            "no model in /nowhere: config.json: No such",
        ),
        (["--methods=sgd"], "--methods are of far_sign:scheme=forward"),
        (
            ["--dataset=mnist_subset", "--model=mlp:hidden=8", "--partition=iid"],
            "fine-tuning needs a data set with users: got mnist_subset",
        ),
        (["--attacks=sign_flip"], "the table needs attack none"),
        (["--subspace=low_rank:size=3"], "a question needs k <= number of directions: got k=8"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, run_forked, tmp_path):
    base = ["--model=transformer:layers=1,width=8,heads=1,context=24", f"--out={tmp_path}"]
    code, _, err = run_forked("experiments.finetune", *base, *flags)
    told = err.strip().splitlines()[-1]
    assert code == 2 and told.startswith(f"error: {message}"), err


def test_a_method_along_all_parameters_can_be_left_out(run_forked, tmp_path):
    flags = [*SMALL, "--methods=mezo", "--dry_run", f"--out={tmp_path}"]
    for left_out in ([], ["--noall_parameters"]):
        code, out, err = run_forked("experiments.finetune", *flags, *left_out)
        assert code == 0, err
        assert "mezo" in out and ("all parameters" in out) == (not left_out)
