"""The bound on the error of the averages."""

import jax
import numpy as np
import pytest

from experiments.parts import convergence_rates
from farsign_jax import problems, step_sizes, theory
from farsign_jax.harness import small_problems
from farsign_jax.validation import InvalidConfig
from tests import helpers


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def steps_of(noise, exponents, order="zeroth", delta=0.5):
    return step_sizes.theory(
        order=order, noise=noise, exponents=exponents, pairs=20, delta=delta
    )


SIZES = {"workers": 5, "dim": 4, "smoothness": 3.0, "first": 7.0}


def test_the_bound_is_its_recursion():
    steps = steps_of("independent", (0.9, 0.7, 0.16))
    got = theory.tracking_bound(300, steps, **SIZES, variance=4.0, evaluation_variance=2.0)
    u, w, r2, want = 7.0, 0.0, float(steps.delta(0)) ** 2, []
    for n in range(300):
        want.append(u)
        alpha, beta = float(steps.step_size(n)), min(float(steps.average_step(n)), 1)
        b = 3 * w + 3 / 2 * (4 * r2) ** 0.5
        noise = beta**2 / 20 * (4 + 4 * 2 / (2 * float(steps.delta(n)) ** 2))
        u = (((1 - beta / 20) * u + beta / 20 * b**2) ** 0.5 + 3 * alpha) ** 2 + noise
        w, r2 = 0.8**0.5 * (w + alpha), 0.8 * r2 + float(steps.delta(n + 1)) ** 2 / 5
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_sum_of_proposition_a_2_is_its_definition_and_approaches_its_bound():
    theta, q, c = 1.1, 0.55, 0.2
    got = theory.discounted_sum(200_000, theta, q, c)
    for n in (1, 2, 40):
        k = np.arange(1, n + 1)
        terms = [np.prod(1 - c * (np.arange(i + 1, n + 1) + 1.0) ** -q) for i in k]
        assert got[n - 1] == pytest.approx((k + 1.0) ** -theta @ terms, rel=1e-12)
    n = np.array([50_000, 200_000])
    excess = c * n ** (theta - q) * got[n - 1] - 1
    np.testing.assert_allclose(excess, (theta - q) / c * n ** (q - 1.0), rtol=0.05)
    with pytest.raises(InvalidConfig, match="needs 0 < q < 1, q < theta, 0 < c <= 1: got q=1"):
        theory.discounted_sum(10, 2, 1)


@pytest.mark.parametrize("term", convergence_rates.TERMS, ids=lambda term: term[0])
def test_the_bound_falls_with_the_exponent_of_table_4(term):
    _, trial, _, noise, smoothness = term
    independent = trial.noise == "independent"
    limit = theory.tracking_bound(
        1_000_000,
        trial.sequences(20),
        **SIZES | {"smoothness": smoothness},
        variance=4 * noise**2,
        evaluation_variance=float(independent),
    )
    at = np.geomspace(100_000, 999_999, 20).astype(int)
    found = theory.slope(at + 1, np.tile(limit[at], (2, 1)))
    assert found.value == pytest.approx(-trial.tracking, abs=0.05)


def test_a_difference_at_a_jump_of_the_curvature_has_an_error_in_proportion_to_delta():
    for delta in (0.1, 0.001):
        above, below = (problems.kinked_bowl(np.array([s * delta])) for s in (1, -1))
        assert (above - below) / (2 * delta) == pytest.approx((3 - 1) * delta / 4)


def test_proposition_c5_bounds_the_error_that_equation_54_measures():
    trial, n = small_problems.Trial(), np.arange(1, 101)
    alpha = np.asarray(trial.sequences(20).step_size(n - 1), np.float64)
    at = np.array([[49, 99], [49, 99]])
    columns = {"event": n[at].astype(float), "error": np.full((2, 2), 3.0)}
    columns |= {"steps": np.cumsum(alpha)[at], "squares": np.cumsum(alpha**2)[at]}
    batch = small_problems.run_batch(2, 100)
    measured, full, constant = convergence_rates.proposition(trial, batch, columns)
    bounded = np.cumsum(alpha * 4 * (4 * constant) ** 0.5 * n ** (-trial.tracking / 2))[at]
    np.testing.assert_allclose(full - measured, 2 * (bounded - 3) / (3 * columns["steps"]))


# A first-order and a zeroth-order term; the other terms are long.
MEASURED = [
    pytest.param(term, id=term[0], marks=pytest.mark.slow if n in (0, 1) else helpers.LONG)
    for n, term in enumerate(convergence_rates.TERMS)
]


@pytest.mark.parametrize("term", MEASURED)
def test_errors_stay_below_the_bound(term):
    _, trial, x0, noise, smoothness = term
    batch = small_problems.run_batch(
        12, 20_000, x0=np.full(4, x0), noise=noise, value=trial.value
    )
    columns = small_problems.follow(trial, batch, "test")
    events = columns["event"][0]
    _, constant = convergence_rates.corollary(trial, batch, smoothness)
    errors = columns["tracking"].mean(axis=0)
    assert (errors <= constant * events**-trial.tracking).all()
    _, late = convergence_rates.slopes(events, columns["tracking"], 1000)
    assert late.value == pytest.approx(-trial.tracking, abs=0.1)
