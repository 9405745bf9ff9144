"""Byzantine-resilient SGD: the random iterate, resilience estimated, Corollary 4.1."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    aggregators,
    attacks,
    base,
    brsgd,
    oracles,
    problems,
    sgd,
    simulation,
    step_sizes,
)
from farsign_jax import keys as keys_lib
from farsign_jax.base import System
from farsign_jax.theory import resilience
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, D = 11, 10


value = problems.ripples
GRADIENT = jax.grad(value)
START = np.full(D, 2.0, np.float32)  # of weak type, it would change its type in the loop
PROBLEM = problems.smooth(value, START, M, jax.random.key(0), noise=0.3)
WORKER = oracles.stochastic_gradient(PROBLEM.losses, batch_size=1)


def all_workers(rounds):
    return np.tile(np.arange(M, dtype=np.int32), (rounds, 1))


STEP = step_sizes.power(0.2, 0.55)


@functools.cache
def system_of(rule, attack, server, step_size):
    """One object for all seeds, so that its program is compiled once."""
    return System(server(M, aggregators.make(rule), step_size=step_size), WORKER, attack)


def run(rule, attack, rounds=400, seed=0, every=None, server=brsgd, step_size=STEP):
    system = system_of(rule, attack, server, step_size)
    measure = {"measure": lambda x: {"gradient": jnp.linalg.norm(GRADIENT(x))}}
    return simulation.run(
        PROBLEM, system, all_workers(rounds), seed=seed, byzantine=2, every=every, **measure
    )


@pytest.mark.slow
def test_it_is_sgd_with_an_iterate_kept():
    left, _ = run("krum:f=2", attacks.sign_flip(3.0))
    right, _ = run(
        "krum:f=2",
        attacks.sign_flip(3.0),
        server=sgd,
        step_size=lambda num_answers: STEP(num_answers // M),
    )
    helpers.assert_same(left.server.params, right.server.params)
    assert 0 <= int(left.server.chosen_at) < 400


@pytest.mark.slow
def test_the_iterate_kept_is_that_of_the_round_recorded():
    state, _ = run("median", attacks.none(), rounds=60)
    at = int(state.server.chosen_at)
    before, _ = run("median", attacks.none(), rounds=at) if at else (None, None)
    want = PROBLEM.x0 if before is None else before.server.params
    helpers.assert_same(state.server.chosen, want)


def test_iterates_are_drawn_with_the_weights_of_the_paper():
    """By updates without anything else, 4,000 times side by side."""
    growth, rounds = 3.0, 12
    alpha = 0.5 / np.arange(1, rounds + 1) ** 0.75
    server = brsgd(
        2, aggregators.make("mean"), step_size=step_sizes.power(0.5, 0.75), growth=growth
    )
    reports = base.Report(
        jnp.arange(2), jnp.zeros(2, jnp.int32), (), jnp.zeros((2, 1), jnp.float32)
    )

    def one(key):
        state = server.init(jnp.zeros(1), key)
        step = lambda state, _: (server.update(state, reports)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, None, length=rounds)[0]

    states = jax.vmap(one)(jax.random.split(jax.random.key(0), 4000))
    weights = np.cumprod(alpha / np.r_[alpha[0], alpha[:-1]] / (1 + growth * alpha**2))
    np.testing.assert_allclose(states.weight[0], np.log(weights[-1]), rtol=1e-5)
    np.testing.assert_allclose(states.total[0], np.log(weights.sum()), rtol=1e-5)
    counts = np.bincount(states.chosen_at, minlength=rounds)
    expected = 4000 * weights / weights.sum()
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 31.3  # 11 degrees of freedom, one time in a thousand


def test_rounds_count_whichever_workers_answer():
    """Half of the workers in each round: alpha and the weights go by rounds all the same."""
    alpha, rounds = 0.5 / np.arange(1, 9) ** 0.75, 8
    server = brsgd(4, aggregators.make("mean"), step_size=step_sizes.power(0.5, 0.75))
    reports = base.Report(
        jnp.arange(2), jnp.zeros(2, jnp.int32), (), jnp.ones((2, 1), jnp.float32)
    )
    state = server.init(jnp.zeros(1), jax.random.key(0))
    for _ in range(rounds):
        state, _ = server.update(state, reports)
    np.testing.assert_allclose(state.params, -alpha.sum(), rtol=1e-6)
    np.testing.assert_allclose(state.weight, np.log(alpha[-1] / alpha[0]), rtol=1e-5)
    np.testing.assert_allclose(state.total, np.log(alpha.sum() / alpha[0]), rtol=1e-5)
    assert int(state.num_answers) == 2 * rounds and int(state.step) == rounds


def test_an_estimate_is_undecided_within_its_error():
    wild = estimate("mean", attacks.gaussian(100.0), jnp.full(D, 1.52), samples=100)
    assert wild.error > 0.5 and wild.holds is None
    assert estimate("mean", attacks.none()).error < 0.01


@pytest.mark.parametrize(
    ("m", "q", "eta"),
    [(11, 1, 4.99), (11, 2, 6.03), (11, 3, 8.37), (11, 4, 15.68), (25, 5, 11.27), (10, 2, 6.0)],
)
def test_eta(m, q, eta):
    assert resilience.krum_factor(m, q) == pytest.approx(eta, abs=0.005)


def estimate(rule, attack, x=None, samples=300):
    x = PROBLEM.x0 if x is None else x
    there = dataclasses.replace(PROBLEM, x0=x)
    settings = resilience.answers(there, WORKER, attack, byzantine=2, samples=samples)
    return resilience.estimate(aggregators.make(rule), settings, GRADIENT(x))


def test_resilience_of_the_mean_is_known():
    got = estimate("mean", attacks.none())
    assert got.sin_alpha == pytest.approx(0, abs=0.02) and got.holds
    g = float(jnp.linalg.norm(GRADIENT(PROBLEM.x0)))
    assert got.gradient == pytest.approx(g, rel=1e-5)
    assert got.deviation == pytest.approx(0.3 * D**0.5, rel=0.05)
    noise = 0.3**2 * D
    assert got.moment == pytest.approx((g**2 + noise / M) / (g**2 + noise), rel=0.03)
    # 2 of 11 send -s g: the aggregate is (9 - 2 s) / 11 of the gradient.
    assert estimate("mean", attacks.sign_flip(3.0)).sin_alpha == pytest.approx(8 / 11, abs=0.02)
    assert estimate("mean", attacks.sign_flip(10.0)).holds is False


def test_moments_are_ratios_of_means():
    given = resilience.answers(PROBLEM, WORKER, attacks.none(), byzantine=2, samples=300)
    got = resilience.moments("mean", given)
    assert got[0] == pytest.approx(estimate("mean", attacks.none()).moment, rel=1e-6)
    every, honest = np.asarray(given.honest), np.asarray(given.honest)[:, 2:]
    norms = np.linalg.norm(every.mean(axis=1), axis=-1), np.linalg.norm(honest, axis=-1)
    want = [(norms[0] ** r).mean() / (norms[1] ** r).mean() for r in (2, 3, 4)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.slow
def test_robust_rules_are_resilient_far_from_stationary_points_only():
    far = {rule: estimate(rule, attacks.alie(z=1.0)) for rule in ("krum:f=2", "median")}
    assert all(0 < got.sin_alpha < 0.5 for got in far.values())
    assert resilience.krum_factor(M, 2) * far["krum:f=2"].deviation > far["krum:f=2"].gradient
    near = jnp.full(D, 1.4957) + 0.01  # 1.4957 = 1.5 sin 1.4957
    assert jnp.linalg.norm(GRADIENT(near)) < 0.1
    assert not estimate("krum:f=2", attacks.alie(z=1.0), near).holds
    assert estimate("krum:f=2", attacks.none(), near, samples=2000).sin_alpha < 0.7


@pytest.mark.slow
def test_gradients_stay_below_the_bound_and_plateau_where_resilience_fails():
    """Means over replicas; constants as estimated along the way, with room."""
    quiet, lied = (
        [
            [r["gradient"] for r in run("krum:f=2", attack, 2000, seed, every=20)[1]]
            for seed in range(4)
        ]
        for attack in (attacks.sign_flip(3.0), attacks.alie(z=1.0))
    )
    smallest = np.minimum.accumulate(np.mean(quiet, axis=0))
    gap = float(value(PROBLEM.x0) - D * value(jnp.array([1.4957])))
    # alpha_0 = 0.2 = (1 - sin alpha) / (L B') with L = 2.5; sin alpha = 0.2, B' = 1.6.
    for n, least in zip(range(20, 2001, 20), smallest, strict=True):
        limit = resilience.bound(
            n, 0.55, gap=gap, smoothness=2.5, sin_alpha=0.2, b=1.6, c=0.3**2 * D
        )
        assert least < limit
    assert smallest[-1] < 0.2 < np.min(np.mean(lied, axis=0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resilience.krum_factor(6, 2), "needs m > 2q . 2: got m=6, q=2"),
        (lambda: brsgd(3, None, step_size=-1), "brsgd needs a finite step_size > 0: got -1"),
        (lambda: brsgd(3, None, step_size=0.1, growth=-1), "growth >= 0: got -1"),
        (lambda: bound(power=0.5), "needs 1/2 < p < 1: got p=0.5"),
        (lambda: bound(sin_alpha=1.0), "0 <= sin alpha < 1: got 1"),
        (lambda: estimate("mean", attacks.none(), samples=1), "samples >= 2: got 1"),
        (
            lambda: estimate("mean", attacks.none(), x=jnp.zeros(D)),
            "where the gradient is not 0",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(InvalidConfig, match=message):
        call()


def bound(power=0.75, sin_alpha=0.2):
    return resilience.bound(
        10, power, gap=1.0, smoothness=2.0, sin_alpha=sin_alpha, b=1.0, c=0.1
    )


@pytest.mark.slow
def test_byzantine_workers_may_change_from_round_to_round():
    masks = np.stack([np.roll(np.arange(M) < 2, n) for n in range(M)])
    system = System(
        brsgd(M, aggregators.make("median"), step_size=STEP),
        WORKER,
        attacks.constant(1e4),
    )
    settings = {"schedule": all_workers(300)}
    run, _ = simulation.run(PROBLEM, system, **settings, byzantine=masks)
    assert np.linalg.norm(GRADIENT(run.server.params)) < 1
    mean = system._replace(server=brsgd(M, aggregators.make("mean"), step_size=STEP))
    lost, _ = simulation.run(PROBLEM, mean, **settings, byzantine=masks)
    assert np.linalg.norm(GRADIENT(lost.server.params)) > 100
    # One row is a mask for all rounds; the mask is looked up by the number of the event.
    same, _ = simulation.run(PROBLEM, system, **settings, byzantine=masks[:1])
    fixed, _ = simulation.run(PROBLEM, system, **settings, byzantine=masks[0])
    helpers.assert_same(same.server, fixed.server)
    with pytest.raises(InvalidConfig, match="need an honest worker"):
        simulation.run(PROBLEM, system, **settings, byzantine=np.ones((2, M), bool))
    with pytest.raises(InvalidConfig, match="need a mask of 11 workers"):
        simulation.run(PROBLEM, system, **settings, byzantine=np.zeros((2, 3), bool))


@pytest.mark.slow
def test_byzantine_workers_of_a_round_know_its_answers():
    """ALIE from the very first round, and of the answers to the same question."""
    system = System(
        sgd(M, aggregators.make("mean"), step_size=1e-6), WORKER, attacks.alie(z=2.0)
    )
    keys = keys_lib.split(0)
    run = simulation.start(system, PROBLEM, keys, "fresh")
    everyone = jnp.arange(M, dtype=jnp.int32)
    byzantine = jnp.arange(M) < 2
    queries = simulation.ask(system, run.server, everyone, run.events, keys)
    _, reports = simulation.answer(system, PROBLEM, run.workers, queries, run.events, keys)
    after, _ = simulation.deliver(system, PROBLEM, run, reports, byzantine, keys)
    honest = np.asarray(reports.value)[2:]
    lie = honest.mean(axis=0) - 2.0 * honest.std(axis=0)
    want = (honest.sum(axis=0) + 2 * lie) / M
    np.testing.assert_allclose(after.server.aggregate, want, rtol=1e-4, atol=1e-5)
