"""Synchronous methods, a set of answers per event, against their rules written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import aggregators, attacks, oracles, simulation
from farsign_jax.base import Query, Report, System, Worker
from farsign_jax.methods.ef_sign_sgd import ef_sign_sgd, error_feedback_sign
from farsign_jax.methods.sgd import sgd
from farsign_jax.methods.sign_sgd_mv import momentum_sign, sign_sgd
from farsign_jax.methods.worker_momentum import worker_momentum
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, D = 7, 5


def schedule(n):
    return 0.1 / (1.0 + 0.1 * jnp.asarray(n, jnp.float32))


def eta(n):
    return 0.1 / (1.0 + 0.1 * n)


def rounds(slots, count=25, seed=0):
    """Workers i32[R, s], some or all slots of a round empty; wild numbers, there too."""
    rng = np.random.default_rng(seed)
    workers = np.stack([rng.permutation(M)[:slots] for _ in range(count)]).astype(np.int32)
    workers[rng.random(workers.shape) < 0.3] = M
    workers[[0, 3]] = M
    values = rng.normal(size=(count, slots, D)).astype(np.float32)
    wild = rng.random(values.shape) < 0.1
    values[wild] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 0], wild.sum())
    return workers, values


def sanitized(values):
    return np.clip(np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0), -1e6, 1e6)


def report(workers, values, version=0):
    workers = jnp.asarray(workers, jnp.int32)
    return Report(workers, jnp.full_like(workers, version), (), jnp.asarray(values))


def follow(server, workers, values, move):
    """The server beside `x <- move(x, rows of the present f64[p, d], num_answers)`."""
    state, update = server.init(jnp.ones(D)), jax.jit(server.update)
    x, num_answers, step = np.ones(D), 0, 0
    for who, sent in zip(workers, values, strict=True):
        before, (state, _) = state, update(state, report(who, sent))
        present = who < M
        if not present.any():
            helpers.assert_same(state, before)
            continue
        x = move(x, sanitized(sent[present]), num_answers)
        num_answers, step = num_answers + present.sum(), step + 1
        # Numbers up to 1e6 come and go: what is left of them is rounding.
        np.testing.assert_allclose(state.params, x, rtol=1e-5, atol=1e-6 * max(1, abs(x).max()))
        x = np.asarray(state.params, np.float64)
        assert (int(state.num_answers), int(state.step)) == (num_answers, step)
    assert 5 < step < num_answers or values.shape[1] == 1


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("name", ["mean", "median"])
def test_sgd_is_its_rule(name, slots):
    combine = {"mean": np.mean, "median": np.median}[name]
    server = sgd(M, aggregators.make(name), step_size=schedule)
    follow(
        server,
        *rounds(slots),
        lambda x, g, num_answers: x - eta(num_answers) * combine(g, axis=0),
    )


@pytest.mark.parametrize("slots, decay", [(1, 0.0), (4, 0.3)])
def test_sign_sgd_is_its_rule(slots, decay):
    def move(x, g, num_answers):
        votes = (g > 0).sum(0) - (g < 0).sum(0)
        return x - eta(num_answers) * (np.sign(votes) + decay * x)

    server = sign_sgd(M, step_size=schedule, weight_decay=decay)
    follow(server, *rounds(slots), move)


@pytest.mark.parametrize("slots", [1, 4])
def test_ef_sign_sgd_averages_steps(slots):
    follow(ef_sign_sgd(M), *rounds(slots), lambda x, delta, num_answers: x - delta.mean(axis=0))


def countdown(state, query, shard, key):
    return state - 1, shard[-state]


# Reads its gradients off its shard, f32[R, d], and knows how many are left.
TABLE = Worker(lambda shard: jnp.int32(len(shard)), countdown, 3, 2)


def answers(worker, gradients):
    """The answers of a worker that is asked once per round, and its last state."""
    state, respond = worker.init(gradients), jax.jit(worker.respond)
    sent = []
    for n in range(len(gradients)):
        query = Query(jnp.zeros(D), jnp.int32(0), (), jnp.int32(n))
        state, value = respond(state, query, gradients, jax.random.key(0))
        sent.append(value)
    return np.stack(sent), state


def honest_gradients():
    gradients = np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)
    gradients[3, 0], gradients[5, 1], gradients[19, 2] = np.nan, np.inf, 3e38
    gradients[:, 4] = 0
    return jnp.asarray(gradients)


@pytest.mark.parametrize("b", [0.0, 0.7])
def test_momentum_sign_is_its_rule(b):
    gradients = honest_gradients()
    worker = momentum_sign(TABLE, D, momentum=b)
    assert (worker.evaluations, worker.batch_size, worker.bits) == (3, 2, D)
    sent, (left, v) = answers(worker, gradients)
    assert int(left) == 0  # the inner worker kept its own state
    truth = np.zeros(D)
    for g, value in zip(sanitized(np.asarray(gradients)), sent, strict=True):
        truth = (1 - b) * g + b * truth
        np.testing.assert_array_equal(value, np.sign(truth))
    np.testing.assert_allclose(v, truth, rtol=1e-4, atol=1e-6)


def test_worker_momentum_is_its_rule():
    gradients = honest_gradients()
    worker = worker_momentum(TABLE, D, momentum=0.7)
    assert (worker.evaluations, worker.batch_size, worker.bits) == (3, 2, None)
    sent, _ = answers(worker, gradients)
    truth = np.zeros(D)
    for g, value in zip(sanitized(np.asarray(gradients)), sent, strict=True):
        truth = 0.3 * g + 0.7 * truth
        np.testing.assert_allclose(value, truth, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_worker_momentum_weakens_an_attack_within_the_noise():
    """ALIE moves a median by some standard deviations, which momentum makes smaller."""
    server = sgd(helpers.M, aggregators.median(), step_size=0.02)
    averaging = worker_momentum(GRADIENT, PROBLEM.x0.size, 0.95)
    plain, averaged = (ran(server, w, attacks.alie(1.5), 2)[0] for w in (GRADIENT, averaging))
    assert averaged < 0.6 * plain


def test_error_feedback_sign_is_its_rule_and_loses_nothing():
    gradients = honest_gradients()
    worker = error_feedback_sign(TABLE, D, schedule)
    assert (worker.evaluations, worker.batch_size, worker.bits) == (3, 2, D + 32)
    sent, (left, error) = answers(worker, gradients)
    assert int(left) == 0
    e, steps = np.zeros(D), np.zeros(D)
    for n, g in enumerate(sanitized(np.asarray(gradients))):
        p = eta(n) * g + e
        delta = np.abs(p).sum() / D * np.sign(p)
        e = p - delta
        steps += eta(n) * g
        np.testing.assert_allclose(sent[n], delta, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sent.sum(0) + error, steps, rtol=1e-5, atol=0.01)
    assert not sent[:, 4].any()  # sign(0) = 0


def test_krum_takes_a_round_that_lacks_answers_and_refuses_one_that_is_too_small():
    server = sgd(M, aggregators.krum(f=2), step_size=1.0)
    state = server.init(jnp.zeros(D))
    values = np.random.default_rng(0).normal(size=(M, D)).astype(np.float32)
    who = np.where(np.arange(M) < 3, np.arange(M), M)
    for update in (server.update, jax.jit(server.update)):  # outside jit the mask is known
        after, _ = update(state, report(who, values))
        assert (np.asarray(after.params) == -values[:3]).all(axis=1).any()
        after, _ = update(state, report(np.full(M, M), values))
        helpers.assert_same(after, state)
    with pytest.raises(InvalidConfig, match=r"krum needs n >= 2f \+ 3: got n=3, f=2"):
        jax.eval_shape(server.update, state, report(who[:3], values[:3]))


def test_rules_that_start_from_the_last_aggregate_or_draw():
    full = np.full((2, D), 10, np.float32)
    server = sgd(2, aggregators.make("centered_clipping", tau=1.0), step_size=1.0)
    state, lengths = server.init(jnp.zeros(D)), []
    for who in ([0, 1], [2, 2], [1, 2]):
        state, _ = server.update(state, report(who, full))
        lengths.append(float(jnp.linalg.norm(state.aggregate)))
    np.testing.assert_allclose(lengths, [1, 1, 2], rtol=1e-5)

    server = sgd(2, lambda x, mask, start, key: jax.random.uniform(key, (D,)), step_size=1.0)
    drawn = []
    for seed in (0, 1):
        state = server.init(jnp.zeros(D), jax.random.key(seed))
        for _ in range(2):
            state, _ = server.update(state, report([0, 1], full))
            drawn.append(np.asarray(state.aggregate))
    assert len(np.unique(drawn, axis=0)) == 4


# Runs.

ROUNDS, PROBLEM = 300, helpers.quadratic()
EVERYBODY = np.tile(np.arange(helpers.M, dtype=np.int32), (ROUNDS, 1))
GRADIENT = oracles.stochastic_gradient(PROBLEM.losses, batch_size=8)


def decaying(n):  # of answers
    return 0.1 * 0.5 ** (jnp.asarray(n, jnp.float32) / (50 * helpers.M))


def ran(server, worker, attack=None, byzantine=0, schedules=(EVERYBODY,), **options):
    """How far from the minimiser, as a part of the way; the last run."""
    system = System(server, worker, attack or attacks.none())
    measure = helpers.distance(PROBLEM)
    begin = float(measure(PROBLEM.x0)["distance"])
    parts = []
    for order in schedules:
        run, records = simulation.run(
            PROBLEM, system, order, byzantine=byzantine, measure=measure, **options
        )
        assert np.isfinite(run.server.params).all()
        assert int(run.server.num_answers) == (order >= 0).sum()
        assert int(run.server.step) == (order >= 0).any(axis=1).sum()
        parts.append(records[-1]["distance"] / begin)
    return parts


def pair(name):
    m, d = helpers.M, PROBLEM.x0.size
    if name == "sgd":
        return sgd(m, aggregators.mean(), step_size=decaying), GRADIENT
    if name == "sign_sgd":
        return sign_sgd(m, step_size=decaying), momentum_sign(GRADIENT, d)
    worker = error_feedback_sign(GRADIENT, d, lambda n: decaying(m * n))
    return ef_sign_sgd(m), worker


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "sign_sgd", "ef_sign_sgd"])
def test_converges_with_all_workers_and_with_some(name):
    some = np.where(np.random.default_rng(0).random(EVERYBODY.shape) < 0.6, -1, EVERYBODY)
    some[::50] = -1
    parts = ran(*pair(name), schedules=(EVERYBODY, some))
    assert max(parts) < 0.05, parts


def test_late_answers_count_all_the_same():
    assert max(ran(*pair("sign_sgd"), delivery="outstanding")) < 0.1


def test_three_byzantine_workers_have_three_votes_however_large():
    flip = attacks.sign_flip(10.0)
    vote = ran(*pair("sign_sgd"), flip, 3)
    mean = ran(*pair("sgd"), flip, 3)
    assert vote[0] < 0.1 and mean[0] > 10


@pytest.mark.parametrize("rule", [aggregators.krum(f=2), aggregators.median()])
def test_a_robust_rule_withstands_two_byzantine_workers_of_seven(rule):
    server = sgd(helpers.M, rule, step_size=decaying)
    assert ran(server, GRADIENT, attacks.sign_flip(10.0), 2)[0] < 0.1


def test_error_feedback_leaves_the_line_that_signs_never_leave():
    """f(x) = 0.1 |x1 + x2| + |x1 - x2|: every sign of a subgradient is +-(1, -1), so signSGD
    stays where x1 + x2 = 2 (Karimireddy et al., ICML 2019, Section 3)."""

    def respond(state, query, shard, key):
        x1, x2 = query.params
        one, other = (jnp.where(s >= 0, 1.0, -1.0) for s in (x1 + x2, x1 - x2))
        return state, jnp.stack([0.1 * one + other, 0.1 * one - other])

    subgradient = Worker(lambda shard: (), respond)
    small = lambda n: 0.5 / jnp.sqrt(1.0 + jnp.asarray(n, jnp.float32))  # noqa: E731

    def end(server, worker):
        def step(state, _):
            server_state, worker_state = state
            query = server.query(server_state, jnp.int32(0), None)
            worker_state, value = worker.respond(worker_state, query, None, None)
            reports = report([0], value[None], query.version)
            return (server.update(server_state, reports)[0], worker_state), None

        begin = server.init(jnp.ones(2)), worker.init(None)
        x = np.asarray(jax.lax.scan(step, begin, length=3000)[0][0].params)
        return x, 0.1 * abs(x.sum()) + abs(x[0] - x[1])

    x, f = end(sign_sgd(1, step_size=small), momentum_sign(subgradient, 2, momentum=0.0))
    np.testing.assert_allclose(x.sum(), 2, rtol=1e-4)
    assert f > 0.199
    _, f = end(ef_sign_sgd(1), error_feedback_sign(subgradient, 2, small))
    assert f < 0.03


# What is refused.

ENCODES = GRADIENT._replace(encode=lambda direction, value: value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sgd(M, aggregators.mean(), step_size=0.0), "sgd needs a finite step_size > 0"),
        (lambda: sgd(0, aggregators.mean(), step_size=1.0), "sgd needs .* num_workers=0"),
        (
            lambda: sign_sgd(M, step_size=-1.0),
            "sign_sgd needs a finite step_size > 0: got -1.0",
        ),
        (lambda: sign_sgd(0, step_size=1.0), "sign_sgd needs .* num_workers=0"),
        (lambda: sign_sgd(M, step_size=1.0, weight_decay=-0.1), "weight_decay >= 0: got -0.1"),
        (lambda: ef_sign_sgd(0), "ef_sign_sgd needs .* num_workers=0"),
        (lambda: momentum_sign(GRADIENT, D, 1.0), "needs 0 <= momentum < 1: got 1.0"),
        (lambda: worker_momentum(GRADIENT, D, -0.1), "needs 0 <= momentum < 1: got -0.1"),
        (lambda: momentum_sign(GRADIENT, 0), "whole number dim >= 1: got 0"),
        (lambda: momentum_sign(ENCODES, D), "momentum_sign needs .* this one encodes"),
        (lambda: error_feedback_sign(ENCODES, D, 1.0), "feedback_sign needs .* encodes"),
        (lambda: error_feedback_sign(GRADIENT, D, 0.0), "finite step_size > 0: got 0.0"),
        (lambda: answers(momentum_sign(TABLE, 4), jnp.ones((2, D))), r"f32\[4\]: got \[5\]"),
        (
            lambda: answers(error_feedback_sign(TABLE, 4, 1.0), jnp.ones((2, D))),
            r"error_feedback_sign needs gradients f32\[4\]: got \[5\]",
        ),
    ],
)
def test_bad_configuration_is_refused(make, message):
    with pytest.raises(InvalidConfig, match=message):
        make()


@pytest.mark.parametrize("name", ["sgd", "sign_sgd", "ef_sign_sgd"])
def test_an_answer_of_another_shape_is_refused(name):
    server, _ = pair(name)
    state = server.init(jnp.zeros(D))
    for shape in ((M, 1), (M,), (M, D, 1)):
        with pytest.raises(InvalidConfig, match=r"an answer is f32\[5\]: got"):
            server.update(state, report(np.arange(M), np.ones(shape, np.float32)))
