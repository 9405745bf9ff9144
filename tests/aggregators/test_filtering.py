"""Iterative filtering: what it removes, and when it stops."""

import numpy as np

from farsign_jax.aggregators.registry import make
from tests.aggregators.reference import sample


def test_byzantine_rows_together_lose_their_weight_whatever_their_distances():
    rng = np.random.default_rng(0)
    honest, f = rng.normal(size=(34, 60)), 6
    mean = honest.mean(axis=0)
    # A small shift in every coordinate is large in one direction.
    together = np.tile(mean + 1, (f, 1))
    scales = rng.normal(size=(f, 60)) * np.geomspace(10, 1e14, f)[:, None]
    for forged in (together, scales):
        x = np.concatenate([honest, forged]).astype(np.float32)
        names = (f"iterative_filtering:f={f}", "median", "geometric_median")
        away = [np.linalg.norm(make(name)(x) - mean) for name in names]
        assert away[0] < 0.75 * min(away[1:]), away


def test_filter_stops_at_the_threshold():
    x = sample(4)
    variance = np.linalg.eigvalsh(np.cov(x.T, ddof=0))[-1]
    np.testing.assert_allclose(
        make("iterative_filtering", f=4, threshold=1.01 * variance)(x), x.mean(0), rtol=1e-5
    )
    below = make("iterative_filtering", f=4, threshold=0.99 * variance)(x)
    assert np.linalg.norm(below - x.mean(0)) > 0.5
    # The last two rows are far away, and two steps remove them.
    without = np.linalg.norm(below - x[:-2].mean(0))
    assert without < np.linalg.norm(below - x.mean(0))
