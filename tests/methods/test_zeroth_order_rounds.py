"""Methods of the literature along random directions, against their rules in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import OracleConfig, SystemSpec, directions, simulation
from farsign_jax.base import Report
from farsign_jax.methods.rsg import corollary_2_2, rsg
from farsign_jax.methods.rsgf import corollary_3_3, rsgf
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, D, K = 3, 6, 4
PROBLEM = helpers.quadratic(dim=D, workers=M)
ORACLE = OracleConfig(batch_size=2, directions=K, delta=0.01, decay=0.5, decay_every=6)
SEED = jnp.asarray([7, 11], jnp.uint32)


def answers(spec, version=0, coupled=True):
    """What an honest worker sends about directions f64[k, d], and these and its losses."""
    oracle = dataclasses.replace(ORACLE, coupled=coupled)
    server, worker, _ = SystemSpec(spec, oracle=oracle)(PROBLEM, {"step_size": 0.1})
    state = server.init(PROBLEM.x0, jax.random.key(0))
    query = server.query(state, jnp.int32(1), jax.random.key(5))
    query = query._replace(version=jnp.int32(version))
    shard, key = PROBLEM.shard(jnp.int32(1)), jax.random.key(3)

    @jax.jit
    def answer(query):
        return worker.encode(query.direction, worker.respond((), query, shard, key)[1])

    value = answer(query)
    plus_key, minus_key, _ = jax.random.split(key, 3)
    plus, minus = shard.batch(plus_key, 2), shard.batch(minus_key, 2)

    def loss(x, batch):  # of the quadratic
        curvature, center, noise = (np.asarray(part, np.float64) for part in batch)
        return (0.5 * curvature * (x - center) ** 2 + noise * x).sum(axis=-1).mean()

    return np.asarray(value), query.direction, loss, plus, minus


def drawn(distribution, seed, **options):
    z, lengths = directions.random_directions(D, K, distribution, **options).vectors(seed)
    return np.asarray(z, np.float64) / np.asarray(lengths, np.float64)[:, None]


def estimate(rows, factor, loss, plus, minus, delta, forward=False):
    x, g = np.asarray(PROBLEM.x0, np.float64), np.zeros(D)
    for u in rows:
        below = loss(x, minus) if forward else loss(x - delta * u, minus)
        g += (loss(x + delta * u, plus) - below) / (delta if forward else 2 * delta) * u
    return factor * g / len(rows)


@pytest.mark.parametrize(
    ("spec", "distribution", "factor", "coupled"),
    [
        ("rsgf", "gaussian", 1, True),
        ("rdsa", "uniform", 3, True),
        ("rdsa:perturbation=bernoulli,epsilon=0.5", "bernoulli", 1 / 1.5, True),
        ("spsa", "rademacher", 1, False),
    ],
)
def test_workers_send_the_estimates_of_the_papers(spec, distribution, factor, coupled):
    """In round 8, where Spall's perturbations are smaller than in round 0."""
    value, seed, loss, plus, minus = answers(spec, 8, coupled)
    rows = drawn(distribution, seed, **({"epsilon": 0.5} if "0.5" in spec else {}))
    delta = 0.01 if spec == "rsgf" else 0.01 / 9**0.101
    minus = plus if coupled else minus
    want = estimate(rows, factor, loss, plus, minus, delta, forward=spec == "rsgf")
    np.testing.assert_allclose(value, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("vote", ["estimate", "terms"])
def test_workers_of_zo_sign_sgd_send_signs(scheme, vote):
    value, seed, loss, plus, _ = answers(f"zo_sign_sgd:scheme={scheme},vote={vote}")
    rows = drawn("sphere", seed)
    terms = [
        estimate([u], D, loss, plus, plus, 0.01, forward=scheme == "forward") for u in rows
    ]
    if vote == "terms":
        terms = np.sign(terms)
    want = np.sign(np.sum(terms, axis=0))
    np.testing.assert_array_equal(value, want)
    system = SystemSpec("zo_sign_sgd", oracle=ORACLE)(PROBLEM, {"step_size": 0.1})
    assert simulation.bits_per_answer(system, PROBLEM) == D


def follow(server, values):
    """The states of a server that receives the rows of a round f32[R, m, d]."""
    state = server.init(jnp.ones(D), jax.random.key(0))
    states, update = [state], jax.jit(server.update)
    for rows in values:
        who = jnp.arange(M, dtype=jnp.int32)
        state, _ = update(state, Report(who, jnp.zeros_like(who), (), jnp.asarray(rows)))
        states.append(state)
    return states


def test_a_round_moves_along_the_mean_by_the_steps_of_the_paper():
    """gamma_k = 0.4 / (k + 1 + 2)^0.7 goes by rounds; RSG decays by answers, three a round."""
    values = np.random.default_rng(0).normal(size=(6, M, D)).astype(np.float32)
    means = values.astype(np.float64).mean(axis=1)
    for spec, steps in (
        ("spsa:power=0.7,stability=2", 0.4 / (np.arange(6) + 3) ** 0.7),
        ("rdsa:power=0", np.full(6, 0.4)),
        ("rsg", 0.4 * 0.5 ** (3 * np.arange(6) // 6)),
        ("rsgf", 0.4 * 0.5 ** (3 * np.arange(6) // 6)),
    ):
        server = SystemSpec(spec, oracle=ORACLE)(PROBLEM, {"step_size": 0.4}).server
        states = follow(server, values)
        want = 1 - np.cumsum(steps[:, None] * means, axis=0)
        np.testing.assert_allclose([s.params for s in states[1:]], want, rtol=1e-5)


@pytest.mark.parametrize("name", ["rsg", "rsgf"])
def test_iterates_are_drawn_with_the_weights_of_the_theorems(name):
    """Theorems 2.1 and 3.2; a later round whose weight is not positive is never drawn."""
    smoothness = 2.0 if name == "rsg" else 0.1
    gamma = np.array([0.3, 0.2, 0.4, 5.0, 0.1])
    if name == "rsg":
        weights = 2 * gamma - smoothness * gamma**2
        limit, make = 1.0, rsg
    else:
        weights = gamma - 2 * smoothness * (D + 4) * gamma**2
        limit, make = 0.5, lambda m, **o: rsgf(m, normal, **o)
    normal = directions.random_directions(D, 1, "gaussian")
    table = jnp.asarray(gamma, jnp.float32)
    server = make(M, step_size=lambda k: table[k], smoothness=smoothness)
    states = follow(server, np.ones((5, M, D), np.float32))
    kept = np.maximum(weights, 0)
    scale = 0.5 if name == "rsg" else 1.0  # a common factor of all weights
    np.testing.assert_allclose(np.exp(states[-1].total), scale * kept.sum(), rtol=1e-5)
    assert kept[3] == 0 and 0 <= int(states[-1].chosen_at) != 3
    at = int(states[-1].chosen_at)
    helpers.assert_same(states[-1].chosen, states[at].params)
    with pytest.raises(InvalidConfig, match=f"{name} needs step_size < {limit:g} for smoo"):
        make(M, step_size=limit, smoothness=smoothness)
    with pytest.raises(InvalidConfig, match="finite smoothness >= 0: got -1"):
        make(M, step_size=0.1, smoothness=-1)


def test_constant_steps_are_those_of_the_corollaries():
    """L = 2 and gap = 4: D = 2. T = 25, d = 5: d + 4 = 9."""
    constants = {"smoothness": 2.0, "gap": 4.0}
    assert corollary_2_2(25, noise_std=1.0, **constants) == pytest.approx(0.4)  # 2 / 5
    assert corollary_2_2(25, noise_std=0.0, **constants) == 0.5  # 1 / L
    noisy = corollary_3_3(25, 5, noise_std=20.0, **constants)
    # gamma = 1/3 min(1/24, 2/100); mu = 2 / (9 sqrt(50)).
    assert noisy == pytest.approx((0.02 / 3, 2 / (9 * 50**0.5)))
    assert corollary_3_3(25, 5, noise_std=0.0, **constants)[0] == pytest.approx(1 / 72)
    with pytest.raises(InvalidConfig, match="needs gap > 0: got 0"):
        corollary_2_2(25, smoothness=1.0, noise_std=1.0, gap=0.0)
    with pytest.raises(InvalidConfig, match="a whole number rounds >= 1: got 0"):
        corollary_3_3(0, 5, noise_std=1.0, **constants)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rdsa:perturbation=gaussian", "unknown perturbation 'gaussian'"),
        ("spsa:power=-1", "finite power >= 0: got -1"),
        ("zo_sign_sgd:vote=all", "unknown vote 'all'"),
        ("zo_sign_sgd:scheme=backward", "unknown scheme 'backward'"),
    ],
)
def test_invalid_options_are_refused(spec, message):
    with pytest.raises(InvalidConfig, match=message):
        SystemSpec(spec, oracle=ORACLE)(PROBLEM, {"step_size": 0.1})
