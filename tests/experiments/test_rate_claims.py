"""The rules by which `experiments.rates` judges what it measured."""

import numpy as np
import pytest

from experiments.parts import convergence_rates, direction_margin, stationary_points
from farsign_jax import theory
from farsign_jax.harness import small_problems


def slope(low, high):
    return theory.Slope((low + high) / 2, low, high)


STEEP, FLAT, NEAR = slope(-0.27, -0.25), slope(-0.1, -0.05), slope(-0.24, -0.22)


@pytest.mark.parametrize(
    ("whole", "late", "bound", "verdict"),
    [
        (STEEP, STEEP, None, "holds"),
        (NEAR, STEEP, None, "holds in the last decade only"),
        (STEEP, slope(-0.26, -0.24), None, "not distinguishable"),
        (STEEP, NEAR, slope(-0.21, -0.2), "shallower by 0.020, steeper than the bound"),
        (STEEP, NEAR, slope(-0.23, -0.2), "refuted"),
        (STEEP, NEAR, None, "refuted"),
        (STEEP, FLAT, slope(-0.21, -0.2), "refuted"),
    ],
)
def test_a_rate_is_judged_by_both_slopes(whole, late, bound, verdict):
    assert convergence_rates.judge(whole, late, 0.25, bound).startswith(verdict)


def test_slopes_are_those_of_all_events_and_of_the_last_decade():
    events = np.arange(1, 1001) * 1000
    values = np.tile(np.minimum(1.0, (events / 1e5) ** -0.5), (3, 1))
    whole, late = convergence_rates.slopes(events, values, 1e3)
    assert late.value == pytest.approx(-0.5, abs=1e-6)
    assert -0.3 < whole.value < -0.1
    assert convergence_rates.described(late, late).startswith("-0.500 [-0.500, -0.500], last")


@pytest.mark.parametrize(
    ("late", "verdict"),
    [
        (slope(-0.31, -0.29), "holds and is attained (within 0.05)"),
        (slope(-0.37, -0.29), "not distinguishable"),
        (slope(-0.31, -0.23), "not distinguishable"),
        (slope(-0.41, -0.39), "holds, but is not attained"),
        (slope(-0.21, -0.19), "refuted"),
    ],
)
def test_a_term_that_dominates_is_attained_or_not(late, verdict):
    assert convergence_rates.attained(late, 0.3) == verdict


@pytest.mark.parametrize("term", convergence_rates.TERMS, ids=lambda term: term[0])
def test_each_term_of_table_4_dominates_at_its_exponents(term):
    """It is the smallest of all exponents by at least 0.1, and the sequences are admissible."""
    name, trial, *_ = term
    p, q, r = trial.sequences(20).exponents  # raises if Assumption 4 does not hold
    of_noise = q - 2 * r if trial.noise == "independent" else q
    terms = {"q": q, "q - 2r": of_noise, "2(p - q)": 2 * (p - q)}
    if trial.order == "zeroth":
        terms["2r"] = 2 * r
    own = terms[name.partition(",")[0]]
    assert trial.tracking == pytest.approx(own)
    others = [exponent for exponent in terms.values() if exponent != own]
    assert min(others) >= own + 0.1


def test_attacks_with_equal_runs_are_counted_once():
    rng = np.random.default_rng(0)
    norms = {name: rng.uniform(0.5, 1.5, (18, 90)) for name in ("flip", "alie", "ipm")}
    found = stationary_points.distinct(norms)
    assert found.verdict == "holds" and found.measured.startswith("3 of 3 differ; closest: ")
    norms["constant"] = norms["flip"] * 1.001
    norms["slow"] = norms["flip"][:4] * 0.98  # with fewer runs
    found = stationary_points.distinct(norms)
    assert found.verdict == "3 kinds of attacks"
    same = "the same: flip = constant, flip = slow, constant = slow"
    assert found.measured.startswith(f"3 of 5 differ; {same}; closest: flip and constant")


@pytest.mark.parametrize(
    ("falling", "works", "verdict"),
    [(24, True, "holds"), (23, True, "holds"), (22, True, "refuted"), (0, True, "refuted")]
    + [(0, False, "holds"), (1, False, "holds"), (2, False, "refuted"), (24, False, "refuted")],
)
def test_training_is_judged_by_the_share_of_runs(falling, works, verdict):
    end = np.where(np.arange(24) < falling, 1.0, 3.0)
    norms = np.full((24, 1000), 2.0)
    norms[:, 0] = 100.0  # the first steps do not count
    norms[:, -1] = end
    found = direction_margin.trained("eta = +0.114", norms, works)
    assert found.verdict == verdict
    assert f"in {falling if works else 24 - falling} of 24 runs" in found.measured
    low, middle, high = np.quantile(end, [0.05, 0.5, 0.95])
    assert found.measured.endswith(f"(5, 50, 95 %) {low:.2f}, {middle:.2f}, {high:.2f}")


def test_gradients_at_the_start_have_both_signs():
    """So that an attack that keeps the first sign differs from one with a constant sign."""
    gradient = small_problems.Trial().gradient(np.array(stationary_points.START))
    assert set(np.sign(gradient).tolist()) == {-1.0, 1.0}
