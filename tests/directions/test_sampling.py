"""Sampling by importance: probabilities, distinct draws, unbiased steps, bounded influence."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import directions
from farsign_jax.base import Report
from farsign_jax.directions import importance
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.validation import InvalidConfig

K, ASKED = 90, 6


def taught(score="alive", answers=300, alive=30, **options):
    """A sampler, and its state after answers in which directions from `alive` on are dead."""
    sampler = importance.importance(K, ASKED, score=score, **options)

    def receive(state, key):
        j = jax.random.permutation(key, K)[:ASKED].astype(jnp.int32)
        value = jnp.where(j < alive, 1.0 + j.astype(jnp.float32), 0.0)
        return sampler.learn(state, j[None], value[None], jnp.ones((1,), bool)), ()

    keys = jax.random.split(jax.random.key(7), answers)
    return sampler, jax.jit(lambda: jax.lax.scan(receive, sampler.init(), keys)[0])()


def probabilities(state):
    leaves = np.asarray(state.tree)[-(len(state.tree) // 2) :][:K]
    return ASKED * leaves / leaves.sum()


@pytest.mark.parametrize("score", sorted(importance.VOTES))
def test_directions_are_distinct_and_as_likely_as_their_weights(score):
    sampler, state = taught(score)
    tree = np.asarray(state.tree)
    half = len(tree) // 2
    np.testing.assert_array_equal(tree[1:half], tree[2:-1:2] + tree[3::2])  # sums, exactly
    draws = 20_000
    keys = jax.random.split(jax.random.key(1), draws)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: sampler.draw(state, key)))(keys))
    assert drawn.min() >= 0 and drawn.max() < K
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    expected = probabilities(state)
    assert expected[:30].min() > 1.1 * expected[30:].max()
    seen = np.bincount(drawn.reshape(-1), minlength=K) / draws
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected / draws)).all()


@pytest.mark.parametrize("scores", ["even", "uneven", "one alive"])
@pytest.mark.slow
def test_every_pair_of_directions_occurs(scores):
    size, asked, draws = 12, 3, 100_000
    sampler = importance.importance(size, asked, floor=0.25, rate=1.0)
    state, present = sampler.init(), jnp.ones((1,), bool)
    dead = {"even": range(0), "uneven": range(3, 9), "one alive": range(1, 12)}[scores]
    for n in range(0, len(dead), asked):
        j = jnp.asarray([*dead, *dead][n : n + asked], jnp.int32)[None]
        state = sampler.learn(state, j, jnp.zeros((1, asked)), present)
    keys = jax.random.split(jax.random.key(1), draws)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: sampler.draw(state, key)))(keys))
    chosen = (drawn[:, :, None] == np.arange(size)).sum(axis=1)
    assert chosen.max() == 1 and (chosen.sum(axis=1) == asked).all()
    leaves = np.asarray(state.tree)[-(len(state.tree) // 2) :][:size]
    expected = asked * leaves / leaves.sum()
    error = np.abs(chosen.mean(axis=0) - expected)
    assert (error < 5 * np.sqrt(expected / draws)).all()
    assert (chosen.T @ chosen).min() > 0


def test_all_directions_are_drawn_if_all_are_asked_for():
    sampler = importance.importance(5, 5, floor=1.0)
    for seed in range(5):
        drawn = sampler.draw(sampler.init(), jax.random.key(seed))
        np.testing.assert_array_equal(np.sort(drawn), np.arange(5))


def test_inverse_probability_makes_the_expected_move_that_of_uniform_sampling():
    sampler, state = taught(inverse=True)
    dictionary = directions.identity(K, ASKED)
    settings = {"step_size": 0.5, "average_step": 1.0}
    server = far_sign(1, dictionary, **settings, sampler=sampler)
    begin = server.init(jnp.zeros(K), jax.random.key(0))._replace(sampler=state)
    gradient = jnp.where(jnp.arange(K) % 3 == 0, -1.0, 1.0)

    def move(key):
        j = server.query(begin, jnp.asarray(0), key).direction
        zero = jnp.zeros((1,), jnp.int32)
        return server.update(begin, Report(zero, zero, j[None], gradient[j][None]))[0].params

    draws = 20_000
    moves = jax.jit(jax.vmap(move))(jax.random.split(jax.random.key(2), draws))
    each = 0.5 * ASKED / K  # of every direction, in expectation
    error = np.asarray(moves.mean(0) + each * gradient)
    assert (np.abs(error) < 5 * np.asarray(moves.std(0)) / np.sqrt(draws)).all()


def test_a_byzantine_worker_moves_a_score_by_the_rate_at_most():
    sampler, state = taught(rate=0.2)
    j, present = jnp.arange(ASKED, dtype=jnp.int32)[None], jnp.ones((1,), bool)
    for lie in (0.0, 1e30, -1e30):
        after = sampler.learn(state, j, jnp.full((1, ASKED), lie), present)
        assert np.abs(after.scores - state.scores).max() <= 0.2 + 1e-6
    silent = sampler.learn(state, j, jnp.ones((1, ASKED)), ~present)
    np.testing.assert_array_equal(silent.tree, state.tree)


def test_sets_of_answers_are_processed_one_after_the_other():
    sampler, state = taught()
    j = jnp.asarray([[0, 1, 2, 3, 4, 5], [5, 4, 50, 51, 52, 0]], jnp.int32)
    value, present = jnp.where(j < 3, 1.0, 0.0), jnp.asarray([True, True])
    together = sampler.learn(state, j, value, present)
    for n in range(2):
        state = sampler.learn(state, j[n : n + 1], value[n : n + 1], present[:1])
    np.testing.assert_array_equal(together.tree, state.tree)


@pytest.mark.parametrize("inverse", [False, True])
def test_an_answer_copies_no_tree(inverse):
    size = 9001
    sampler = importance.importance(size, ASKED, inverse=inverse)

    def event(state, key):
        j = sampler.draw(state, key)[None]
        weights = jnp.ones((1, ASKED)) * sampler.weights(state, j)
        return sampler.learn(state, j, jnp.cos(j.astype(float)), jnp.ones(1, bool)), weights

    def run(state, keys):
        return jax.lax.scan(event, state, keys)

    keys = jax.random.split(jax.random.key(0), 20)
    text = jax.jit(run, donate_argnums=0).lower(sampler.init(), keys).compile().as_text()
    copies = re.findall(r"= \w+\[([\d,]+)\]\S* copy\(", text)
    assert [c for c in copies if math.prod(map(int, c.split(","))) >= size] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 0.01}, "floor >= k / K: got floor=0.01, k=6, K=90"),
        ({"floor": 1.5}, "0 < floor <= 1: got 1.5"),
        ({"rate": 0.0}, "0 < rate <= 1: got 0"),
        ({"score": "rnk"}, "did you mean 'rank'"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(InvalidConfig, match=message):
        importance.importance(K, ASKED, **options)
