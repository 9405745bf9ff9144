"""The quantities of the theorems: sequences, sums, slopes, omniscient adversaries; and each
claim of `experiments.rates` at reduced size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    arrivals,
    attacks,
    directions,
    far_sign,
    online_mean,
    oracles,
    problems,
    simulation,
    step_sizes,
    theory,
)
from farsign_jax import keys as keys_lib
from farsign_jax.base import System
from farsign_jax.harness import small_problems
from farsign_jax.harness.small_problems import Trial
from farsign_jax.validation import InvalidConfig
from tests import helpers

ORDERS = [("first", None), ("zeroth", "independent"), ("zeroth", "coupled")]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def records(monkeypatch):
    """Fewer than an experiment keeps: to measure takes longer than what is measured."""
    monkeypatch.setattr(small_problems, "RECORDS", 250)
    return 250


@pytest.mark.parametrize(
    ("order", "noise", "exponents", "rate"),
    [
        ("first", None, (3 / 4, 1 / 2, 0), 1 / 4),
        ("zeroth", "independent", (5 / 6, 2 / 3, 1 / 6), 1 / 6),
        ("zeroth", "coupled", (3 / 4, 1 / 2, 1 / 4), 1 / 4),
    ],
)
def test_sequences_of_the_theorems(order, noise, exponents, rate):
    got = step_sizes.theory(
        order=order, noise=noise, eps=0.02, step_size=0.3, delta=0.7, pairs=6
    )
    p, q, r = exponents
    assert got.exponents == pytest.approx((p + 0.02, q + 0.02, r))
    assert got.rate == pytest.approx(rate - 0.02)
    n = 99
    assert float(got.step_size(n)) == pytest.approx(0.3 / 100 ** (p + 0.02), rel=1e-5)
    assert float(got.average_step(n)) == pytest.approx(6 / 100 ** (q + 0.02), rel=1e-5)
    assert (got.delta is None) == (order == "first")
    if got.delta is not None:
        assert float(got.delta(n)) == pytest.approx(0.7 / 100**r, rel=1e-5)


@pytest.mark.parametrize(("order", "noise"), ORDERS)
def test_no_other_exponents_are_better(order, noise):
    """Appendix C: the maximum of min(1 - p, s / 2) over a grid is the theorem's."""
    best = step_sizes.theory(order=order, noise=noise, eps=1e-9).rate
    grid = np.arange(1, 24) / 24
    for p in grid:
        for q in grid:
            for r in grid if order == "zeroth" else [0.0]:
                s = step_sizes.tracking_rate(p, q, r, order=order, noise=noise)
                assert min(1 - p, s / 2) <= best + 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "second"}, "order is 'first'"),
        ({"order": "first", "noise": "coupled"}, "order is 'first'"),
        ({"order": "zeroth"}, "order is 'first'"),
        ({"order": "first", "eps": 0}, "0 < eps < 0.25: got 0"),
        ({"order": "first", "eps": 0.25}, "0 < eps < 0.25: got 0.25"),
        ({"order": "first", "step_size": -1}, "step_size > 0: got -1"),
        ({"order": "first", "exponents": (1.1, 0.6, 0)}, "sum alpha = inf needs p <= 1"),
        ({"order": "first", "exponents": (0.6, 0.6, 0)}, "alpha / beta -> 0 needs q < p"),
        ({"order": "first", "exponents": (0.75, 0.5, 0)}, "sum beta.2 < inf .* q=0.5"),
        ({"order": "first", "exponents": (0.8, 0.7, 0)}, "2 p - q > 1"),
        ({"order": "zeroth", "noise": "coupled", "exponents": (0.8, 0.55, 0)}, "needs r > 0"),
        ({"order": "zeroth", "noise": "coupled", "exponents": (0.8, 0.55, 0.2)}, "q . 2 r > 1"),
        (
            {"order": "zeroth", "noise": "independent", "exponents": (0.9, 0.7, 0.2)},
            "2 q - 2 r > 1: got p=0.9, q=0.7, r=0.2",
        ),
    ],
)
def test_sequences_that_assumption_4_forbids(settings, message):
    with pytest.raises(InvalidConfig, match=message):
        step_sizes.theory(**settings)


def test_a_slope_is_found_with_its_uncertainty():
    rng = np.random.default_rng(0)
    n = np.geomspace(1e3, 1e6, 20)
    values = 5 * n**-0.25 * np.exp(0.3 * rng.standard_normal((40, 1)))
    got = theory.slope(n, values)
    assert got.value == pytest.approx(-0.25) and got.high - got.low < 1e-12
    noisy = values * np.exp(0.5 * rng.standard_normal(values.shape))
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        noisy = n**-0.25 * rng.lognormal(sigma=0.5, size=(24, 20))
        got = theory.slope(n, noisy, seed=seed, resamples=500)
        inside += got.low <= -0.25 <= got.high
    assert inside >= 33  # about 95 % of 40
    for bad in (np.ones((1, 20)), np.zeros((3, 20)), np.full((3, 20), np.nan)):
        with pytest.raises(InvalidConfig, match="a slope needs"):
            theory.slope(n, bad)


def test_records_are_spread_on_a_log_scale():
    events = np.arange(1, 1001) * 1000
    at = theory.log_spaced(events, 1e3, 4)
    assert events[at].tolist() == [1_000, 10_000, 100_000, 1_000_000]


def test_waves_are_stationary_where_stated():
    at = jnp.array([0.0, 1.8954943, -1.8954943])
    np.testing.assert_allclose(jax.grad(problems.waves)(at), 0, atol=1e-5)
    x = jax.random.normal(jax.random.key(0), (5,))
    reflected = x - 2 * x.mean()
    assert problems.crossed_waves(x) == pytest.approx(float(problems.waves(reflected)), 1e-6)
    bottom = jnp.full((2,), -1 - 12**-0.5)
    np.testing.assert_allclose(jax.grad(problems.valley)(bottom), 0, atol=1e-6)


@pytest.mark.parametrize("kind", problems.NOISES)
def test_noise_has_its_stated_moments(kind):
    problem = problems.smooth(
        problems.waves, jnp.ones(3), 4, jax.random.key(1), noise=2.0, kind=kind, examples=400
    )
    xi = np.asarray(problem.data).reshape(4, 400, 3)
    np.testing.assert_allclose(xi.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(xi.std(axis=1), 2, rtol=0.15)
    wrong = (xi < 0).mean()
    assert wrong == pytest.approx(0.75 if kind == "asymmetric" else 0.5, abs=0.03)
    assert len(np.unique(xi.reshape(-1, 3), axis=0)) > 4  # coordinates go their own ways
    value = problem.losses(jnp.ones(3), problem.data[:5])
    want = problems.waves(jnp.ones(3)) + problem.data[:5].sum(axis=1)
    np.testing.assert_allclose(value, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "skewed"}, "noise is one of gaussian, asymmetric: got 'skewed'"),
        ({"noise": -1.0}, "noise >= 0: got -1.0"),
        ({"examples": 10}, "multiple of 4 examples per worker: got 10"),
    ],
)
def test_noise_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InvalidConfig, match=message):
        problems.smooth(problems.waves, jnp.ones(3), 4, jax.random.key(1), **settings)


def system_of(attack, watch, m=5, d=4):
    gradient, dictionary = jax.grad(problems.waves), directions.identity(d, 1)
    found = step_sizes.theory(order="first", pairs=m * d)
    server = far_sign(
        m,
        dictionary,
        step_size=found.step_size,
        average_step=found.average_step,
        sign_of="old",
    )
    if watch:
        honest = np.arange(m) > 0
        server = theory.observed(server, dictionary, found.step_size, gradient, honest)
    problem = problems.smooth(
        problems.waves, jnp.full(d, 3.0, jnp.float32), m, jax.random.key(0)
    )
    worker = oracles.directional_derivative(problem.losses, dictionary, batch_size=1)
    return problem, System(server, worker, attack(gradient, dictionary, found)), found


def flip(gradient, dictionary, found):
    return attacks.sign_flip(10.0)


@pytest.mark.slow
def test_observing_changes_nothing_and_sums_are_sums():
    problem, bare, found = system_of(flip, watch=False)
    _, watched, _ = system_of(flip, watch=True)
    schedule = arrivals.uniform(jax.random.key(2), 5, 300)
    settings = {"byzantine": 1, "delivery": "outstanding"}
    left, _ = simulation.run(problem, bare, schedule, **settings)
    right, _ = simulation.run(problem, watched, schedule, **settings)
    helpers.assert_same(left.server, right.server.server)

    # By the book, in NumPy, from the states one by one.
    keys = keys_lib.split(0)
    run = simulation.start(bare, problem, keys, "outstanding")
    byzantine = jnp.arange(5) < 1
    sums = np.zeros(4)
    step = jax.jit(
        lambda run, i: simulation.event(bare, problem, byzantine, keys, "outstanding", run, i)[
            0
        ]
    )
    gradient, farthest = jax.jit(jax.grad(problems.waves)), 3.0
    for n, worker in enumerate(schedule):
        g = np.asarray(gradient(run.server.params), np.float64)
        error = np.abs(np.asarray(run.server.averages)[1:] - g)
        alpha = float(found.step_size(n))
        sums += alpha * np.array([1, np.linalg.norm(g), error.sum(), alpha])
        run = step(run, jnp.asarray(worker))
        farthest = max(farthest, np.abs(run.server.params).max())
    seen = right.server.sums
    got = [seen.steps, seen.gradient, seen.error, seen.squares]
    np.testing.assert_allclose(got, sums, rtol=1e-4)
    assert float(seen.farthest) == pytest.approx(farthest)
    assert float(right.server.tracking) == pytest.approx((error**2).sum() / 4, rel=1e-4)


def test_the_bound_is_the_formula():
    sums = {"steps": 2.0, "error": 3.0, "squares": 0.5}
    got = theory.bound(sums, gap=4.0, smoothness=3.0, margin=1.5, pairs=20)
    assert got == pytest.approx((20 * 4 + 2 * 3 + 20 * 1.5 * 0.5) / (1.5 * 2))


def greedy(gradient, dictionary, found):
    return theory.greedy(gradient, dictionary, found.average_step)


def lookahead(gradient, dictionary, found):
    return theory.lookahead(gradient, dictionary, found.average_step, found.step_size)


def hidden(gradient, dictionary, found):
    return theory.hidden(gradient, dictionary, found.average_step)


@pytest.mark.parametrize("attack", [greedy, lookahead])
def test_omniscient_adversaries_get_the_sign_they_want(attack):
    problem, system, _ = system_of(attack, watch=True)
    run, _ = simulation.run(
        problem, system, arrivals.uniform(jax.random.key(1), 5, 400), byzantine=1
    )
    averages = np.asarray(run.server.averages)[0]
    np.testing.assert_allclose(np.abs(averages), 1, rtol=1e-4)  # its sign changes at will
    # Uphill, but for coordinates that were last spoken of on the other side.
    uphill = -np.sign(jax.grad(problems.waves)(run.server.params))
    assert (averages == uphill).sum() >= 3 or attack is lookahead
    quiet, _ = simulation.run(
        problem, system, arrivals.uniform(jax.random.key(1), 5, 400), byzantine=0
    )
    assert run.server.sums.gradient > quiet.server.sums.gradient


def test_a_hidden_adversary_lies_about_one_direction():
    """Its averages are those of an honest worker without noise, when it was last asked."""
    problem, system, _ = system_of(hidden, watch=True)
    schedule = arrivals.uniform(jax.random.key(1), 5, 400)
    run, _ = simulation.run(problem, system, schedule, byzantine=1)
    lie, *truth = np.asarray(run.server.averages)[0]
    gradient = np.asarray(jax.grad(problems.waves)(run.server.params))
    assert np.sign(lie) == -np.sign(gradient[0])
    np.testing.assert_allclose(truth, gradient[1:], atol=1.0)
    assert np.abs(np.asarray(run.server.averages)).max() < 10


def test_rows_write_a_dictionary_out():
    matrix = jax.random.normal(jax.random.key(0), (3, 2, 4))
    np.testing.assert_allclose(theory.rows(directions.matrix(matrix), 3), matrix, rtol=1e-6)
    assert theory.rows(directions.identity(3, 1), 2).tolist() == [np.eye(3).tolist()] * 2


# Claims at reduced size. Tolerances are the bootstrap's, or factors to what is compared with.


@pytest.mark.slow
@pytest.mark.parametrize(
    "trial",
    [
        Trial(attack="sign_flip:scale=10"),
        pytest.param(Trial("crossed_waves", "zeroth", "coupled", "greedy"), marks=helpers.LONG),
        pytest.param(
            Trial("waves", "zeroth", "independent", "sign_flip:scale=10"), marks=helpers.LONG
        ),
    ],
    ids=lambda trial: f"{trial.order} {trial.noise}",
)
def test_the_ergodic_gradient_falls_and_stays_below_its_bound(trial, x64, records):
    noise = 0.0 if trial.noise == "independent" else 1.0
    given = small_problems.run_batch(12, 20_000, noise=noise, value=trial.value)
    columns = small_problems.follow(trial, given, "test")
    rate = step_sizes.theory(order=trial.order, noise=trial.noise).rate
    events = columns["event"][0]
    at = theory.log_spaced(events, 1e3)
    found = theory.slope(events[at], columns["ergodic"][:, at] / np.log(events[at]))
    assert found.high <= -rate
    gap = float(problems.waves(jnp.full(4, 3.0))) - 4 * float(
        problems.waves(jnp.array([1.8955]))
    )
    limit = theory.bound(columns, gap=gap, smoothness=3.0, margin=3, pairs=20)
    assert (columns["ergodic"].mean(axis=0) <= limit.mean(axis=0)).all()
    tracking = theory.slope(events[at], columns["tracking"][:, at])
    assert tracking.high < -0.2
    assert columns["farthest"].max() < 4


@pytest.mark.slow
@pytest.mark.long
def test_one_time_scale_is_biased_and_two_are_not(x64, records):
    settings = {"kind": "asymmetric", "noise": 3**0.5, "byzantine": 0}
    constant = {"average_step": np.array([1.0, 0.05]), "step_size": np.full(2, 0.001)}
    given = small_problems.run_batch(4, 40_000, hyper=constant, points=2, **settings)
    columns = small_problems.follow(Trial(sign_of="new"), given, "test")
    settled = columns["gradient"][:, -records // 4 :]
    one, slow = settled.mean(axis=1).reshape(4, 2).mean(axis=0)
    assert one == pytest.approx(2.0, rel=0.05)  # where each coordinate's sign is balanced
    assert slow < 0.2 * one
    two = small_problems.follow(
        Trial(), small_problems.run_batch(4, 40_000, **settings), "test"
    )
    assert two["gradient"][:, -1].max() < 0.2 * one


@pytest.mark.slow
def test_training_follows_the_condition(x64, records):
    scales = (1.0, 1.7)
    rows = np.array([[1, 0], [0.5**0.5] * 2, [0, 1], [-(0.5**0.5), 0.5**0.5]])
    matrices = np.stack([(rows * np.array([1, s, 1, s])[:, None])[:, None] for s in scales])
    assert [directions.certify(d_i, 1).holds for d_i in matrices] == [True, False]
    given = small_problems.run_batch(
        4,
        20_000,
        x0=np.ones(2),
        workers=4,
        byzantine=np.arange(4) == 1,
        value="bowl",
        hyper={"directions": matrices},
        points=2,
    )
    columns = small_problems.follow(
        Trial("bowl", attack="greedy", step_size=2.0), given, "test"
    )
    above, below = columns["gradient"][:, -1].reshape(4, 2).mean(axis=0)
    assert above < 0.5 < 3 < below


@pytest.mark.slow
@pytest.mark.parametrize("liar", range(4))
def test_a_mean_from_one_direction_per_worker(liar):
    """With memory for m numbers, and one Byzantine worker among four."""
    half = 0.5**0.5
    rows = np.array([[1, 0], [half, half], [0, 1], [-half, half]], np.float32)
    dictionary = directions.matrix(rows[:, None])
    mean = jnp.array([1.0, -2.0])
    # Samples X = mean - xi: the derivative of |x - X|^2 / 2 is x - mean + xi.
    problem = problems.smooth(_bowl_at, jnp.zeros(2), 4, jax.random.key(0))
    found = step_sizes.theory(order="first", pairs=4)
    steps = {"step_size": found.step_size, "average_step": found.average_step}
    server = online_mean(4, dictionary, **steps)
    assert server.init(mean).averages.shape == (4, 1)
    worker = oracles.directional_derivative(problem.losses, dictionary, batch_size=1)
    system = System(server, worker, attacks.constant(1e3))
    run, _ = simulation.run(
        problem,
        system,
        arrivals.uniform(jax.random.key(1), 4, 40_000),
        byzantine=np.arange(4) == liar,
        delivery="outstanding",
    )
    assert np.linalg.norm(run.server.params - mean) < 0.25


def _bowl_at(x):
    return jnp.sum((x - jnp.array([1.0, -2.0], x.dtype)) ** 2) / 2


def test_online_mean_refuses_what_is_not_its_own():
    dictionary = directions.matrix(np.ones((3, 1, 2), np.float32))
    with pytest.raises(
        InvalidConfig, match="the dictionary is for 3 workers: got num_workers=4"
    ):
        online_mean(4, dictionary, step_size=0.1, average_step=0.1)
    with pytest.raises(InvalidConfig, match="step_size > 0: got 0"):
        online_mean(3, dictionary, step_size=0, average_step=0.1)
