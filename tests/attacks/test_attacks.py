"""Attacks on messages: their definitions, and the numbers of other libraries."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from farsign_jax import aggregators, attacks
from farsign_jax.base import Report, View
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, K = 6, 5
REPORTED = np.random.default_rng(0).normal(size=(M, K)).astype(np.float32)
BYZANTINE = np.asarray([True, False, False, True, False, False])
HONEST = REPORTED[~BYZANTINE]
OWN = np.linspace(-2, 2, K).astype(np.float32)


class Iterate(NamedTuple):
    """All that attacks look at of a server."""

    params: Any


ITERATE = Iterate(np.arange(-2, 3, dtype=np.float32))


def send(attack, reported=REPORTED, received=None, seed=0, state=None, server=ITERATE):
    received = np.ones((M, K), bool) if received is None else received
    zero = jnp.zeros((), jnp.int32)
    report = Report(zero, zero, jnp.arange(K), jnp.asarray(OWN))
    known = jnp.asarray(reported), jnp.asarray(received)
    view = View(server, jnp.asarray(BYZANTINE), *known)
    state = attack.init(M) if state is None else state
    state, value = jax.jit(attack.forge)(state, report, view, jax.random.key(seed))
    return np.asarray(value), state


def test_definitions():
    mean, std = HONEST.mean(0), HONEST.std(0)
    sample_std = HONEST.std(0, ddof=1)
    z = float(norm.ppf((6 - 2 - 2) / (6 - 2)))  # s = floor(6 / 2 + 1) - 2 = 2
    for attack, want in (
        (attacks.none(), OWN),
        (attacks.sign_flip(), -OWN),
        (attacks.sign_flip(scale=10), -10 * OWN),
        (attacks.sign_flip(scale=2, source="honest_mean"), -2 * mean),
        (attacks.constant(), np.full(K, 100)),
        (attacks.alie(), mean - z * std),
        (attacks.alie(z=1.5), mean - 1.5 * std),
        (attacks.alie(z=1.5, sign=1, ddof=1), mean + 1.5 * sample_std),
        (attacks.ipm(epsilon=0.5), -0.5 * mean),
        (attacks.mimic(target=4), REPORTED[4]),
        (attacks.nonfinite("nan"), np.full(K, np.nan)),
        (attacks.nonfinite("huge"), np.full(K, 3e38)),
    ):
        np.testing.assert_allclose(send(attack)[0], want, rtol=1e-5, atol=1e-6)


def distances_to(value):
    return np.linalg.norm(HONEST.astype(float) - value, axis=1)


BETWEEN = np.linalg.norm(HONEST[:, None].astype(float) - HONEST[None], axis=2)


@pytest.mark.parametrize("direction", ["std", "sign", "mean"])
def test_lies_at_a_distance_go_as_far_as_it_allows_and_no_farther(direction):
    mean, std = HONEST.mean(0), HONEST.std(0)
    p = {"std": -std, "sign": -np.sign(mean), "mean": -mean}[direction]
    for name, size, limit in (
        ("min_max", lambda v: distances_to(v).max(), BETWEEN.max()),
        ("min_sum", lambda v: (distances_to(v) ** 2).sum(), (BETWEEN**2).sum(axis=1).max()),
    ):
        value = send(attacks.make(name, direction=direction))[0]
        assert size(value) == pytest.approx(limit, rel=1e-5)
        gone = (value - mean) / p  # all entries by the same multiple of p
        assert gone.std() < 1e-4 * gone.mean() and gone.mean() > 0


def test_searched_lies_are_the_most_harmful_of_what_they_try():
    mean = HONEST.mean(0)
    radius = np.linalg.norm(HONEST - mean, axis=1).max()
    for aggregator in ("mean", "median", "krum:f=1", "trimmed_mean:f=2"):
        rule = aggregators.make(aggregator)

        def harm(value, rule=rule):
            rows = np.where(BYZANTINE[:, None], value, REPORTED).astype(np.float32)
            return float(np.asarray(rule(rows)) @ mean)

        value = send(attacks.make("fall_of_empires", aggregator=aggregator))[0]
        assert harm(value) <= min(harm(-(2.0**i) * mean) for i in range(-4, 5)) + 1e-5
        value = send(attacks.make("inner_max", aggregator=aggregator))[0]
        assert np.linalg.norm(value - mean) <= radius * (1 + 1e-5)
        assert harm(value) <= harm(mean - radius * mean / np.linalg.norm(mean)) + 1e-5


def test_the_family_of_alie():
    mean, std = HONEST.mean(0), HONEST.std(0)
    value = send(attacks.drift(z=2.0))[0]
    np.testing.assert_allclose(np.abs(value - mean), 2 * std, rtol=1e-4)
    np.testing.assert_array_equal(send(attacks.drift(z=2.0), seed=9)[0], value)  # it stays
    value = send(attacks.hybrid_sparse(z=1.0, scale=9.0, share=0.4))[0]
    large = np.argsort(-np.abs(mean))[:2]
    want = np.where(np.isin(np.arange(K), large), 9.0, 1.0)
    np.testing.assert_allclose((mean - value) / std, want, rtol=1e-4)
    x = np.asarray([3.0, -0.5, 0.0, 2.0, -7.0], np.float32)
    value = send(attacks.trapsetter(z=2.0), server=Iterate(x))[0]
    np.testing.assert_allclose(value, mean + 2 * std * np.sign(x), rtol=1e-5)
    with pytest.raises(InvalidConfig, match="trapsetter needs the iterate of a server"):
        send(attacks.trapsetter(), server=None)


def test_the_signs_of_a_drift_are_those_of_directions_and_of_either_kind():
    zero, many = jnp.zeros((), jnp.int32), 4000
    rows = np.random.default_rng(0).normal(size=(M, many)).astype(np.float32)
    view = View(ITERATE, jnp.asarray(BYZANTINE), jnp.asarray(rows), jnp.ones((M, many), bool))
    mean, signs = rows[~BYZANTINE].mean(axis=0), {}
    for seed in (0, 1):
        for ids in (jnp.arange(many), 7 * jnp.arange(many)):
            report = Report(zero, zero, ids.astype(jnp.int32), jnp.asarray(rows[0]))
            _, value = attacks.drift(z=2.0, seed=seed).forge((), report, view, None)
            signs[seed, int(ids[1])] = np.sign(np.asarray(value) - mean)
    assert all(abs(s.mean()) < 0.07 for s in signs.values())
    # Direction 7 j is the same direction whatever its place; another seed has other signs.
    np.testing.assert_array_equal(signs[0, 1][::7], signs[0, 7][: len(signs[0, 1][::7])])
    assert abs((signs[0, 1] * signs[1, 1]).mean()) < 0.07


def test_alie_z_matches_the_paper():
    # (n, q) -> z: Phi^-1((n - q - s) / (n - q)), s = floor(n / 2 + 1) - q
    for n, q, z in (
        (25, 5, 0.2533), (11, 5, 0.9674), (11, 4, 0.5659), (11, 3, 0.3186),
        (50, 24, 1.4261), (20, 8, 0.6745), (10, 2, 0.0), (10, 1, -0.1397), (10, 3, 0.18),
    ):  # fmt: skip
        assert float(attacks.alie_z(n, q)) == pytest.approx(z, abs=1e-4)
    assert float(attacks.alie_z(10, 6)) == 1.5  # a majority needs no supporter
    assert float(attacks.alie_z(2, 1)) == 0  # all honest workers support no deviation


def test_gaussian_is_fresh_and_has_its_deviation():
    attack = attacks.gaussian(std=7.0)
    draws = np.stack([send(attack, seed=s)[0] for s in range(400)])
    assert abs(draws.std() / 7 - 1) < 5 / np.sqrt(2 * draws.size)
    assert len(np.unique(draws)) == draws.size


def test_random_disturbance_adds_noise_in_proportion_to_the_length_of_the_answer():
    attack = attacks.random_disturbance(scale=0.5)
    noise = np.stack([send(attack, seed=s)[0] for s in range(400)]) - OWN
    deviation = 0.5 * np.sqrt((OWN.astype(float) ** 2).sum())
    assert abs(noise.std() / deviation - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * deviation / np.sqrt(noise.size)
    np.testing.assert_array_equal(send(attacks.random_disturbance(scale=0))[0], OWN)


def test_nonfinite_mixes_all_kinds():
    attack = attacks.nonfinite()
    draws = np.concatenate([send(attack, seed=s)[0] for s in range(40)])
    assert np.isnan(draws).any() and np.isposinf(draws).any() and np.isneginf(draws).any()
    assert (draws[np.isfinite(draws)] > 1e38).all()


def test_statistics_use_received_honest_reports_only():
    reported = REPORTED.copy()
    reported[BYZANTINE] = np.nan  # the reports of Byzantine workers must not matter
    received = np.ones((M, K), bool)
    received[1, 0] = False
    received[[1, 2, 4], 1] = False  # a single honest report is not enough
    reported[~received] = np.inf
    value, _ = send(attacks.alie(z=1.0), reported, received)
    seen = REPORTED[[2, 4, 5], 0]
    assert value[0] == pytest.approx(seen.mean() - seen.std(), rel=1e-5)
    assert value[1] == OWN[1]
    np.testing.assert_allclose(value[2:], (HONEST.mean(0) - HONEST.std(0))[2:], rtol=1e-5)


def test_mimic_finds_the_direction_in_which_the_honest_differ():
    rng = np.random.default_rng(1)
    z = rng.normal(size=K)
    z /= np.linalg.norm(z)
    place = np.asarray([0, -1, 0.3, 0, 4, 0.2])  # worker 4 lies farthest out along z
    attack = attacks.mimic(warmup=30)
    state = attack.init(M)
    chosen = []
    for step in range(40):
        reported = (place[:, None] * z + 0.05 * rng.normal(size=(M, K))).astype(np.float32)
        value, state = send(attack, reported, seed=step, state=state)
        chosen.append(int(np.argmin(np.abs(reported - value).sum(axis=1))))
    assert set(chosen[5:]) <= {4} or set(chosen[5:]) <= {1}  # one end of z, always the same
    never_received = send(attack, received=np.zeros((M, K), bool), state=state)[0]
    np.testing.assert_array_equal(never_received, OWN)


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_attacks_keep_shape_and_type_and_are_functions_of_their_key(name):
    attack = attacks.make(name)
    for received in (None, np.zeros((M, K), bool)):
        value, state = send(attack, received=received)
        again, _ = send(attack, received=received)
        assert value.shape == (K,) and value.dtype == np.float32
        np.testing.assert_array_equal(value, again)
        assert jax.tree.structure(state) == jax.tree.structure(attack.init(M))


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_the_default_width_and_the_types_of_options_change_no_message(name):
    numbers = {"z": 1.3, "scale": 0.7, "std": 0.3, "epsilon": 0.2, "value": 1.7}
    known = {n: v for n, v in numbers.items() if n in attacks.registry.parameters(name)}
    want = [send(attacks.make(name, **some))[0] for some in ({}, known)]
    with helpers.float64():
        for kind in (float, np.float32, np.float64):
            some = {n: kind(v) for n, v in known.items()}
            for options, value in zip(({}, some), want, strict=True):
                got = send(attacks.make(name, **options))[0]
                assert got.dtype == np.float32
                np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize("name", sorted(set(attacks.ATTACKS) - {"nonfinite", "same_value"}))
def test_no_attack_sends_nan_at_the_smallest_numbers_or_of_huge_ones(name):
    attack = attacks.make(name)
    forge = jax.jit(attack.forge)
    for m, q, k in (
        (1, 0, 2),
        (1, 1, 2),
        (2, 0, 2),
        (2, 1, 1),
        (3, 1, 2),
        (3, 2, 2),
        (200, 1, 2),
    ):
        for size in (0, 1e-38, 1e30, 3.4e38):
            rows = size * np.resize([1, -1, -1], (m, k)).astype(np.float32)
            state, zero = attack.init(m), jnp.zeros((), jnp.int32)
            received = jnp.ones((m, k), bool)
            view = View(ITERATE, jnp.arange(m) < q, jnp.asarray(rows), received)
            for _ in range(2):
                report = Report(zero, zero, jnp.arange(k), view.reported[0])
                state, value = forge(state, report, view, jax.random.key(0))
                assert not np.isnan(value).any(), (m, q, size)
                assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("byzantine", [1.5, np.nan, np.inf, -1, 3])
def test_a_number_of_byzantine_workers_that_is_none_is_refused(byzantine):
    with pytest.raises(InvalidConfig, match=f"got (byzantine=)?{byzantine}"):
        attacks.byzantine_mask(3, byzantine)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("alie", {"z": np.inf}, "alie needs a finite z, at most 3.4e38 in size: got inf"),
        ("sign_flip", {"scale": 1e39}, "needs a finite scale, at most 3.4e38 in size: got 1e"),
        ("ipm", {"epsilon": np.nan}, "ipm needs a finite epsilon, .*: got nan"),
        ("random_disturbance", {"scale": -0.1}, "needs a finite scale >= 0: got -0.1"),
        ("gaussian", {"std": 1e39}, "gaussian needs a finite std, .*: got 1e"),
        ("mimic", {"warmup": 2**31}, "mimic needs warmup < 2.31: got 2147483648"),
        ("mimic", {"warmup": -1}, "a whole number warmup >= 0: got -1"),
        ("sign_flop", {}, "unknown attack 'sign_flop': did you mean 'sign_flip'"),
        (
            "alie",
            {"zeta": 1},
            "unknown option of alie 'zeta': known: after, asks, ddof, sign, space, z",
        ),
        ("alie", {"sign": 0}, "sign -1 or 1: got 0"),
        ("sign_flip", {"source": "x"}, "'own' or 'honest_mean': got 'x'"),
        ("nonfinite", {"kind": "naan"}, "did you mean 'nan'"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message):
    with pytest.raises(InvalidConfig, match=message):
        attacks.make(name, **options)


def test_mimic_refuses_unknown_targets():
    for target in (M, -1, 1.5):
        with pytest.raises(InvalidConfig, match=f"in 0..{M - 1}: got {target}"):
            attacks.mimic(target=target).init(M)


def test_values_match_byzfl():
    """ByzFL 0.0.11 on [[1,2,3],[4,5,6],[7,8,9]]: its conventions are options here."""
    honest = np.asarray(json.loads("[[1,2,3],[4,5,6],[7,8,9]]"), np.float32)
    zero = jnp.zeros((), jnp.int32)
    report = Report(zero, zero, jnp.arange(3), jnp.zeros(3))
    byzantine = jnp.asarray([True, False, False, False])
    reported = jnp.concatenate([jnp.zeros((1, 3)), honest])
    view = View(None, byzantine, reported, jnp.ones((4, 3), bool))
    for attack, want in (
        (attacks.sign_flip(source="honest_mean"), [-4, -5, -6]),
        (attacks.ipm(epsilon=2), [-8, -10, -12]),
        (attacks.alie(z=1.5, sign=1, ddof=1), [8.5, 9.5, 10.5]),
    ):
        _, value = attack.forge((), report, view, jax.random.key(0))
        np.testing.assert_allclose(value, want, rtol=1e-6)
