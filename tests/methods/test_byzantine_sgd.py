"""ByzantineSGD against Algorithm 1 in NumPy, and what V, the one number to know, decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.base import Report
from farsign_jax.methods.byzantine_sgd import byzantine_sgd
from farsign_jax.validation import InvalidConfig

M, D = 7, 3
EVERYONE = np.arange(M, dtype=np.int32)
OPTIONS = {"step_size": 0.1, "variance": 1.0, "radius": 2.0}


def report(workers, values, version):
    workers = jnp.asarray(workers, jnp.int32)
    version = jnp.broadcast_to(jnp.asarray(version, jnp.int32), workers.shape)
    return Report(workers, version, (), jnp.asarray(values, jnp.float32))


def algorithm_1(x_1, gradients, eta, v, radius, delta, horizon):
    """The iterates and good workers after each round; `gradients(k, x) -> f64[m, d]`."""
    x, a, b, good, path = x_1, np.zeros(M), np.zeros((M, len(x_1))), set(range(M)), []
    for k in range(1, 1000):
        g = gradients(k, x)
        if g is None:
            return path
        t = k if horizon is None else horizon
        t_b = 4 * v * np.sqrt(t * np.log(16 * M * t / delta))
        a, b = a + g @ (x - x_1), b + g

        def most_central(vectors, within):
            counts = [sum(np.linalg.norm(u - w) <= within for w in vectors) for u in vectors]
            assert max(counts) > M / 2
            return vectors[int(np.argmax(counts))]

        a_med, b_med = np.median(a), most_central(b, t_b)
        g_med = most_central(g, 2 * v)
        good = {
            i
            for i in good
            if abs(a[i] - a_med) <= radius * t_b
            and np.linalg.norm(b[i] - b_med) <= t_b
            and np.linalg.norm(g[i] - g_med) <= 4 * v
        }
        x = x - eta * sum((g[i] for i in good), np.zeros_like(x)) / M
        if (away := np.linalg.norm(x - x_1)) > radius:
            x = x_1 + (x - x_1) * radius / away
        path.append((x, good))
    raise AssertionError


def bounded(rng, *shape):
    """Vectors of length at most 1."""
    z = rng.normal(size=shape)
    return z / np.linalg.norm(z, axis=-1, keepdims=True) * rng.random((*shape[:-1], 1))


def liars(k, x, x_1, rng):
    """Worker 0 lies the same way always, 1 from round 10 on, 2 along x - x_1 alone."""
    center = np.array([3.0, 0, 0]) * (1 if k // 2 % 2 else -1)  # x goes to and fro
    g = x - x_1 - center + bounded(rng, M, D)
    g[0] = x - x_1 - center + np.array([0, 1.5, 0])
    if k > 10:
        g[1] += 10
    along = (x - x_1) / max(np.linalg.norm(x - x_1), 1e-9)
    g[2] += 1.8 * along
    return g


@pytest.mark.parametrize("horizon", [None, 60])
def test_full_rounds_are_algorithm_1(horizon):
    x_1, sent = np.array([1.0, -2.0, 0.5]), []
    rng = np.random.default_rng(0)

    def gradients(k, x):
        if k > 120:
            return None
        sent.append(liars(k, x, x_1, rng).astype(np.float32).astype(np.float64))
        return sent[-1]

    path = algorithm_1(x_1, gradients, 1.2, 1.0, 2.0, 0.1, horizon)
    server = byzantine_sgd(M, **OPTIONS | {"step_size": 1.2}, confidence=0.1, horizon=horizon)
    state, update = server.init(jnp.asarray(x_1, jnp.float32), None), jax.jit(server.update)
    order = np.random.default_rng(1)
    sizes = []
    for k, ((x, good), g) in enumerate(zip(path, sent, strict=True)):
        who = order.permutation(M)  # the order of slots does not matter
        state, info = update(state, report(who, g[who], k))
        np.testing.assert_allclose(state.params, x, rtol=1e-3, atol=1e-4)
        assert set(np.flatnonzero(state.good).tolist()) == good
        assert int(info["good"]) == len(good)
        sizes.append(len(good))
    # The three liars go one after the other; the last of them is caught by A.
    assert sorted(set(sizes)) == [4, 5, 6, 7] and set(range(3, M)) <= good


SERVER = byzantine_sgd(M, **OPTIONS | {"step_size": 0.01})  # x stays near: B decides, not A
UPDATE = jax.jit(SERVER.update)


def run_of(rounds, workers_of, g_of):
    """The state after these rounds from x = 0, and the number of good workers after each."""
    state, sizes = SERVER.init(jnp.zeros(D), None), []
    for k in range(rounds):
        who = np.full(M, M, np.int32)
        some = np.asarray(workers_of(k))
        who[: len(some)] = some
        state, info = UPDATE(
            state, report(who, g_of(k)[np.minimum(who, M - 1)], int(state.step))
        )
        sizes.append(int(info["good"]))
    return state, sizes


def test_rounds_that_lack_answers():
    rng = np.random.default_rng(2)

    def wild(k):
        g = bounded(rng, M, D)
        g[:3] = 50
        return g

    g = bounded(rng, M, D)
    # Few answers: the majority of the round is heard, and nobody is excluded by it.
    state, sizes = run_of(1, lambda k: [0, 3, 4], wild)
    assert sizes == [M] and 0 < np.linalg.norm(state.params) < 0.01
    # Two liars and one honest worker agree on a lie, and exclude nobody either.
    assert run_of(1, lambda k: [0, 1, 3], wild)[1] == [M]
    # Nor do these two later, by sums of differences to their lie.
    later = run_of(9, lambda k: EVERYONE if k else [0, 1, 3], lambda k: g if k else wild(k))
    assert later[1][-1] == M and later[0].counts.tolist() == [8] * M
    # Four honest workers that agree are most of all.
    assert run_of(1, lambda k: [0, 3, 4, 5, 6], wild)[1] == [M - 1]
    # One answer is its own majority; an empty round changes nothing.
    state, _ = run_of(1, lambda k: [3], lambda k: np.ones((M, D)))
    np.testing.assert_allclose(state.params, -0.01, rtol=1e-6)
    state, _ = run_of(1, lambda k: [M], wild)
    assert int(state.step) == 0 and not state.params.any()

    def biased(k):
        g = bounded(rng, M, D)
        g[0], g[5] = [2.0, 0, 0], [0, 1.0, 0]
        return g

    # Workers take part in different rounds, some rarely, one late, one once: lies add up,
    # absence does not, and few answers may have another mean than many without loosening the
    # comparison of these.
    rate = np.array([0.9, 0.9, 0.95, 0.8, 0.95, 0.0, 0.0])

    def present(k):
        extra = ((EVERYONE == 5) & (k > 390)) | ((EVERYONE == 6) & (k == 0))
        return np.where((rng.random(M) < rate) | extra, EVERYONE, M)

    state, sizes = run_of(400, present, biased)
    assert np.flatnonzero(~np.asarray(state.good)).tolist() == [0] and sizes[20] == M
    assert int(state.counts[5]) == 9 and 200 < int(state.counts[1]) < int(state.counts[2]) < 350


def test_without_a_majority_all_stays():
    apart = 10.0 * np.eye(M, D) + 5 * EVERYONE[:, None]
    state, sizes = run_of(2, lambda k: EVERYONE, lambda k: apart)
    assert sizes == [M, M] and int(state.step) == 2
    assert not state.params.any() and not state.sums.any() and not state.counts.any()


def test_a_late_answer_is_dropped():
    state = SERVER.init(jnp.zeros(D), None)._replace(step=jnp.int32(3))
    after, _ = UPDATE(state, report(EVERYONE, np.ones((M, D)), 2))
    assert int(after.num_answers) == M and int(after.step) == 3
    assert not after.params.any() and not after.counts.any()
    one = np.where(EVERYONE == 4, 3, 2)
    after, _ = UPDATE(state, report(EVERYONE, np.ones((M, D)), one))
    assert not after.counts.any() and int(after.step) == 4  # of one answer, no sum grows
    np.testing.assert_allclose(after.params, -0.01, rtol=1e-6)


# Many runs: m = 9 workers, the first 3 of which lie, on |x|^2 / 2 with noise of length <= 1.
WORKERS, BYZANTINE, DIM, ROUNDS = 9, 3, 5, 1200


@jax.jit
def many_runs(v, lie, rare):
    """Of 32 seeds: |x| f32[32, T], and who is good, bool[32, T, m].

    Args:
        v: V.
        lie: the length of what liars add to the true gradient, without noise.
        rare: how often the noise of an honest worker has length 1; else it has 0.1.
    """
    server = byzantine_sgd(WORKERS, step_size=0.05, variance=v, radius=10.0, confidence=0.05)
    lies, everyone = np.arange(WORKERS)[:, None] < BYZANTINE, np.arange(WORKERS)

    def round_of(state, key):
        z = jax.random.normal(key, (WORKERS, DIM))
        large = jax.random.bernoulli(jax.random.fold_in(key, 1), rare, (WORKERS, 1))
        noise = z / jnp.linalg.norm(z, axis=1, keepdims=True) * jnp.where(large, 1, 0.1)
        g = state.params[None] + jnp.where(lies, lie / DIM**0.5, noise)
        state, _ = server.update(state, report(everyone, g, state.step))
        return state, (jnp.linalg.norm(state.params), state.good)

    def run(key):
        state = server.init(jnp.zeros(DIM), None)
        return jax.lax.scan(round_of, state, jax.random.split(key, ROUNDS))[1]

    return jax.vmap(run)(jax.random.split(jax.random.key(5), 32))


def runs_of(v, lie=2.0, rare=1.0):
    """`many_runs`: |x| and who is good, of the liars and of the honest workers."""
    length, good = (np.asarray(a) for a in many_runs(v, lie, rare))
    return length, good[:, :, :BYZANTINE], good[:, :, BYZANTINE:]


def rounds_until_gone(liars):
    """The mean number of rounds after which no liar is left; they do all go."""
    some = liars.any(axis=2)
    assert not some[:, -1].any()
    return some.sum(axis=1).mean()


@pytest.mark.slow
def test_lies_that_add_up_are_found_out_and_honest_workers_stay():
    length, liars, honest = runs_of(1.0)
    assert honest[:, -1].all(axis=1).mean() >= 0.95  # 1 - delta
    # 2 k > 4 sqrt(k log(16 m k / delta)) from k = 48 on.
    assert 30 < rounds_until_gone(liars) < 55
    # While they are believed, liars draw x off; it comes back.
    assert length[:, 40].mean() > 0.4 and length[:, 300:].mean() < 0.2
    _, quiet, honest = runs_of(1.0, lie=0.0)
    assert quiet.all() and honest[:, -1].all(axis=1).mean() >= 0.95


@pytest.mark.slow
def test_a_bound_that_is_too_large_lets_liars_stay_longer():
    right, large = runs_of(1.0), runs_of(4.0)
    # The rounds grow like V^2, up to a logarithm, and so does the time for which x is wrong.
    assert 12 < rounds_until_gone(large[1]) / rounds_until_gone(right[1]) < 25
    assert large[0][:, 100:600].mean() > 3 * right[0][:, 100:600].mean()
    assert large[2].all() and large[0][:, -1].mean() < 1.5 * right[0][:, -1].mean()


@pytest.mark.slow
def test_a_bound_that_is_too_small_excludes_honest_workers_or_stops_x():
    _, _, honest = runs_of(0.25, lie=0.0, rare=0.1)
    assert honest[:, 0].mean() > 0.9 and honest[:, -1].mean() < 0.5
    # Where all noise is longer than half of 2 V, no answer has a majority near it.
    length, liars, honest = runs_of(0.25, lie=2.0)
    assert honest.all() and liars.all() and not length.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": 0.0}, "byzantine_sgd needs variance > 0: got 0.0"),
        ({"radius": -1.0}, "byzantine_sgd needs radius > 0: got -1.0"),
        ({"confidence": 1.0}, "byzantine_sgd needs 0 < confidence < 1: got 1.0"),
        ({"horizon": 0}, "byzantine_sgd needs a whole number horizon >= 1: got 0"),
        ({"step_size": -0.1}, "byzantine_sgd needs a finite step_size > 0: got -0.1"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(InvalidConfig, match=message):
        byzantine_sgd(M, **OPTIONS | options)
