"""The command lines, as a person types them."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import table3, tune
from farsign_jax.harness import figure_grid
from farsign_jax.harness import summary as summary_lib
from farsign_jax.methods import METHODS
from tests import helpers

ROOT = pathlib.Path(__file__).parents[2]
TINY = ["--events=40", "--eval_every=20", "--workers=4", "--byzantine=1", "--directions=10"]
TINY += ["--seeds=2"]


def start(module, *flags, **options):
    code = [sys.executable, "-m", module, *map(str, flags)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= options.pop("env", {})
    told = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(code, env=environment, text=True, **told)


def run(module, *flags):
    process = start(module, *flags)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def read(folder):
    with open(folder / "results.csv") as file:
        return list(csv.DictReader(file))


def timeless(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.slow
def test_quickstart_shows_who_survives(tmp_path, run_forked):
    code, out, err = run("experiments.quickstart", "--out", tmp_path, *TINY)
    assert code == 0, err
    assert "far_sign" in out and "sign_flip:scale=10" in out
    rows = read(tmp_path)
    assert len(rows) == 2 * 2 * 2 * 2  # methods, attacks, seeds, records
    assert {r["evaluations"] for r in rows if r["method"] == "far_sign"} == {"400", "800"}
    assert {r["bits_up"] for r in rows if r["method"] == "far_sign"} == {"6400", "12800"}
    for name in ("curves.png", "curves.pdf", "table.md", "results.json", "config.json"):
        assert (tmp_path / name).stat().st_size > 0
    # The same command finds everything done and says the same.
    again = run("experiments.quickstart", "--out", tmp_path, *TINY)
    assert again[:2] == (0, out)
    # Another configuration is not mixed in.
    other = ["--out", tmp_path, *TINY, "--delta=0.1"]
    code, out, err = run_forked("experiments.quickstart", *other)
    assert code == 2 and "delta was 0.001, is 0.1" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_command_compiles_few_programs(tmp_path, monkeypatch):
    """Each takes some 30 ms of the start of every command, from the cache or not."""
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    flags = ["--methods=far_sign", "--attacks=none", f"--out={tmp_path}"]
    code, _, err = run("experiments.compare", *TINY, *flags)
    assert code == 0, err
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", err)
    assert compiled.count("advance") == compiled.count("start") == 1, compiled
    assert len(compiled) <= 15, compiled


@pytest.mark.slow
def test_interrupted_and_killed_commands_continue_bit_by_bit(tmp_path):
    flags = [
        "--dataset=mnist_subset", "--attacks=none,alie", "--events=400", "--eval_every=50",
        "--checkpoint_every=100", "--seeds=2", "--directions=20", "--methods=far_sign",
        "--model=softmax_regression",  # compiles sooner
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("experiments.compare", "--out", whole, *flags)[0] == 0
    # SIGINT once there are rows to look at, SIGKILL right after a checkpoint was written.
    for number, kind, pattern in (
        (signal.SIGINT, 130, "*.csv"),
        (signal.SIGKILL, -9, "*.npz"),
    ):

        def written(pattern=pattern):
            return {path: path.stat().st_mtime_ns for path in cut.rglob(pattern)}

        before = written()
        process = start("experiments.compare", "--out", cut, *flags)
        while process.poll() is None and written() == before:
            time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (kind, 0)
        if process.returncode == 130:
            assert "the same command continues" in err
            assert read(cut)  # usable as it is
    assert run("experiments.compare", "--out", cut, *flags)[0] == 0
    assert timeless(read(cut)) == timeless(read(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--attacks=sign_flop", "unknown attack 'sign_flop': did you mean 'sign_flip'"),
        ("--methods=farsign", "unknown method 'farsign': did you mean 'far_sign'"),
        ("--dataset=minst", "unknown dataset 'minst': did you mean 'mnist'"),
        ("--preset=tunned", "unknown preset 'tunned': did you mean 'tuned'"),
        ("--workers=3 --byzantine=3", "got byzantine=3, workers=3"),
        ("--workers=x", "flag --workers=x: a whole number is needed: got 'x'"),
        ("--delta=x", "flag --delta=x: a number is needed: got 'x'"),
        ("--dry_run=x", "true or false is needed: got 'x'"),
        ("--seeds=0,0", "names one twice"),
        ("--seeds=many", "seeds is a count or a list"),
        ("--directions=100000", "got k=100000, K=25450"),
        ("--batch_size=5000", "got batch_size=5000, and worker"),
        ("--step_size=-1", "step_size > 0: got -1"),
        ("--wrokers=3", "Unknown command line flag 'wrokers'"),
        ("extra", "unexpected argument 'extra'"),
        ("--events=0", "0 < events < 2147483648: got 0"),
        ("--delta=inf", "delta < 2147483648: got inf"),
        ("--attacks=", "attacks names none"),
        ("--attacks=none,none", "attacks names one twice"),
        ("--attacks=alie:z=abc", "alie needs a finite number for z: got 'abc'"),
        ("--attacks=nonfinite:kind=5", "unknown kind of nonfinite '5'"),
        ("--partition=label_skew --heterogeneity=0.5", "whole number of pieces"),
        ("--partition=dirichlet --heterogeneity=0.01", "got batch_size=64, and worker"),
        ("--attacks=alie:z", "options are written option=value: got 'z'"),
        ("--aggregators=krun", "unknown aggregator 'krun': did you mean 'krum'"),
        ("--aggregators=krum:f=5", "krum needs n >= 2f + 3: got n=11, f=5"),
        ("--aggregators=bulyan:f=3", "bulyan needs n >= 4f + 3: got n=11, f=3"),
        ("--buffers=9", "cyber0 needs buffers >= 2q + 1: got buffers=9, q=5"),
        ("--methods=cyber0:buffers=26", "buffers <= workers: got buffers=26, workers=25"),
        ("--methods=cyber0:buffers=3", "cyber0 needs buffers >= 2q + 1: got buffers=3, q=5"),
        ("--methods=cyber0:buffers=11.5", "cyber0 needs a whole number for buffers: got 11.5"),
        (
            "--methods=cyber0:aggregator=krum",
            "aggregator of a method is a setting",
        ),
        ("--methods=cyber0:buffers=11,buffers=13", "'buffers' is given twice"),
        ("--aggregators=Median,median", "aggregators names one twice"),
        ("--methods=cyber0:bufers=11", "unknown option of cyber0 'bufers': did you mean"),
    ],
)
def test_wrong_values_end_in_one_line_and_exit_code_2(flags, message, tmp_path, run_forked):
    everything = [*flags.split(), f"--out={tmp_path}"]
    if "--dataset" not in flags:
        everything.append("--dataset=mnist_subset")
    code, out, err = run_forked("experiments.table3", *everything)
    assert code == 2
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())  # a failed command leaves no trace


@pytest.mark.slow
def test_help_names_the_flags():
    code, out, _ = run("experiments.table3", "--help")
    assert code == 0 and "--attacks" in out and "--checkpoint_every" in out


def curve(method, seed, accuracies):
    return [
        {"method": method, "aggregator": "", "attack": "none", "seed": seed, "event": 10 * i,
         "evaluations": 100 * i, "seconds": 0.5 * i, "bits_up": 32 * i, "test_accuracy": a}
        for i, a in enumerate(accuracies, 1)
    ]  # fmt: skip


def test_summaries_are_what_they_say():
    rows = curve("a", 0, [0.5, 0.9, 0.8]) + curve("a", 1, [0.6, 0.7, 0.85])
    (entry,) = summary_lib.summarise(rows)
    assert entry["best"] == pytest.approx((0.9 + 0.85) / 2)
    assert entry["best_std"] == pytest.approx(np.std([0.9, 0.85], ddof=1))
    assert entry["last"] == pytest.approx(0.825) and entry["last_per_seed"] == [0.8, 0.85]
    # Mean curve 0.55, 0.8, 0.825: 80 % at the second record, 85 % never.
    assert entry["evaluations_to_80"] == 200 and entry["seconds_to_80"] == 1.0
    assert entry["evaluations_to_85"] is None
    assert entry["evaluations_to_85_per_seed"] == [200, 300]
    json.dumps(entry)


def test_who_wins_is_counted_in_evaluations_seconds_and_bits():
    ours = curve("far_sign", 0, [0.7, 0.8, 0.82])
    other = [row | {"aggregator": "mean"} for row in curve("cyber0", 0, [0.5, 0.7, 0.85])]
    other = [row | {"seconds": 9 * row["seconds"]} for row in other]
    never = [row | {"aggregator": "krum"} for row in curve("cyber0", 0, [0.1, 0.1, 0.1])]
    summary = summary_lib.summarise(ours + never + other)
    _, lines = table3.wins_table(summary)
    assert lines == [
        ["cyber0 krum", "none", "+72.0", "one seed", "always", "always", "always"],
        ["cyber0 mean", "none", "-3.0", "one seed", "1.5", "13.5", "1.5"],
    ]
    assert table3.fastest(summary, "none")["aggregator"] == "mean"
    assert table3.fastest(summary, "alie") is None


def test_the_published_table_is_complete():
    assert len(table3.PUBLISHED) == 7 * 5
    assert table3.PUBLISHED["cyber0 median", "constant:value=100"] == (83.8, 350, None)
    assert table3.PUBLISHED["far_sign", "sign_flip"] == (86.9, 37, 120)


def test_the_best_worst_case_is_chosen():
    scores = np.asarray([[0.9, 0.2], [0.7, 0.6001], [0.65, 0.6004], [0.5, 0.5]])
    assert tune.choose(scores) == 1  # 60.0 % twice in the worst attack, then the mean
    assert tune.choose(scores, "mean") == int(scores.mean(axis=1).argmax())


@pytest.mark.slow
def test_table3_figure1_and_tune_run_baselines_in_lockstep(tmp_path):
    small = ["--dataset=mnist_subset", "--seeds=2", "--events=60", "--eval_every=30"]
    small += ["--directions=5", "--attacks=none,alie"]
    small += ["--model=softmax_regression"]  # compiles sooner; other commands run the network
    out, rules = tmp_path / "table3", "--aggregators=mean,krum"
    code, text, err = run("experiments.table3", "--out", out, *small, rules)
    assert code == 0, err
    rows = read(out)
    assert len(rows) == (1 + 2) * 2 * 2 * 2  # methods, attacks, seeds, records
    assert {row["aggregator"] for row in rows} == {"", "mean", "krum:f=4"}
    cyber = [row for row in rows if row["method"] == "cyber0"]
    assert {row["bits_up"] for row in cyber} == {str(32 * 7850 * n) for n in (30, 60)}
    clocked = {
        (e["method"], e["aggregator"]): e
        for e in json.loads((out / "clock.json").read_text())["clock"]
    }
    assert len(clocked) == 3
    for row in rows:  # seconds are those of a run alone
        us = clocked[row["method"], row["aggregator"]]["us"]
        assert float(row["seconds"]) == pytest.approx(1e-6 * us * int(row["event"]))
    assert "cyber0 krum:f=4" in text and (out / "wins.md").exists()
    assert r"\begin{tabular}" in (out / "table.tex").read_text()

    (out / "figure1.png").unlink()
    code, _, err = run("experiments.figure1", "--out", out, *small, rules)
    assert code == 0, err
    assert (out / "figure1.png").stat().st_size > 10_000 and read(out) == rows

    tuned = ["--out", tmp_path / "tune", *small, "--aggregators=mean", "--methods=far_sign,sgd"]
    code, text, err = run("experiments.tune", *tuned)
    assert code == 0, err
    assert text.count(" (chosen") == 2
    rows = read(tmp_path / "tune")
    assert len(rows) == (1 + 1) * 2 * 2 * len(tune.MULTIPLES)
    assert {(row["method"], row["event"]) for row in rows} == {("far_sign", "60"), ("sgd", "2")}
    steps = {float(r["step_size"]) for r in rows if r["method"] == "sgd"}
    paper = METHODS["sgd"].presets["paper"]["step_size"]
    np.testing.assert_allclose(sorted(steps), sorted(paper * m for m in tune.MULTIPLES), 1e-6)


@pytest.mark.slow
def test_asynchrony_writes_what_it_shows_and_continues(tmp_path):
    small = ["--panels=b", "--methods=far_sign", "--seeds=1", "--events=100", "--eval_every=50"]
    small += ["--directions=5", "--model=softmax_regression"]  # compiles sooner
    code, text, err = run("experiments.asynchrony", "--out", tmp_path, *small)
    assert code == 0, err
    rows = read(tmp_path)
    lines = {
        "far_sign",
        "sgd, waits for all",
        "sgd, waits for 4 of 5",
        "sign_sgd_mv, waits for all",
    }
    assert {row["line"] for row in rows} == lines
    # Two records each; three where five rounds of 20 answers end between two of 50.
    assert len(rows) == 5 * len(figure_grid.MULTIPLES) * (3 * 2 + 3)
    assert "Who waits for stragglers" in text and (tmp_path / "b.md").exists()
    assert (tmp_path / "b.png").stat().st_size > 10_000
    at_100 = {
        (r["line"], r["x"]): float(r["virtual_seconds"]) for r in rows if r["event"] == "4"
    }
    waits = at_100["sgd, waits for all", "100"] / at_100["sgd, waits for all", "1"]
    assert waits > 10  # nearly every round has a straggler
    assert run("experiments.asynchrony", "--out", tmp_path, *small)[0] == 0
    assert timeless(read(tmp_path)) == timeless(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "claims",
    [
        pytest.param(claims, marks=helpers.LONG)
        for claims in ("estimation", "rates,tracking,convergence,estimation")
    ],
)
def test_rates_says_what_it_measured_and_continues(tmp_path, claims):
    command = ["experiments.rates", "--preset=smoke", f"--claims={claims}", "--out", tmp_path]
    code, out, err = run(*command)
    assert code == 0, err
    table = (tmp_path / "table.md").read_text()
    assert "Ganesh et al., 2023" in table
    assert {line.count("|") for line in table.splitlines()} == {5}  # no cell contains one
    assert ("Theorem 2.3" in table) == ("convergence" in claims)
    assert out.count("too short to judge") == table.count("too short to judge") > 3
    assert (tmp_path / "estimation.png").stat().st_size > 10_000
    rows = read(tmp_path)
    assert {row["line"] for row in rows} >= {"four angles", "margin 0", "unweighted"}
    assert run(*command)[:2] == (0, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--claims=rate", "unknown group of claims 'rate': did you mean 'rates'"),
        ("--claims=", "--claims names none: known: rates"),
        ("--preset=paper", "unknown preset 'paper'"),
        ("--workers=7", "this command takes no --workers"),
    ],
)
def test_rates_refuses_what_it_does_not_read(flags, message, tmp_path, run_forked):
    code, out, err = run_forked("experiments.rates", flags, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
