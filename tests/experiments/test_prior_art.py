"""Tables 1 and 2 as measurements: their rows, their steps, and the command."""

import csv

import numpy as np
import pytest

from experiments import prior_art
from experiments.parts import prior_slopes
from experiments.parts.prior_methods import FIRST, TABLES
from farsign_jax import METHODS, theory
from tests.experiments.test_experiments import TINY, read, run

ENTRIES = [entry for entries in TABLES.values() for entry in entries]


def test_the_tables_have_the_rows_of_the_paper_and_end_with_far_sign():
    assert [len(entries) for entries in TABLES.values()] == [6, 8]
    assert [entries[-1].method for entries in TABLES.values()] == [
        "far_sign_first_order",
        "far_sign",
    ]
    assert {entry.method for entry in ENTRIES} <= set(METHODS)
    for entry in ENTRIES:
        # The tables call exactly the methods asynchronous that do not work in rounds.
        assert entry.asynchronous == (not METHODS[entry.method].works_in_rounds)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.steps], ids=lambda e: e.method)
def test_the_steps_of_longer_runs_are_smaller(entry):
    for noise in entry.claimed:
        short, long = (entry.steps(updates, noise) for updates in (10_000, 1_000_000))
        assert 0 < long.step_size < short.step_size
        assert noise == FIRST or 0 < long.delta < short.delta


def test_a_rate_is_missed_only_if_all_of_the_interval_is_shallower():
    slope = theory.Slope(-0.22, -0.24, -0.20)
    assert prior_art.rate_cell(slope, 0.25) == "-0.220 [-0.240, -0.200] ✗"
    assert prior_art.rate_cell(slope, 0.23) == "-0.220 [-0.240, -0.200]"
    assert prior_art.rate_cell(slope, None) == "-0.220 [-0.240, -0.200]"


def measured(name, noise, horizons=(300, 1000, 3000)):
    entry = next(e for e in ENTRIES if e.method == name and noise in e.claimed)
    return prior_slopes.measure(entry, noise, prior_slopes.PROBLEMS[0], horizons, 3, None)


@pytest.mark.slow
def test_slopes_tell_a_method_with_a_defence_from_one_without():
    plain, robust = measured("rsg", FIRST), measured("byzantine_sgd", FIRST)
    assert plain.honest.high < -0.1 and robust.honest.high < -0.1
    assert robust.attacked.high < -0.1 and plain.attacked.low > 0
    # One row per number of liars, run and length; a longer run has a smaller mean.
    assert len(plain.rows) == 2 * 3 * 3
    means = [
        np.mean(
            [row["gradient"] for row in plain.rows if row["answers"] == k and not row["liars"]]
        )
        for k in (300, 1000, 3000)
    ]
    assert means == sorted(means, reverse=True)


def test_what_is_seen_stands_beside_what_the_table_says():
    def entry(attack, last):
        return {
            "attack": attack,
            "last": last,
            "last_std": 0.01,
            "last_per_seed": [last],
            "diverged": 0,
        }

    basgd = next(e for e in ENTRIES if e.method == "basgd")
    summary = {"none": entry("none", 0.9), "ipm": entry("ipm", 0.2)}
    cells = prior_art._seen(basgd, summary, 303.4, True, prior_art.CONFIG)
    assert cells[2:6] == ["no (table: ✓)", "303", "no (table: ✓)", "20.0 (ipm, of 1 attacks)"]
    assert cells[6] == "90.0 ± 1.0"


@pytest.mark.slow
@pytest.mark.long
def test_the_command_writes_what_is_seen_beside_what_the_table_says(tmp_path):
    flags = [*TINY, "--tables=1", "--preset=smoke", "--attacks=none", "--attacks=sign_flip"]
    flags += ["--buffers=3"]
    code, out, err = run("experiments.prior_art", "--out", tmp_path, *flags)
    assert code == 0, err
    table = (tmp_path / "table1.md").read_text()
    assert table in out and "Made by `python -m experiments.prior_art" in table
    for entry in TABLES[1]:
        assert f"| {entry.method} " in table and entry.reference in table
    cells = {
        line.split("|")[1].strip(): line.split("|")[3].strip()
        for line in table.splitlines()[2:8]
    }
    assert cells["rsg"] == "no" and cells["basgd"] == cells["far_sign_first_order"] == "yes"
    assert "survives 1 liars of 4" in table
    rows = read(tmp_path)
    ends = {(r["method"], r["attack"]): r for r in rows}
    assert len(ends) == 2 * len(TABLES[1])
    assert {r["evaluations"] for r in ends.values()} == {"40"}
    # Who waits for all workers in each round needs longer for as many answers.
    waits = float(ends["rsg", "none"]["virtual_seconds"])
    assert waits > 1.5 * float(ends["basgd", "none"]["virtual_seconds"])
    with open(tmp_path / "slopes.csv") as file:
        slopes = list(csv.DictReader(file))
    assert {row["method"] for row in slopes} == {entry.method for entry in TABLES[1]}
    assert "far_sign_first_order" not in (tmp_path / "ahead.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tables=3"], "unknown table '3'"),
        (["--tables="], "--tables is empty: known: 1, 2"),
        (["--attacks=sign_flip"], "the tables need attack none: got sign_flip"),
        (
            ["--tables=2", "--events=1"],
            "an answer of rsgf costs 101 evaluations, and the budget is 100: --events=1 is too",
        ),
        (["--methods=sgd"], "this command takes no --methods"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message):
    code, _, err = run("experiments.prior_art", *flags)
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
