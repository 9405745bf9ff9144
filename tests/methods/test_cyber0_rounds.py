"""CYBER-0 in rounds against its description in NumPy, and what its options are for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    OracleConfig,
    RunConfig,
    SystemSpec,
    aggregators,
    directions,
    oracles,
    simulation,
)
from farsign_jax import keys as keys_lib
from farsign_jax.base import Report
from farsign_jax.methods.cyber0_rounds import cyber0_rounds, local_seeds, with_local_steps
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, D, K = helpers.M, helpers.D, 6
DELTA, STEP, LOCAL = 0.01, 0.1, 0.07
# One example for each worker, so that NumPy knows the mini-batches.
PROBLEM = helpers.quadratic(noise=0.3)
PROBLEM = dataclasses.replace(PROBLEM, sizes=jnp.ones_like(PROBLEM.sizes))
SHARED = directions.sphere(D, K)


def system_of(aggregator, **options):
    oracle = OracleConfig(batch_size=1, directions=K, delta=DELTA, decay=1.0)
    given = tuple(({"aggregator": aggregator} | options).items())
    return SystemSpec("cyber0_rounds", "none", (), oracle, given)(PROBLEM, {"step_size": STEP})


def unit_vectors(seed):
    vectors, lengths = jax.jit(SHARED.vectors)(seed)
    return np.asarray(vectors, np.float64) / np.asarray(lengths, np.float64)[:, None]


def in_numpy(x, round_seed, aggregate, combine, local_steps):
    """The iterate after one round of all workers."""
    curvature, center, noise = (np.asarray(a, np.float64) for a in PROBLEM.data)
    seeds = jax.jit(local_seeds, static_argnums=1)(round_seed, local_steps)
    u = [unit_vectors(seed) for seed in np.asarray(seeds)]
    sent = []
    for row in np.asarray(PROBLEM.rows)[:, 0]:
        loss = lambda y, r=row: curvature[r] @ (y - center[r]) ** 2 / 2 + noise[r] @ y  # noqa: E731
        y, scalars = x.copy(), []
        for along in u:
            d = [(loss(y + DELTA * a) - loss(y - DELTA * a)) / (2 * DELTA) for a in along]
            y = y - LOCAL * D / K * np.asarray(d) @ along
            scalars.append(d)
        sent.append(scalars)

    def rebuild(scalars):
        return sum(D / K * np.asarray(d) @ along for d, along in zip(scalars, u, strict=True))

    if aggregate == "scalars":
        chosen = combine(np.reshape(sent, (M, -1)))
        return x - STEP * rebuild(chosen.reshape(local_steps, K))
    return x - STEP * combine(np.stack([rebuild(scalars) for scalars in sent]))


def krum(rows, f=2):
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    scores = [
        np.sort(np.delete(d, i))[: len(rows) - f - 2].sum() for i, d in enumerate(distances)
    ]
    return rows[np.argmin(scores)]


RULES = {"median": lambda rows: np.median(rows, axis=0), "krum:f=2": krum}


@pytest.mark.parametrize(
    ("rule", "aggregate", "local_steps"),
    [
        ("median", "scalars", 1),
        *helpers.slow(
            [
                ("krum:f=2", "gradients", 1),
                ("krum:f=2", "scalars", 3),
                ("median", "gradients", 2),
            ]
        ),
    ],
)
def test_rounds_are_their_description_in_numpy(rule, aggregate, local_steps):
    options = {"aggregate": aggregate, "local_steps": local_steps, "local_step_size": LOCAL}
    system = system_of(rule, **options)
    assert system.worker.evaluations == local_steps * 2 * K
    keys, byzantine = keys_lib.split(0), jnp.zeros(M, bool)
    run = simulation.start(system, PROBLEM, keys, "fresh")
    everyone = jnp.arange(M, dtype=jnp.int32)
    event = jax.jit(
        lambda run: simulation.event(system, PROBLEM, byzantine, keys, "fresh", run, everyone)[
            0
        ]
    )
    seeds = set()
    ask = jax.jit(lambda state: system.server.query(state, everyone[0], keys.queries))
    for _ in range(4):
        query = ask(run.server)
        x = np.asarray(run.server.params, np.float64)
        x = in_numpy(x, query.direction, aggregate, RULES[rule], local_steps)
        run = event(run)
        np.testing.assert_allclose(run.server.params, x, rtol=1e-3, atol=1e-3)
        seeds.add(tuple(np.asarray(query.direction)))
    assert run.server.step == len(seeds) == 4 and run.server.num_answers == 4 * M


def server_of(rule, aggregate="scalars"):
    return cyber0_rounds(M, rule, SHARED, step_size=STEP, aggregate=aggregate)


def reports(values, versions, workers=None):
    workers = np.arange(len(values)) if workers is None else workers
    versions = jnp.broadcast_to(jnp.int32(versions), (len(values),))
    return Report(
        jnp.asarray(workers, jnp.int32), versions, (), jnp.asarray(values, jnp.float32)
    )


@pytest.mark.slow
def test_linear_rules_are_the_same_in_both_spaces_and_others_are_not():
    rows = np.random.default_rng(0).normal(size=(M, K))
    moved = {}
    for name in ("mean", "median"):
        for aggregate in ("scalars", "gradients"):
            server = server_of(aggregators.make(name), aggregate)
            state = server.init(jnp.zeros(D), jax.random.key(0))
            moved[name, aggregate] = jax.jit(server.update)(state, reports(rows, 0))[0].params
    same = moved["mean", "scalars"], moved["mean", "gradients"]
    np.testing.assert_allclose(*same, rtol=1e-4, atol=1e-5)
    apart = np.abs(moved["median", "scalars"] - moved["median", "gradients"])
    assert apart.max() > 0.01


def test_answers_about_older_directions_are_dropped_and_wild_ones_stay_finite():
    server = server_of(aggregators.make("median"))
    update = jax.jit(server.update)
    state = server.init(jnp.ones(D), jax.random.key(0))._replace(step=jnp.int32(3))
    rows = np.random.default_rng(0).normal(size=(4, K))
    after, _ = update(state, reports(rows, 2))  # nothing can be compared, but time goes on
    helpers.assert_same(after, state._replace(num_answers=after.num_answers))
    assert int(after.num_answers) == 4
    mixed, _ = update(state, reports(rows, [3, 2, 3, 2]))
    only, _ = update(state, reports(rows, 3, [0, M, 2, M]))
    np.testing.assert_array_equal(mixed.params, only.params)
    assert int(mixed.step) == 4 and not np.array_equal(mixed.params, state.params)
    rows[1:] = [[np.nan], [np.inf], [3e38]]
    for aggregate in ("scalars", "gradients"):
        server = server_of(aggregators.make("mean"), aggregate)
        state = server.init(jnp.ones(D), jax.random.key(0))
        assert np.isfinite(jax.jit(server.update)(state, reports(rows, 0))[0].params).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregate": "both"}, r"aggregate is one of \('scalars', 'gradients'\): got 'both'"),
        ({"local_steps": 0}, "a whole number local_steps >= 1: got 0"),
        ({"local_step_size": -0.1}, "a step size is positive and finite: got -0.1"),
        ({"aggregator": "krum:f=3"}, r"krum needs n >= 2f \+ 3: got n=7, f=3"),
    ],
)
def test_bad_configuration_is_refused(change, message):
    with pytest.raises(InvalidConfig, match=message):
        options = {"aggregator": "median"} | change
        simulation.run(PROBLEM, system_of(**options), np.tile(np.arange(M), (1, 1)))


def test_local_steps_need_scalars():
    worker = oracles.random_two_point(PROBLEM, SHARED, batch_size=4)
    with pytest.raises(InvalidConfig, match="a worker that sends what it measures"):
        with_local_steps(worker, SHARED, local_steps=2, step_size=0.1)
    server = server_of(aggregators.make("mean"))
    with pytest.raises(InvalidConfig, match=f"the directions are for d={D}: got d=3"):
        server.init(jnp.zeros(3), None)


@pytest.mark.slow
@pytest.mark.long
def test_mixing_neighbours_first_helps_where_workers_have_two_labels_each():
    def accuracy(rule):
        config = RunConfig(
            method="cyber0_rounds",
            aggregator=rule,
            attack="sign_flip",
            dataset="mnist_subset",
            model="softmax_regression",
            partition="label_skew:heterogeneity=2",
            batch_size=8,
            directions=50,
            events=500,
            eval_every=500,
        )
        return config.run().accuracy

    # Krum alone follows one worker at a time, and with it two of ten labels.
    assert accuracy("nnm:f=5+krum:f=5") > accuracy("krum:f=5") + 0.15
