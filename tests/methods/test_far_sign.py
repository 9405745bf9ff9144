"""The rule itself, against the paper in NumPy and against its own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    OracleConfig,
    SystemSpec,
    arrivals,
    attacks,
    directions,
    oracles,
    simulation,
    step_sizes,
)
from farsign_jax.base import Report, System
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.methods.far_sign_parts import arrival_weights, soft_sign
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference

M, D, K = 5, 11, 3
STEPS = {"step_size": 0.1, "average_step": 0.5}


def reports(events):
    """One list of (worker, coordinates, answers) as a set of reports."""
    worker, direction, value = (jnp.asarray(column) for column in zip(*events, strict=True))
    zero = jnp.zeros(len(events), jnp.int32)
    return Report(worker.astype(jnp.int32), zero, direction, value.astype(jnp.float32))


def random_events(num_events, sizes=(1, 2, 4), hostile=True, seed=0):
    rng = np.random.default_rng(seed)
    strange = [np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0]
    events = []
    for _ in range(num_events):
        received = []
        for worker in rng.choice(M, rng.choice(sizes), replace=False):
            answers = rng.normal(size=K).astype(np.float32)
            if hostile and worker == 0:
                answers = rng.choice(strange, K).astype(np.float32)
            received.append((worker, rng.choice(D, K, replace=False), answers))
        events.append(received)
    return events


@pytest.mark.parametrize("sign_of", ["new", "old"])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 4.0, 1.0, 1.0)])
def test_matches_the_paper_in_numpy(sign_of, weights):
    alpha, beta = step_sizes.staircase(0.1, 0.5, 10), step_sizes.power(0.9, 0.3)
    rates = None if weights is None else 1 / np.asarray(weights)
    server = helpers.far_sign_of(
        M, directions.identity(D, K), step_size=alpha, average_step=beta, sign_of=sign_of,
        arrival_rates=rates,
    )  # fmt: skip
    if rates is not None:
        weights = np.mean(rates) / rates
    x0 = np.random.default_rng(1).normal(size=D).astype(np.float32)
    events = random_events(60)
    state = server.init(jnp.asarray(x0))
    update = jax.jit(server.update)
    for received in events:
        state, _ = update(state, reports(received))
    x, y = reference.far_sign(x0, events, M, alpha, beta, sign_of, weights)
    np.testing.assert_allclose(state.params, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.averages, y, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 60
    assert np.isfinite(state.averages).all()


def server_and_state(**options):
    options = {"step_size": 0.1, "average_step": 0.5} | options
    server = helpers.far_sign_of(M, directions.identity(D, K), **options)
    return server, server.init(jnp.zeros(D))


@pytest.mark.parametrize("value", [1e2, 1e20, -3e38, np.inf, np.nan, 0.0])
def test_x_moves_by_at_most_the_step_whatever_the_answer(value):
    server, state = server_and_state()
    after, _ = server.update(state, reports([(2, [0, 4, 9], [value] * 3)]))
    moved = np.abs(np.asarray(after.params))
    silent = value == 0 or not np.isfinite(value)
    np.testing.assert_array_equal(moved[[0, 4, 9]], np.float32(0 if silent else 0.1))
    assert moved.sum() == pytest.approx(0 if silent else 0.3)
    others = np.delete(np.asarray(after.averages), 2, axis=0)
    assert not others.any()


def test_only_the_sign_of_an_answer_matters():
    problem = helpers.quadratic()
    schedule = arrivals.uniform(jax.random.key(1), helpers.M, 200)
    ends = []
    for value in (1e2, 1e35):
        system = helpers.far_sign_system(problem, attacks.constant(value))
        state, _ = simulation.run(problem, system, schedule, byzantine=2)
        ends.append(state.server.params)
    helpers.assert_same(*ends)


def test_sign_of_the_old_average_moves_nothing_at_the_first_visit():
    server, state = server_and_state(sign_of="old")
    event = reports([(1, [3, 5, 7], [1.0, -2.0, 3.0])])
    state, _ = server.update(state, event)
    assert not np.asarray(state.params).any()
    state, _ = server.update(state, event)
    np.testing.assert_allclose(np.asarray(state.params)[[3, 5, 7]], [-0.1, 0.1, -0.1])


def test_even_rates_weigh_exactly_one():
    problem = helpers.quadratic()
    schedule = arrivals.uniform(jax.random.key(1), helpers.M, 100)
    ends = []
    for rates in (None, np.full(helpers.M, 1 / helpers.M)):
        system = helpers.far_sign_system(problem, arrival_rates=rates)
        ends.append(simulation.run(problem, system, schedule)[0].server)
    helpers.assert_same(*ends)


@pytest.mark.parametrize("beta", [3.0, -1.0, float("inf")])
def test_a_schedule_that_leaves_its_range_is_clipped(beta):
    """Theorem-style schedules b / n^q begin above 1; y must stay an average."""
    server, state = server_and_state(average_step=lambda step: beta)
    for value in (1.0, -1e30, 1e30, np.nan):
        state, _ = server.update(state, reports([(0, [0, 1, 2], [value] * 3)]))
        assert np.isfinite(state.averages).all() and np.isfinite(state.params).all()
        assert np.abs(state.averages).max() <= np.float32(1e30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (far_sign(6, directions.identity(D, 3), **STEPS), None), "for 6 workers"),
        (lambda p: (far_sign(5, directions.identity(D + 1, 3), **STEPS), None),
         "for d=12: got d=11"),
        (lambda p: (far_sign(5, directions.matrix(np.ones((3, 4, D))), **STEPS), None),
         "for 3 workers: got num_workers=5"),
        (lambda p: (far_sign(5, directions.identity(D, 3), **STEPS),
                    oracles.two_point(p.losses, directions.identity(D, 4), batch_size=2)),
         r"k=4 directions: the server asks about \(3,\)"),
        (lambda p: (async_sgd(5, step_size=0.1),
                    oracles.two_point(p.losses, directions.identity(D, 4), batch_size=2)),
         "k=4 directions: the server asks about the whole gradient"),
        (lambda p: (far_sign(5, directions.identity(D, 3), **STEPS),
                    oracles.stochastic_gradient(p.losses, batch_size=2)),
         "one number per direction"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("attack", ["none", "alie"])
def test_parts_that_do_not_fit_together_are_refused(make, message, attack):
    problem = helpers.quadratic(dim=D, workers=5)
    with pytest.raises(InvalidConfig, match=message):
        server, worker = make(problem)
        worker = worker or oracles.stochastic_gradient(problem.losses, batch_size=2)
        system = System(server, worker, attacks.make(attack))
        simulation.run(problem, system, [0, 1], byzantine=1)


def test_an_omniscient_attack_needs_directions_in_common():
    problem = helpers.quadratic(dim=4, workers=5)
    own = directions.seeded(4, 3, 2, jax.random.key(0), shared=False)
    system = helpers.far_sign_system(problem, attacks.alie(), dictionary=own)
    with pytest.raises(InvalidConfig, match="each worker its own"):
        simulation.run(problem, system, [0, 1], byzantine=1)


@pytest.mark.parametrize("rates", ["known", "estimate"])
def test_weights_remove_the_pull_of_fast_workers(rates):
    """Two workers disagree on x: the fast one wins without weights, neither with them."""
    fast = np.asarray([4.0, 1.0])
    dictionary = directions.identity(1, 1)
    schedule = arrivals.weighted(jax.random.key(0), fast, 4000)
    drift = {}
    for name, given in (("none", None), ("weighted", fast if rates == "known" else "estimate")):
        weights = arrival_weights(2, given)
        server = far_sign(
            2, dictionary, step_size=0.01, average_step=1.0, arrival_weights=weights
        )

        def step(state, worker, server=server):
            value = jnp.where(worker == 0, 1.0, -1.0)[None, None]
            zero = jnp.zeros((1, 1), jnp.int32)
            report = Report(worker[None], zero[0], zero, value)
            return server.update(state, report)[0], None

        state, _ = jax.lax.scan(step, server.init(jnp.zeros(1)), jnp.asarray(schedule))
        drift[name] = abs(float(state.params[0]))
    assert drift["none"] > 20  # 4000 * 0.01 * (4 - 1) / 5 = 24
    # A random walk of 4000 steps of rms size 0.0125 has a deviation of 0.8.
    assert drift["weighted"] < 5 * 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matrix", "seeded", "seeded_own"])
@pytest.mark.parametrize("order", ["zeroth", "first"])
def test_general_dictionaries_reach_the_minimum_with_one_byzantine_worker(name, order):
    problem = helpers.quadratic(noise=0.1, dim=2, workers=4)
    s = 2**-0.5
    rows = jnp.asarray(
        [[1.0, 0], [s, s], [0, 1.0], [-s, s]]
    )  # robust to one Byzantine worker of four
    dictionary = {
        "matrix": directions.matrix(rows[:, None]),
        "seeded": directions.seeded(2, 8, 2, jax.random.key(5)),
        "seeded_own": directions.seeded(2, 8, 2, jax.random.key(5), shared=False),
    }[name]
    options = {"batch_size": 16}
    if order == "zeroth":
        worker = oracles.zeroth_order(problem, dictionary, delta=0.01, **options)
    else:
        worker = oracles.directional_derivative(problem.losses, dictionary, **options)
    system = helpers.far_sign_system(
        problem, attacks.sign_flip(10), dictionary=dictionary, worker=worker,
        step_size=step_sizes.power(2.0, 0.75), average_step=0.3,
    )  # fmt: skip
    schedule = arrivals.uniform(jax.random.key(2), 4, 4000)
    measure = helpers.distance(problem)
    _, records = simulation.run(problem, system, schedule, byzantine=1, measure=measure)
    assert records[-1]["distance"] < 0.1 * float(measure(problem.x0)["distance"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size > 0: got 0"),
        ({"average_step": 1.5}, "0 < average_step <= 1: got 1.5"),
        ({"sign_of": "both"}, "'new' or 'old': got 'both'"),
        ({"arrival_rates": [1.0, 2.0]}, r"m=5 arrival rates: got shape \(2,\)"),
        ({"arrival_rates": [0.0] * M}, "must be positive"),
        ({"arrival_rates": "guess"}, "'estimate' or m rates: got 'guess'"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(InvalidConfig, match=message):
        server_and_state(**options)


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_the_average_of_iterates_is_that_of_all_of_them(power):
    server = far_sign(M, directions.identity(D, K), **STEPS, averaging=power)
    state = server.init(jnp.asarray(np.random.default_rng(1).normal(size=D), jnp.float32))
    iterates, update = [state.params], jax.jit(server.update)
    np.testing.assert_array_equal(state.output, state.params)
    for received in random_events(50):
        state, _ = update(state, reports(received))
        iterates.append(state.params)
    total = np.arange(1, len(iterates) + 1.0) ** (power + 1)  # of all weights so far
    mean = np.average(np.stack(iterates), axis=0, weights=np.diff(total, prepend=0))
    np.testing.assert_allclose(state.output, mean, rtol=1e-5, atol=1e-6)
    assert np.abs(state.output - state.params).max() > 0.01


def test_soft_steps_shrink_with_the_average_and_gains_multiply_them():
    def gain(j):
        return jnp.where(j == 2, 3.0, 1.0)

    options = {"step_size": 0.1, "average_step": 1.0, "sign": soft_sign(2.0), "gain": gain}
    server = far_sign(M, directions.identity(D, K), **options)
    state = server.init(jnp.zeros(D))
    answer = np.asarray([1.0, -8.0, 0.0])  # mean |y| is 3, so that 6 is a full step
    after, _ = server.update(state, reports([(1, np.asarray([4, 2, 7]), answer)]))
    expected = np.zeros(D)
    expected[[4, 2]] = -0.1 / 6, 0.1 * 3
    np.testing.assert_allclose(after.params, expected, rtol=1e-6)
    silent, _ = server.update(state, reports([(1, np.asarray([4, 2, 7]), np.zeros(3))]))
    np.testing.assert_array_equal(silent.params, state.params)


@pytest.mark.slow
def test_all_options_together_learn_and_the_average_is_the_output():
    problem = helpers.digits(examples=60)
    options = {"scheme": "forward", "sampler": "alive", "floor": 0.5, "weights": "inverse"}
    options |= {"last_layer": 0.5, "soft": 0.5, "averaging": 1, "storage": "bfloat16"}
    feedback = OracleConfig(batch_size=16, directions=20)
    build = SystemSpec("far_sign", "sign_flip", (), feedback, tuple(options.items()))
    system = build(problem, {"step_size": 0.02, "average_step": 0.5})
    assert system.worker.evaluations == 21
    schedule = arrivals.uniform(jax.random.key(1), 5, 400)

    def measure(x):
        return {"loss": problem.losses(x, problem.data).mean()}

    run, records = simulation.run(problem, system, schedule, byzantine=1, measure=measure)
    assert records[-1]["loss"] == measure(simulation.output(run))["loss"]
    assert records[-1]["loss"] < 0.95 * measure(problem.x0)["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"averaging": -1.0}, "averaging >= 0 or None: got -1"),
        ({"soft": -0.5}, "soft >= 0: got -0.5"),
        ({"scheme": "backward"}, "unknown scheme 'backward'"),
        ({"sampler": "rnk"}, "did you mean 'rank'"),
        ({"weights": "yes"}, "unknown weights 'yes'"),
        ({"last_layer": -1.0}, "last_layer >= 0: got -1"),
        ({"storage": "float8"}, "unknown storage 'float8'"),
        ({"storage": "hashed", "slots": 0}, "1 <= slots <= K=.*: got 0"),
    ],
)
def test_bad_options_beyond_the_paper_are_refused_by_name(options, message):
    build = SystemSpec(
        "far_sign", options=tuple(options.items()), oracle=OracleConfig(directions=5)
    )
    with pytest.raises(InvalidConfig, match=message):
        build(helpers.digits(), {"step_size": 0.02, "average_step": 0.5})
