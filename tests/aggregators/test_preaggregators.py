"""Clipping and bucketing before a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.aggregators import preaggregators
from farsign_jax.aggregators.registry import make
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import D, N, sample


def test_clipping_is_bounded():
    x = sample(6)
    start = np.full(D, 2, np.float32)
    step = make("centered_clipping:tau=0.5")(x, start=start) - start
    assert 0.1 < float(jnp.linalg.norm(step)) <= 0.5 * (1 + 1e-6)
    rows, _ = preaggregators.clipping(2.5)(x)
    lengths = np.linalg.norm(rows, axis=1)
    assert (lengths <= 2.5 * (1 + 1e-6)).all()
    short = np.linalg.norm(x, axis=1) <= 2.5
    np.testing.assert_array_equal(np.asarray(rows)[short], x[short])
    assert 0 < short.sum() < N
    rows, _ = preaggregators.arc(2)(x)
    changed = (np.asarray(rows) != x).any(1)
    assert changed.sum() == 2 * 2 * 7 // 9
    third = np.sort(np.linalg.norm(x, axis=1))[N - 3 - 1]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1).max(), third, rtol=1e-6)


def test_bucketing_shuffles_by_its_key():
    x = np.arange(1, 6, dtype=np.float32)[:, None]
    pre = preaggregators.bucketing(2)
    rows, mask = pre(x)
    np.testing.assert_array_equal(rows, [[1.5], [3.5], [5]])
    seen = set()
    for seed in range(8):
        rows, mask = pre(x, key=jax.random.key(seed))
        assert rows.shape == (3, 1) and mask.all()
        total = 2 * rows[0, 0] + 2 * rows[1, 0] + rows[2, 0]
        assert float(total) == 15
        seen.add(tuple(np.asarray(rows)[:, 0].tolist()))
    assert len(seen) > 3
    rows, mask = pre(x, np.asarray([False, True, True, False, True]))
    np.testing.assert_array_equal(mask, [True, True, False])
    np.testing.assert_array_equal(rows[:2], [[2.5], [5]])
    # In a pipeline, a single stage that draws gets the caller's key, several get one each.
    key = jax.random.key(3)
    np.testing.assert_array_equal(
        make("bucketing+median")(x, key=key), np.median(pre(x, key=key)[0], axis=0)
    )
    twice = make("bucketing+bucketing+mean")
    first, second = jax.random.split(key)
    rows, mask = pre(x, key=first)
    rows, mask = pre(rows, mask, key=second)
    np.testing.assert_allclose(twice(x, key=key), rows.mean(0), rtol=1e-6)
    # ceil(9 / 2) = 5 rows reach the rule.
    with pytest.raises(InvalidConfig, match="krum needs n >= 2f \\+ 3: got n=5, f=2"):
        make("bucketing+krum:f=2")(sample())
