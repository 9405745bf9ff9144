"""Random directions of each distribution, and the worker that answers about them."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from farsign_jax import attacks, directions, models, oracles, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.base import Query, System
from farsign_jax.directions.random_directions import normals, threefry
from farsign_jax.methods.buffered import buffered
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference

SEED = jnp.asarray([7, 11], jnp.uint32)


def test_threefry_is_threefry():
    """The known answers of Salmon et al.'s Random123, 20 rounds."""
    zeros, ones = np.uint32(0), np.uint32(0xFFFFFFFF)
    word = lambda x: jnp.asarray(x, jnp.uint32)  # noqa: E731
    known = [
        ((zeros, zeros, zeros, zeros), (0x6B200159, 0x99BA4EFE)),
        ((ones, ones, ones, ones), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for arguments, answer in known:
        assert tuple(map(int, threefry(*map(word, arguments)))) == answer


@pytest.mark.parametrize("size", [1, 7, 100_001])
def test_normals_are_normal_and_as_many_as_asked_for(size):
    z = np.asarray(normals(SEED, size), np.float64)
    assert z.shape == (size,) and np.isfinite(z).all()
    if size > 1000:
        assert stats.kstest(z, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / np.sqrt(size)
        half = (size + 1) // 2  # the two words of a block
        assert abs(np.corrcoef(z[: size - half], z[half:])[0, 1]) < 6 / np.sqrt(size)


def test_another_seed_gives_other_directions():
    sphere = directions.sphere(50, 3)
    seeds = [sphere.draw(jax.random.key(i)) for i in range(3)]
    drawn = [np.asarray(sphere.vectors(seed)[0]) for seed in seeds]
    assert all(len(np.intersect1d(a, b)) == 0 for a, b in itertools.pairwise(drawn))


@pytest.mark.parametrize("distribution", directions.DISTRIBUTIONS)
def test_rebuilding_is_unbiased(distribution):
    """E[1 / (k E u_j^2) sum_l (u_l . g) u_l] = g: within five standard errors."""
    d, k, many = 6, 2, 4000
    source = directions.random_directions(d, k, distribution, half_width=0.5, epsilon=0.7)
    g = jnp.arange(1.0, d + 1)

    def once(key):
        seed = source.draw(key)
        z, lengths = source.vectors(seed)
        return source.rebuild(seed, jnp.matmul(z, g) / lengths)

    drawn = np.asarray(jax.vmap(once)(jax.random.split(jax.random.key(0), many)))
    error = np.abs(drawn.mean(axis=0) - np.asarray(g))
    assert (error < 5 * drawn.std(axis=0) / np.sqrt(many)).all()
    assert (drawn.std(axis=0) > 0.5).all()  # it is noisy: the bound above is not void


def test_entries_have_the_distribution_of_their_name():
    """Rademacher, and both distributions of RDSA; the bounds are five standard errors."""
    draw = lambda name: np.asarray(  # noqa: E731
        directions.random_directions(50_000, 1, name, half_width=0.5, epsilon=0.7).vectors(
            SEED
        )[0]
    )
    signs, skewed = draw("rademacher"), draw("bernoulli")
    assert set(np.unique(signs)) == {-1, 1} and abs(signs.mean()) < 5 / np.sqrt(50_000)
    assert set(np.unique(skewed)) == {-1, np.float32(1.7)}
    assert np.mean(skewed == -1) == pytest.approx(1.7 / 2.7, abs=0.011)
    assert stats.kstest(draw("uniform")[0], "uniform", args=(-0.5, 1)).pvalue > 1e-3
    assert stats.kstest(draw("gaussian")[0], "norm").pvalue > 1e-3


def ask(problem, source, worker, dtype=jnp.float32):
    zero = jnp.zeros((), jnp.int32)
    query = Query(problem.x0.astype(dtype), zero, SEED, zero)
    value = worker.respond((), query, problem.shard(zero), jax.random.key(3))[1]
    return value if worker.encode is None else worker.encode(SEED, value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "coupled", "scheme", "distribution"),
    [
        (models.MLP((4,)), False, "central", "sphere"),
        (models.MLP((8, 4)), True, "central", "sphere"),
        (models.MLP((8, 4)), True, "forward", "gaussian"),
        (models.MLP((8, 4)), False, "forward", "bernoulli"),
        (models.MLP((5, 6, 4), activation=nn.tanh), True, "central", "uniform"),
    ],
    ids=["softmax", "relu, one batch", "forward, one batch", "forward", "deep tanh, one batch"],
)
def test_structured_and_generic_oracle_agree_with_numpy(module, coupled, scheme, distribution):
    with helpers.float64():
        problem = helpers.digits(module)
        problem = dataclasses.replace(problem, x0=problem.x0.astype(jnp.float64))
        source = directions.random_directions(problem.x0.size, 5, distribution)
        options = {"batch_size": 8, "delta": 1e-2, "coupled": coupled, "message": "scalar"}
        options |= {"scheme": scheme}
        fast = ask(problem, source, oracles.random_two_point(problem, source, **options), float)
        blind = dataclasses.replace(problem, structure=None)
        slow = ask(problem, source, oracles.random_two_point(blind, source, **options), float)
        z, lengths = source.vectors(SEED)
        rows = np.asarray(z, np.float64) / np.asarray(lengths, np.float64)[:, None]
        plus_key, minus_key, _ = jax.random.split(jax.random.key(3), 3)
        shard = problem.shard(jnp.zeros((), jnp.int32))
        plus = shard.batch(plus_key, 8)
        minus = plus if coupled else shard.batch(minus_key, 8)
        x = np.asarray(problem.x0)
        losses = lambda x, batch: np.asarray(problem.losses(jnp.asarray(x), batch))  # noqa: E731
        if scheme == "central":
            truth = reference.two_point(losses, x, plus, minus, rows, 1e-2)
        else:
            here = losses(x, minus).mean()
            truth = [(losses(x + 1e-2 * u, plus).mean() - here) / 1e-2 for u in rows]
    np.testing.assert_allclose(slow, truth, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fast, truth, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_float32_answers_stay_accurate_at_any_perturbation():
    """Formed as changes: two parts in a thousand, where two losses would give noise."""
    problem = helpers.digits(models.MLP((8, 4)))
    sphere = directions.sphere(problem.x0.size, 20)
    for delta in (1e-2, 1e-4, 1e-6):
        options = {"batch_size": 16, "delta": delta, "message": "scalar"}
        answer = ask(problem, sphere, oracles.random_two_point(problem, sphere, **options))
        z, lengths = sphere.vectors(SEED)
        key = jax.random.split(jax.random.key(3), 3)[0]
        batch = problem.shard(jnp.zeros((), jnp.int32)).batch(key, 16)
        gradient = jax.grad(lambda x: problem.losses(x, batch).mean())(problem.x0)  # noqa: B023
        exact = jnp.matmul(z, gradient, precision="highest") / lengths
        size = float(jnp.abs(exact).mean())
        assert float(jnp.abs(answer - exact).max()) < (3e-2 if delta > 1e-3 else 2e-3) * size


@pytest.mark.slow
def test_a_dense_message_is_the_rebuilt_scalar_one():
    problem = helpers.digits()
    sphere = directions.sphere(problem.x0.size, 5)
    make = oracles.random_two_point
    scalars = ask(problem, sphere, make(problem, sphere, batch_size=8, message="scalar"))
    dense = ask(problem, sphere, make(problem, sphere, batch_size=8))
    assert scalars.shape == (5,) and dense.shape == problem.x0.shape
    np.testing.assert_allclose(dense, sphere.rebuild(SEED, scalars), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_attack_may_forge_measurements_or_messages():
    problem = helpers.digits()
    d = problem.x0.size
    sphere = directions.sphere(d, 5)
    worker = oracles.random_two_point(problem, sphere, batch_size=8)
    everything = lambda x, **_: x[0]  # noqa: E731
    server = buffered(5, everything, buffers=1, step_size=1.0, directions=sphere)
    for space in ("measured", "message"):
        system = System(server, worker, attacks.make("constant", space, value=3.0))
        mask = np.arange(5) < 1
        run, _ = simulation.run(problem, system, [0], byzantine=mask)
        moved = problem.x0 - run.server.params
        if space == "message":
            np.testing.assert_allclose(moved, 3.0, rtol=1e-5)
            continue
        keys = keys_lib.split(0)
        zero = jnp.zeros((), jnp.int32)
        seed = sphere.draw(keys_lib.message(keys.queries, zero, zero))
        np.testing.assert_allclose(
            moved, sphere.rebuild(seed, jnp.full(5, 3.0)), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("space", attacks.SPACES)
def test_an_omniscient_attack_knows_measurements_or_messages(space):
    """ALIE with z = 0 repeats the mean of the two honest workers before it."""
    problem = helpers.digits(workers=3)
    sphere = directions.sphere(problem.x0.size, 4)
    worker = oracles.random_two_point(problem, sphere, batch_size=8)
    moves = []

    def watch(x, **_):
        return x[0]

    server = buffered(3, watch, buffers=1, step_size=1.0, directions=sphere)
    system = System(server, worker, attacks.make("alie", space, z=0.0))
    keys = keys_lib.split(0)
    byzantine = jnp.asarray([False, False, True])
    run = simulation.start(system, problem, keys, "fresh")
    assert set(run.memory.reported) == {space}
    for i in (0, 1, 2):
        before = run.server.params
        run, _ = simulation.event(system, problem, byzantine, keys, "fresh", run, jnp.int32(i))
        moves.append(before - run.server.params)
    reported = run.memory.reported[space]
    assert reported.shape == ((3, 4) if space == "measured" else (3, problem.x0.size))
    if space == "message":
        want = (moves[0] + moves[1]) / 2
    else:
        number = jnp.int32(2)
        seed = sphere.draw(keys_lib.message(keys.queries, number, number))
        want = sphere.rebuild(seed, reported[:2].mean(axis=0))
    np.testing.assert_allclose(moves[2], want, rtol=1e-3, atol=1e-4)


def test_bad_input_is_refused():
    problem = helpers.digits()
    sphere = directions.sphere(problem.x0.size, 5)
    with pytest.raises(InvalidConfig, match="message is one of"):
        oracles.random_two_point(problem, sphere, batch_size=8, message="smoke")
    with pytest.raises(InvalidConfig, match="at least one direction: got k=0"):
        directions.sphere(5, 0)
    with pytest.raises(InvalidConfig, match="unknown distribution 'gausian': did you mean"):
        directions.random_directions(5, 1, "gausian")
    with pytest.raises(InvalidConfig, match="half_width > 0: got 0"):
        directions.random_directions(5, 1, "uniform", half_width=0)
    with pytest.raises(InvalidConfig, match="epsilon >= 0: got -1"):
        directions.random_directions(5, 1, "bernoulli", epsilon=-1)
    worker = oracles.random_two_point(problem, sphere, batch_size=8, scheme="forward")
    assert worker.evaluations == 6
    with pytest.raises(InvalidConfig, match=r"space is one of .*: got .outer."):
        attacks.make("gaussian", space="outer")
