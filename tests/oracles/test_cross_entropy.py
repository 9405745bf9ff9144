"""The change of the loss along a line of logits: by its series, and by exponentials beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.oracles import cross_entropy
from tests import helpers

B, K, C = 8, 6, 5


def moves(scale, seed=0):
    """Logits, labels, rows and factors; no logit moves by more than `scale`, one does by it."""
    rng = np.random.default_rng(seed)
    rows, factor = rng.uniform(-1, 1, (K, C)), rng.uniform(-1, 1, (K, B))
    rows[0, 0], factor[0, 0] = 1.0, 1.0
    return rng.normal(0, 3, (B, C)), rng.integers(0, C, B), rows, scale * factor


def truth(logits, labels, rows, factor):
    """f64[K], in double precision, as differences of losses."""

    def loss(z):
        at_label = z[..., np.arange(B), labels]
        return np.log(np.exp(z).sum(-1)) - at_label

    moved = logits + factor[..., None] * rows[:, None]
    return (loss(moved) - loss(logits)).mean(-1)


@jax.jit
def answers(logits, labels, rows, factor):
    """Both directions, as a two-point difference needs them."""
    _, q = cross_entropy.gradient(logits, labels)
    return jnp.stack(cross_entropy.mean_changes(q, labels, rows, (factor, -factor)))


@pytest.mark.parametrize("times", [1e-3, 0.3, 0.999, 1.001, 3.0, 100.0])
def test_changes_are_exact_on_both_sides_of_the_reach(times):
    logits, labels, rows, factor = moves(times * cross_entropy.REACH)
    expected = np.stack([truth(logits, labels, rows, f) for f in (factor, -factor)])
    single = [jnp.asarray(a, jnp.float32) for a in (logits, rows, factor)]
    got = answers(single[0], jnp.asarray(labels), *single[1:])
    # Rounding is relative to the sizes that add up, not to a sum that may cancel.
    size = np.abs(factor).mean(-1) * np.abs(rows).max(-1)
    assert (np.abs(got - expected) <= 4e-7 * size).all()
    with helpers.float64():
        got = answers(logits, jnp.asarray(labels), rows, factor)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-15)


def test_a_run_batched_with_one_that_goes_far_gives_the_same_bits():
    near, far = moves(0.5 * cross_entropy.REACH), moves(5.0, seed=1)
    both = [
        jnp.stack([jnp.asarray(a), jnp.asarray(b)]).astype(
            jnp.int32 if np.asarray(a).dtype == np.int64 else jnp.float32
        )
        for a, b in zip(near, far, strict=True)
    ]
    side_by_side = jax.jit(jax.vmap(answers))(*both)
    for run in range(2):
        alone = answers(*(a[run] for a in both))
        np.testing.assert_array_equal(side_by_side[run], alone)


def test_what_is_not_finite_ends_and_stays_so():
    logits, labels, rows, factor = moves(1e-3)
    factor[3, 2] = np.nan
    got = np.asarray(answers(jnp.asarray(logits), jnp.asarray(labels), rows, factor))
    assert np.isnan(got[:, 3]).all() and np.isfinite(np.delete(got, 3, axis=1)).all()
