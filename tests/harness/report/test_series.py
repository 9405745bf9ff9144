"""Rows as curves, and the data of their plots."""

import json
import math

import numpy as np
import pytest

from farsign_jax.harness import plots
from farsign_jax.harness.report import series, vega
from tests.harness.report.samples import curves_of, rows_of


def test_integers_that_no_float_can_hold_are_infinite():
    rows = rows_of(seeds=(0,))
    rows[3]["test_loss"], rows[7]["test_loss"] = 10**400, -(10**400)
    first, second, *_ = curves_of(rows)
    assert [*first.last("test_loss"), *second.last("test_loss")] == [math.inf, -math.inf]


def test_settings_of_many_values_are_no_measurements():
    for name, varied in (("byzantine", ()), ("unknown", ("unknown",))):
        rows = [row | {name: n} for n in range(25) for row in rows_of(("sgd",), ("none",))]
        found = curves_of(rows, varied)
        assert [curve.plot for curve in found] == [f"{name} {n}" for n in range(25)]
        assert not any(name in curve.measured for curve in found)
    assert all("unknown" in curve.measured for curve in curves_of(rows))


@pytest.mark.parametrize("order", [(0.1, 0.2), (0.2, 0.1)])
@pytest.mark.parametrize("column", ["test_accuracy", "test_loss"])
def test_a_step_size_that_ends_in_nan_is_not_the_best(order, column):
    rows = [
        {"method": "sgd", "step_size": step, "seed": 0, "event": event}
        | {column: math.nan if (step, event) == (0.2, 2) else 0.5}
        for step in order
        for event in (1, 2)
    ]
    assert [curve.step for curve in series.best_steps(curves_of(rows))] == ["0.1"]


def test_curves_are_the_runs_that_differ_in_their_seed():
    found = curves_of(rows_of())
    assert [(c.line, c.names["attack"], c.plot) for c in found] == [
        ("far_sign", "none", ""), ("far_sign", "alie:z=1.5", ""),
        ("basgd median", "none", ""), ("basgd median", "alie:z=1.5", ""),
    ]  # fmt: skip
    assert found[3].seeds == ("0", "3")
    np.testing.assert_allclose(found[3].last("test_accuracy"), [54, 57])
    np.testing.assert_allclose(found[3].best("test_accuracy"), [54, 57])
    np.testing.assert_allclose(found[3].mean_spent("evaluations"), [100, 200, 300, 400])
    # Other columns that vary distinguish plots, unless they follow from one that does. Step
    # sizes are distinguished, too, and the one that ends best is drawn.
    varied = [row | {"partition": "two_camps", "unknown": 1} for row in rows_of()]
    assert {c.plot for c in curves_of(rows_of() + varied)} == {
        "partition iid", "partition two_camps"}  # fmt: skip
    less = [
        row | {"step_size": 0.1, "test_accuracy": row["test_accuracy"] / 2} for row in rows_of()
    ]
    both = curves_of([row | {"step_size": 0.2} for row in rows_of()] + less)
    assert len(both) == 8
    assert [curve.step for curve in series.best_steps(both)] == ["0.2"] * 4


def test_the_order_of_rows_does_not_matter_and_the_later_of_two_equal_records_counts():
    rows = rows_of(("sgd",), ("none",), seeds=(10, 9))
    (curve,) = curves_of(rows[::-1])
    assert curve.seeds == ("9", "10")
    np.testing.assert_allclose(curve.last("test_accuracy"), [13, 14])
    again = dict(rows[3], test_accuracy=1.0)
    (curve,) = curves_of([*rows, again])
    np.testing.assert_allclose(curve.last("test_accuracy"), [100, 13])


def test_runs_of_different_length_are_averaged_where_all_are():
    rows = [
        row for row in rows_of(("sgd",), ("none",)) if (row["seed"], row["event"]) != (3, 200)
    ]
    (curve,) = curves_of(rows)
    np.testing.assert_allclose(curve.last("test_accuracy"), [4, 6])
    (drawn,) = vega.data([curve], ["sgd"])["curves"]
    assert drawn["y"]["test_accuracy"] == [[2.5, 3.5, 4.5, None], [1, 2, 3, 4], [4, 5, 6, None]]


@pytest.mark.parametrize(("times", "scale"), [(8, None), (12, "log")])
def test_axes_are_logarithmic_where_one_curve_is_much_longer(times, scale):
    rows = [
        {"method": method, "seed": 0, "event": event, "evaluations": event * each}
        | {"test_accuracy": 0.5}
        for method, each in (("a", 1), ("b", times))
        for event in (10, 20, 30)
    ]
    found = curves_of(rows)
    drawn = vega.data(found, [curve.line for curve in found])
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
    data = vega.data(curves_of(rows), ["sgd"])
    (curve,) = data["curves"]
    assert curve["x"]["event"][0] == 1 and curve["x"]["event"][-1] == 1000
    assert len(curve["x"]["event"]) == vega.MAX_RECORDS
    assert data["runs"] == ["lowest", "highest"]  # of more seeds than anybody can read
    mean, low, high = curve["y"]["test_loss"]
    assert (mean[0], low[0], high[0]) == ("Infinity", 1, "Infinity")
    assert (mean[-1], low[-1]) == ("NaN", "NaN")
    assert json.loads(vega.script(data)) == json.loads(json.dumps(data))
