"""Distances between rows, and the sorting network."""

import jax
import numpy as np

from farsign_jax.aggregators import row_ops
from farsign_jax.aggregators.registry import make
from tests.aggregators.reference import around, sample, squares


def test_close_rows_far_from_the_origin():
    """Distances are computed from differences, as |a|^2 + |b|^2 - 2ab has no correct digit."""
    rng = np.random.default_rng(0)
    far = 1e4 * rng.normal(size=40_000)
    x = (far + 0.05 * rng.normal(size=(30, 40_000)) * rng.uniform(1, 2, (30, 1))).astype(
        np.float32
    )
    exact = squares(x.astype(np.float64))
    got = np.asarray(jax.jit(row_ops.square_distances)(x))
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_array_equal(np.diag(got), 0)
    n, f = 30, 6
    best = np.sort(exact, axis=1)[:, 1 : n - f - 1].sum(1).argmin()
    np.testing.assert_array_equal(make("krum", f=f)(x), x[best])
    gram = (x**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * x @ x.T
    assert np.abs(gram - exact).max() > 0.1 * exact.max()


def test_more_rows_than_a_network_sorts(monkeypatch):
    monkeypatch.setattr(row_ops, "NETWORK_ROWS", 5)
    x = sample(n=8, d=4)  # a shape that no other test uses, so that it is compiled here
    assert len(x) > row_ops.NETWORK_ROWS
    np.testing.assert_allclose(make("meamed:f=3")(x), around(x, 5), rtol=1e-5, atol=1e-6)
    mask = np.arange(8) != 3
    want = np.median(x[mask], axis=0)
    np.testing.assert_allclose(make("median")(x, mask), want, rtol=1e-6)


def test_network_sorts_any_number_of_rows():
    for n in range(1, 13):  # by the 0-1 principle: all inputs of zeros and ones
        bits = (np.arange(2**n)[None] >> np.arange(n)[:, None]) & 1
        rows = list(bits)
        for low, high in row_ops.network(n):
            rows[low], rows[high] = (
                np.minimum(rows[low], rows[high]),
                np.maximum(rows[low], rows[high]),
            )
        assert (np.diff(rows, axis=0) >= 0).all()
