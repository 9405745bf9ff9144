"""Rows as curves, and the data of their plots."""

import json
import math

import numpy as np
import pytest

from farsign_jax.harness import plots
from farsign_jax.harness.report import vega
from tests.harness.report.samples import curves_of, rows_of


def test_integers_that_no_float_can_hold_are_infinite():
    rows = rows_of(seeds=(0,))
    rows[3]["test_loss"], rows[7]["test_loss"] = 10**400, -(10**400)
    assert curves_of(rows).last()["test_loss"].tolist()[:2] == [math.inf, -math.inf]


def test_settings_of_many_values_are_no_measurements():
    for name, varied in (("byzantine", ()), ("unknown", ("unknown",))):
        rows = [row | {name: n} for n in range(25) for row in rows_of(("sgd",), ("none",))]
        found = curves_of(rows, varied)
        assert found.names["plot"].tolist() == [f"{name} {n}" for n in range(25)]
        assert name not in found.measured
    assert "unknown" in curves_of(rows).measured


@pytest.mark.parametrize("order", [(0.1, 0.2), (0.2, 0.1)])
@pytest.mark.parametrize("column", ["test_accuracy", "test_loss"])
def test_a_step_size_that_ends_in_nan_is_not_the_best(order, column):
    rows = [
        {"method": "sgd", "step_size": step, "seed": 0, "event": event}
        | {column: math.nan if (step, event) == (0.2, 2) else 0.5}
        for step in order
        for event in (1, 2)
    ]
    assert curves_of(rows).best_steps().names["step"].tolist() == ["0.1"]


def test_curves_are_the_runs_that_differ_in_their_seed():
    found = curves_of(rows_of())
    assert found.names[["line", "attack", "plot"]].to_numpy().tolist() == [
        ["far_sign", "none", ""], ["far_sign", "alie:z=1.5", ""],
        ["basgd median", "none", ""], ["basgd median", "alie:z=1.5", ""],
    ]  # fmt: skip
    assert found.runs == 8 and found.last().loc[3].index.tolist() == ["0", "3"]
    np.testing.assert_allclose(found.last().loc[3, "test_accuracy"], [54, 57])
    np.testing.assert_allclose(found.best().loc[3, "test_accuracy"], [54, 57])
    assert vega.data(found)["curves"][3]["x"]["evaluations"] == [100, 200, 300, 400]
    # Other columns that vary distinguish plots, unless they follow from one that does. Step
    # sizes are distinguished, too, and the one that ends best is drawn.
    varied = [row | {"partition": "two_camps", "unknown": 1} for row in rows_of()]
    plots = curves_of(rows_of() + varied).names["plot"]
    assert {*plots} == {"partition iid", "partition two_camps"}
    less = [
        row | {"step_size": 0.1, "test_accuracy": row["test_accuracy"] / 2} for row in rows_of()
    ]
    both = curves_of([row | {"step_size": 0.2} for row in rows_of()] + less)
    assert len(both.names) == 8
    assert both.best_steps().names["step"].tolist() == ["0.2"] * 4


def test_the_order_of_rows_does_not_matter_and_the_later_of_two_equal_records_counts():
    rows = rows_of(("sgd",), ("none",), seeds=(10, 9))
    last = curves_of(rows[::-1]).last()["test_accuracy"].to_dict()
    assert last == {(0, "10"): pytest.approx(14), (0, "9"): pytest.approx(13)}
    last = curves_of([*rows, dict(rows[3], test_accuracy=1.0)]).last()["test_accuracy"]
    assert last.to_dict() == {(0, "10"): 100, (0, "9"): pytest.approx(13)}


def test_runs_of_different_length_are_averaged_where_all_are():
    rows = [
        row for row in rows_of(("sgd",), ("none",)) if (row["seed"], row["event"]) != (3, 200)
    ]
    found = curves_of(rows)
    assert found.last()["test_accuracy"].to_dict() == {(0, "0"): 4, (0, "3"): 6}
    (drawn,) = vega.data(found)["curves"]
    assert drawn["y"]["test_accuracy"] == [[2.5, 3.5, 4.5, None], [1, 2, 3, 4], [4, 5, 6, None]]


@pytest.mark.parametrize(("times", "scale"), [(8, None), (12, "log")])
def test_axes_are_logarithmic_where_one_curve_is_much_longer(times, scale):
    rows = [
        {"method": method, "seed": 0, "event": event, "evaluations": event * each}
        | {"test_accuracy": 0.5}
        for method, each in (("a", 1), ("b", times))
        for event in (10, 20, 30)
    ]
    drawn = vega.data(curves_of(rows))
    assert drawn["x"]["evaluations"]["scale"].get("type") == scale
    assert drawn["x"]["event"]["scale"].get("type") is None
    shown = plots.draw([row | {"aggregator": "", "attack": "none"} for row in rows])
    assert shown.axes[0].get_xscale() == (scale or "linear")


def test_long_curves_are_thinned_and_numbers_that_json_does_not_have_are_named():
    rows = [
        {"method": "sgd", "seed": seed, "event": event, "test_loss": float(event)}
        for seed in range(12)
        for event in range(1, 1001)
    ]
    rows[0]["test_loss"], rows[999]["test_loss"] = math.inf, math.nan
    data = vega.data(curves_of(rows))
    (curve,) = data["curves"]
    assert curve["x"]["event"][0] == 1 and curve["x"]["event"][-1] == 1000
    assert len(curve["x"]["event"]) == vega.MAX_RECORDS
    assert data["runs"] == ["lowest", "highest"]  # of more seeds than anybody can read
    mean, low, high = curve["y"]["test_loss"]
    assert (mean[0], low[0], high[0]) == ("Infinity", 1, "Infinity")
    assert (mean[-1], low[-1]) == ("NaN", "NaN")
    assert json.loads(vega.script(data)) == json.loads(json.dumps(data))
