"""Aggregators and attacks for arrays of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import aggregators, attacks, interop
from farsign_jax.validation import InvalidConfig
from tests.interop.samples import ROWS, RULES, D, Foreign, N


@pytest.mark.parametrize("rule", RULES)
def test_results_do_not_depend_on_the_library(rule):
    want = aggregators.make(rule)(jnp.asarray(ROWS), key=jax.random.key(3))
    for messages in (ROWS, list(ROWS), jnp.asarray(ROWS), Foreign(ROWS)):
        got = interop.aggregate(rule, messages, seed=3)
        known = np.ndarray if isinstance(messages, np.ndarray | list) else jax.Array
        assert isinstance(got, known)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    got = interop.aggregate(rule, ROWS, [True] * 8 + [False], seed=3)
    np.testing.assert_allclose(
        got,
        aggregators.make(rule)(ROWS, [True] * 8 + [False], key=jax.random.key(3)),
        rtol=1e-6,
    )


def test_messages_may_be_trees():
    trees = [{"w": row[:20].reshape(4, 5), "b": [row[20:]]} for row in ROWS]
    got = interop.aggregate("median", trees)
    want = np.median(ROWS, axis=0)
    assert got["w"].shape == (4, 5)
    np.testing.assert_allclose(got["w"].reshape(-1), want[:20], rtol=1e-6)
    np.testing.assert_allclose(got["b"][0], want[20:], rtol=1e-6)
    cube = interop.aggregate("median", ROWS.reshape(N, 4, 6))
    np.testing.assert_allclose(cube, want.reshape(4, 6), rtol=1e-6)
    sent = interop.Attack("constant:value=7", 2)(trees)
    assert [type(x) for x in sent[0]["b"]] == [np.ndarray]
    assert (sent[1]["w"] == 7).all() and (sent[2]["w"] == trees[2]["w"]).all()


def test_messages_without_numbers():
    for rule in ("mean", "median", "krum:f=2", "rfa", "trimmed_mean:f=1"):
        assert interop.aggregate(rule, ROWS[:, :0]).shape == (0,)
    for name in sorted(attacks.ATTACKS.keys() - {"trapsetter"}):
        if attacks.make(name).poison is None:
            assert interop.Attack(name, 2)(ROWS[:, :0]).shape == (N, 0)


def test_attacks_are_those_of_the_library():
    mask = np.arange(N) % 4 == 1
    honest = ROWS[~mask]
    for text, want in (
        ("none", ROWS[mask]),
        ("sign_flip:scale=3", -3 * ROWS[mask]),
        ("ipm:epsilon=2", -2 * honest.mean(0)),
        ("alie:z=1.5,sign=1,ddof=1", honest.mean(0) + 1.5 * honest.std(0, ddof=1)),
        ("mimic:target=4", ROWS[4]),
        ("oracle_flip:scale=2", -2 * honest.mean(0)),
        ("sign_flip:after=1", ROWS[mask]),  # the first round is honest
        ("nonfinite:kind=inf", np.inf),
    ):
        sent = interop.Attack(text, mask)(ROWS)
        np.testing.assert_array_equal(sent[~mask], honest)
        np.testing.assert_allclose(
            sent[mask], np.broadcast_to(want, (2, D)), rtol=1e-5, atol=1e-5
        )
    gaussian = interop.Attack("gaussian:std=2", mask, seed=1)
    first, second = gaussian(ROWS), gaussian(ROWS)
    assert (first[mask] != second[mask]).all() and (first[1] != first[5]).all()
    again = interop.Attack("gaussian:std=2", mask, seed=1)
    np.testing.assert_array_equal(again(ROWS), first)
    for bad, byzantine, message in (
        ("gausian", 2, "did you mean 'gaussian'"),
        ("alie:w=1", 2, "unknown option of alie 'w'"),
        ("alie", N, "0 <= byzantine < workers"),
        ("trapsetter", 2, "trapsetter needs the iterate of a server: there is none"),
        (3, 2, "an attack is a text or a farsign_jax.Attack: got 3"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            interop.Attack(bad, byzantine)(ROWS)
    with pytest.raises(InvalidConfig, match=r"the last messages were \(9, 24\): got \(8, 24\)"):
        gaussian(ROWS[:8])


def test_attacks_keep_their_state():
    replay, mimic = interop.Attack("replay", 2), interop.Attack("mimic:warmup=3", 2)
    first = replay(ROWS)
    np.testing.assert_array_equal(first, ROWS)
    later = replay(ROWS + 1)
    np.testing.assert_array_equal(later[:2], ROWS[:2])  # stale, although it looks fresh
    np.testing.assert_array_equal(later[2:], ROWS[2:] + 1)
    outlier = ROWS.copy()
    outlier[6] += 10
    for _ in range(3):
        sent = mimic(outlier)
    np.testing.assert_array_equal(sent[0], outlier[6])
