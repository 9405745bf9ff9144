"""The benchmarks run and their counts are right. Durations are not tested."""

import copy
import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from benchmarks import (
    cases,
    ceilings,
    counts,
    events,
    finetune,
    plots,
    ratios,
    report,
    throughput,
)
from farsign_jax import sweeps
from farsign_jax.harness import timing
from farsign_jax.harness.flags import FLAGS
from farsign_jax.validation import InvalidConfig

RATES = {
    "matmul_flops_per_s": 1e11,
    "operations_per_s": 1e10,
    "transcendentals_per_s": 1e9,
    "copy": [{"bytes": 2**18, "bytes_per_s": 4e10}, {"bytes": 2**26, "bytes_per_s": 1e10}],
}
TINY = ["--workers=5", "--byzantine=1", "--directions=10", "--batch_size=8", "--buffers=5"]
RULES = "--aggregators=median,mean"
NUMBERS = {"us", "us_min", "us_max", "events_per_s", "evaluations_per_s", "compile_s"}
NUMBERS |= {"floor_us", "distance"}


def planned(*flags):
    """The configuration that these flags request, and its cases."""
    with flagsaver.flagsaver():
        FLAGS(["throughput", *TINY, RULES, *flags])
        throughput.check_flags()
        config = throughput.configure(throughput.CONFIG)
        return config, throughput.plan(config)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a tiny benchmark."""
    out = tmp_path_factory.mktemp("throughput")
    flags = [*TINY, RULES, f"--out={out}", "--timed_events=2", "--repeats=2", "--runs=1"]
    flags += ["--methods=far_sign,async_sgd", "--sizes=5000", "--deliveries=outstanding"]
    cached = jax.config.jax_enable_compilation_cache
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        for name, value in (("ENOUGH_S", 0.0), ("SIDE", 64), ("NUMBERS", (2**8,))):
            patch.setattr(ceilings, name, value)
        patch.setattr(ceilings, "COPIES", (2**10, 2**12))
        FLAGS(["throughput", *flags])
        throughput.throughput()
    jax.config.update("jax_enable_compilation_cache", cached)
    return out


@pytest.fixture(scope="module")
def record(written):
    return report.read(written / "throughput.json")


@pytest.mark.slow
def test_every_figure_is_present(record, written):
    methods = [row["method"] for row in record["rows"]]
    assert methods == ["far_sign", "far_sign, generic oracle", "async_sgd"]
    for row in record["rows"]:
        assert all(0 < row[name] < math.inf for name in NUMBERS), row
        assert row["us_min"] <= row["us"] <= row["us_max"] and row["events"] <= 2
        assert row["us"] == pytest.approx(row["distance"] * row["floor_us"])
        evaluations = 1 if row["method"] == "async_sgd" else 20
        assert row["evaluations_per_s"] == pytest.approx(evaluations * row["events_per_s"])
        assert 4980 < row["d"] < 5020 and row["delivery"] == "outstanding"
    assert {"config", "environment", "flags", "ceilings"} <= record.keys()
    (base,) = record["base_pass"]
    assert base["base_us"] > 0 and record["panel"] is None
    text = (written / "throughput.md").read_text()
    assert text.count("far_sign, generic oracle") == 2 and "Ceilings" in text


@pytest.mark.slow
def test_a_method_is_plotted_if_it_has_two_points(record, tmp_path):
    plots.scaling(record["rows"], tmp_path / "none")
    assert not (tmp_path / "none.png").exists()
    rows = [row | {"runs": runs} for row in record["rows"] for runs in (1, 2)]
    plots.scaling(rows, tmp_path / "some")
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["far_sign", "async_sgd"])
def test_counts_by_hand_and_by_xla_agree(method):
    """XLA's count of a program of one event, as it counts the body of a loop once."""
    config, (case, *_) = planned(f"--methods={method}", "--runs=1", "--sizes=5000")
    problem = cases.problem_of(config, None, case.size)
    work = counts.by_hand(case.method, case.sizes(config, problem), case.generic)
    hand = dict(zip(counts.KINDS, work.tolist(), strict=True))
    batch = case.run_batch(config, problem, runs=1, events=1)
    program, _, _ = timing.running(case.program(config), batch, events=1)
    xla = program.cost_analysis()
    assert all(value > 0 for value in hand.values())
    flops = hand["matmul"] + hand["operations"]
    if method == "async_sgd":
        assert 0.5 < xla["flops"] / flops < 2, xla
    else:  # XLA also counts the arithmetic of the update
        assert 0.8 < xla["flops"] / flops < 20, xla
        assert xla["bytes accessed"] > 0.5 * hand["bytes"]


@pytest.mark.slow
def test_a_record_compared_with_itself_is_equally_fast(record, written, tmp_path, capsys):
    text = report.compare(record, record)
    assert text.count(" 1.00 ") == len(record["rows"]) and "differs" not in text
    slow = copy.deepcopy(record)
    for row in slow["rows"]:
        row |= {name: 2 * row[name] for name in ("us", "us_min", "us_max")}
    slow["rows"].pop()
    text = report.compare(slow, record)
    assert text.count(" 0.50 ") == len(slow["rows"])
    assert "Rows timed only now: 1." in text
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    with flagsaver.flagsaver():
        both = f"--compare={tmp_path / 'slow.json'},{written / 'throughput.json'}"
        FLAGS(["throughput", both])
        throughput.throughput()
        assert capsys.readouterr().out == text + "\n"
        slow["environment"]["cpu"] = "an abacus"
        (tmp_path / "slow.json").write_text(json.dumps(slow))
        with pytest.raises(InvalidConfig, match=r"records of one device: got .* an abacus, "):
            throughput.throughput()


def test_a_case_that_is_too_large_or_too_slow_is_skipped_with_the_reason(monkeypatch):
    config, (case, *_) = planned("--methods=async_sgd", "--sizes=1000", "--runs=3")
    problem = cases.problem_of(config, None, case.size)
    limits = events.Limits(events=2, repeats=2, budget_s=0.0)
    row = events.row_of(case, config, problem, RATES, limits, 1.0)
    assert "--budget_s=0" in row["skipped"] and "us" not in row
    monkeypatch.setattr(sweeps, "memory", lambda runs: (2**20, 2**10))
    row = events.row_of(case, config, problem, RATES, limits, 1.0)
    assert "the runs need" in row["skipped"] and "are available" in row["skipped"]
    timed = {"environment": {"device": "d", "cpu": "c", "cpu_cores": 1}, "ceilings": RATES}
    timed |= {"rows": [row], "panel": None, "base_pass": [], "torch": []}
    assert row["skipped"] in report.report(timed) and row["skipped"] in report.line(row)


@pytest.mark.slow
def test_runs_of_a_method_with_buffers_are_in_lock_step():
    flags = ["--methods=cyber0", "--runs=1,3", "--sizes=200"]
    config, (one, many, *_) = planned(*flags, "--model=softmax_regression")
    problem = cases.problem_of(config, None, 200)
    limits = events.Limits(events=2, repeats=1, budget_s=60.0)
    row = events.row_of(many, config, problem, RATES, limits, 1.0)
    assert row["runs"] == 3 and row["us"] > 0
    alone = counts.by_hand("cyber0", one.sizes(config, problem))
    assert row["hand"]["operations"] < 0.5 * alone[1]  # directions are drawn once


def test_the_usual_cases_are_a_subset_of_all():
    flags = ["--sizes=700,900", "--runs=1,2"]
    _, some = planned(*flags)
    _, every = planned(*flags, "--full")
    assert set(some) < set(every) and len(set(every)) == len(every) == 2 * 2 * 2 * 6
    assert {c.delivery for c in some if c.method == "async_sgd"} == {"fresh"}
    assert {(c.size, c.runs) for c in some if c.aggregator == "mean"} == {(700, 1)}
    assert {c.delivery for c in some if c.name == "far_sign"} == {"fresh", "outstanding"}


def test_a_floor_is_the_sum_over_kinds_of_work():
    work = counts.work(1e11, 1e10, 1e9, 4e10)
    assert counts.floor_us(work, RATES, 1) == pytest.approx(1e6 * (1 + 1 + 1 + 4))
    read = counts.work(nbytes=2**10)
    assert counts.floor_us(read, RATES, 1) == pytest.approx(1e6 * 2**10 / 4e10)
    sizes = counts.Sizes(((784, 32), (32, 10)), batch=64, directions=100)
    assert sizes.dim == 25_450
    forward, series = 2 * 64 * (784 * 32 + 32 * 10), 5 * 2 * 64 * 100 * 10
    assert counts.by_hand("far_sign", sizes)[0] == forward + series
    deep = counts.Sizes(((784, 32), (32, 20), (20, 10)), batch=64, directions=100)
    # A weight of the first layer changes a unit, then 20 units, then 10 by 20 x 10 weights.
    assert counts.carried(deep) == 785 * 32 * 200 / deep.dim and counts.carried(sizes) == 0
    assert counts.by_hand("kardam", sizes) is None
    waiting = dataclasses.replace(sizes, waits=True)
    bytes_of = [counts.by_hand("async_sgd", s)[3] for s in (sizes, waiting)]
    assert bytes_of[1] - bytes_of[0] == 8 * 25_450


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runs=0"], "--runs needs positive whole numbers: got 0"),
        (["--sizes=x"], "--sizes needs positive whole numbers: got x"),
        (["--deliveries=soon"], "delivery is fresh, outstanding:L or inconsistent:L"),
        (["--attacks=none,alie"], "need one attack: got none, alie"),
        (["--methods=sgd"], "sgd works in rounds"),
        (["--events=7"], "takes no --events"),
        (["--compare=a,b,c"], "--compare takes one or two files"),
    ],
)
def test_invalid_flags_are_rejected(flags, message):
    with pytest.raises(InvalidConfig, match=message):
        planned(*flags)


def test_invalid_sizes_and_records_are_rejected(tmp_path):
    config, _ = planned()
    with pytest.raises(InvalidConfig, match="--sizes are at least 394"):
        cases.problem_of(config, None, 100)
    with pytest.raises(InvalidConfig, match="no file"):
        report.read(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(InvalidConfig, match="is not one"):
        report.read(tmp_path / "other.json")


@pytest.mark.slow
def test_ways_to_fine_tune_are_timed_on_the_same_answers():
    case = finetune.CASES["small"]._replace(length=6, directions=3)
    calls = finetune.calls_of(case)
    fast, slow = (calls[name][0]() for name in ("subspace", "one by one"))
    np.testing.assert_allclose(fast, slow, atol=2e-5)
    with flagsaver.flagsaver():
        FLAGS(["finetune", "--repeats=1"])
        rows = finetune.rows_of("small", case)
    assert [row["what"] for row in rows][:4] == ["inference", "subspace", "one by one", "mezo"]
    assert rows[0]["of_inference"] == 1 and [row["passes"] for row in rows][:4] == [1, 4, 4, 2]
    text = finetune.table(rows)
    assert text.count("| small") == len(rows)


@pytest.mark.slow
def test_a_check_prints_each_ratio_beside_its_band(capsys):
    flags = [*TINY, RULES, "--check", "--sizes=5000", "--timed_events=2", "--repeats=2"]
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ratios, "EVENTS", 6)
        FLAGS(["throughput", *flags])
        assert throughput.throughput() is None
    text = capsys.readouterr().out
    assert all(name in text for name in ratios.BANDS)
    (row, *_) = text.splitlines()[2:]
    assert len(row.split("|")) == 7


def test_a_ratio_above_its_band_is_slower():
    row = {"band": [1.0, 2.0]}
    assert ratios.verdict(row | {"ratio": 2.5}) == "slower"
    assert ratios.verdict(row | {"ratio": 1.5}) == "as before"
    assert ratios.verdict(row | {"ratio": 0.5}) == "faster"
