"""Rules against the numbers of other libraries and papers."""

import json
import pathlib

import numpy as np
import pytest

from farsign_jax import aggregators
from farsign_jax.aggregators import preaggregators
from farsign_jax.aggregators.registry import make, parse
from tests.aggregators.reference import around, krum_order, scope

DATA = json.loads(
    (pathlib.Path(__file__).parents[1] / "data/aggregator_vectors.json").read_text()
)
X7 = [[1, 1], [2, 1], [1, 2], [2, 2], [3, 2], [2, 3], [50, -50]]
VECTORS = [(case, np.float64) for case in DATA["vectors"]]
# The inputs of ten rows are given to every rule.
VECTORS += [(case, np.float32) for case, _ in VECTORS if case["id"].startswith("gen10")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dtype"), VECTORS, ids=lambda v: v["id"] if isinstance(v, dict) else v.__name__
)
def test_rules_match_other_libraries(case, dtype):
    with scope(dtype):
        x = np.asarray(DATA["inputs"][case["input"]], dtype)
        stages = parse(case["spec"])
        if stages[-1][0] in preaggregators.PREAGGREGATORS:
            ((name, options),) = stages
            got, mask = preaggregators.PREAGGREGATORS[name](**options)(x)
            assert mask.all()
        else:
            got = make(case["spec"])(x)
        tolerance = case["atol64"] if dtype == np.float64 else 1e-4
        np.testing.assert_allclose(got, case["output"], rtol=0, atol=tolerance)


def test_krum_follows_published_conventions():
    case = DATA["krum_conventions"]
    x = np.asarray(DATA["inputs"][case["input"]], np.float32)
    winners = [w["winner"] for w in case["winners"]]
    assert winners == [0, 5, 2, 5, 0]
    for want in case["winners"]:
        rule = aggregators.krum(case["f"], want["neighbours"], want["power"])
        np.testing.assert_array_equal(rule(x), x[want["winner"]])
    # The fourth power of these distances overflows in float32, but the order is correct.
    np.testing.assert_array_equal(
        aggregators.krum(2, power=4)(x * np.float32(2.0**36)), x[5] * np.float32(2.0**36)
    )


def test_bulyan_scores_again_after_each_selection():
    case = next(c for c in DATA["vectors"] if c["id"] == "bulyan_gen11_f1")
    x = np.asarray(DATA["inputs"][case["input"]], np.float32)
    got = aggregators.bulyan(2)(x)
    np.testing.assert_allclose(got, [-0.331, 0.109, -0.423, -0.877, -0.009], atol=6e-4)
    one_shot = around(x[np.sort(krum_order(x, 2)[:7])], 3)
    np.testing.assert_allclose(one_shot, [-0.662, -0.069, -0.236, -0.628, -0.009], atol=6e-4)


def test_golden_values():
    for text, want in (
        ("krum:f=1", [2, 2]),
        ("multi_krum:f=1,m=4", [1.5, 1.5]),  # rows 0, 4 and 5 tie
        ("bulyan:f=1", [1.6666667, 2]),
        ("meamed:f=1", [1.8333333, 1.8333333]),
        ("meamed:f=2", [1.6, 1.6]),
        ("trimmed_mean:f=1", [2, 1.6]),
        ("median", [2, 2]),
        ("RFA:nu=1e-6,T=3", [2.016284, 1.593728]),
        ("CC:tau=2", [1.326459, 0.922398]),
        ("CC:tau=2,L=3", [2.045002, 1.572810]),
        ("majority_vote", [1, 1]),
    ):
        np.testing.assert_allclose(make(text)(X7), want, atol=1e-6, err_msg=text)
    rows, mask = preaggregators.nnm(1)(X7)
    np.testing.assert_allclose(rows[:6], np.full((6, 2), 1.8333333), atol=1e-6)
    np.testing.assert_allclose(rows[6], [9.8333333, -7], atol=1e-6)
    assert mask.all()
    # Two middle values, and tied votes.
    np.testing.assert_array_equal(make("median")([[1], [2], [3], [10]]), [2.5])
    np.testing.assert_array_equal(make("median:even=low")([[1], [2], [3], [10]]), [2])
    np.testing.assert_array_equal(make("majority_vote")([[1, 0], [-5, 0], [0, -3]]), [0, -1])
