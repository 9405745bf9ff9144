"""The geometric median and centered clipping."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.aggregators.registry import make
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import (
    BOTH,
    D,
    sample,
    weiszfeld,
)
from tests.helpers import assert_same, float64


def test_geometric_median_stops_at_a_row_that_is_the_minimiser():
    # Three of five rows are the same: they are the minimiser and the median.
    x = np.asarray([[1, 1], [1, 1], [1, 1], [9, 0], [0, 7]], np.float32)
    np.testing.assert_array_equal(make("geometric_median")(x), [1, 1])
    # The coordinate-wise median is a row that is not the minimiser, and must be left.
    x = np.asarray([[0, 0], [3, 0.1], [3, -0.1], [-1, 3], [-1, -3]], np.float64)

    def objective(z):
        return np.sqrt(((x - z) ** 2).sum(1)).sum()

    assert (np.median(x, axis=0) == 0).all()
    away = np.sqrt((x[1:] ** 2).sum(1))[:, None]
    pull = np.linalg.norm((x[1:] / away).sum(0))
    assert pull > 1
    first = (1 - 1 / pull) * (x[1:] / away).sum(0) / (1 / away).sum()
    with float64():
        np.testing.assert_allclose(make("geometric_median:iterations=1")(x), first, atol=1e-12)
        z = np.asarray(make("geometric_median:iterations=1000,tolerance=1e-12")(x))
    around_z = [objective(z + 1e-3 * np.asarray(s)) for s in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    assert objective(z) < min(around_z)


def test_centered_clipping_continues_from_its_start():
    x = jnp.asarray(sample(8))
    rule = make("centered_clipping:tau=0.3")

    def advance(v, _):
        v = jax.lax.cond(v.sum() < jnp.inf, lambda v: rule(x, start=v), lambda v: v, v)
        return v, v

    last, _ = jax.lax.scan(advance, jnp.zeros(D), length=3)
    np.testing.assert_allclose(last, make("cc:tau=0.3,L=3")(x), rtol=1e-6, atol=1e-7)
    with pytest.raises(InvalidConfig, match=re.escape("start of shape (6,): got (5,)")):
        rule(x, start=jnp.zeros(5))


@functools.cache
def rows_and_median(seed):
    x = np.random.default_rng(seed).normal(size=(4 if seed == 48 else 9, 2))
    want = weiszfeld(x, x.mean(0) + 1e-3, 1e-12, 20_000)
    for row in x:  # a row may have a smaller cost than all points near it
        cost = [np.sqrt(((x - z) ** 2).sum(1)).sum() for z in (row, want)]
        want = row if cost[0] <= cost[1] + 1e-12 else want
    return x, want


@BOTH
@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
def test_geometric_median_is_found_wherever_it_lies(dtype, offset):
    """Also at one of the rows, towards which Weiszfeld's iteration converges slowly."""
    with float64():
        for seed in (8, 48, 3):
            x, want = rows_and_median(seed)
            got = np.asarray(make("geometric_median")((x + offset).astype(dtype))) - offset
            rounding = np.finfo(dtype).eps * max(offset, 1)
            assert np.abs(got - want).max() < max(20 * rounding, 1e-6)


def test_centered_clipping_recovers_from_a_start_that_is_not_finite():
    x = sample()
    rule = make("centered_clipping", tau=1.0)
    for bad in (np.nan, np.inf):
        start = np.zeros(D, np.float32)
        start[2] = bad
        assert_same(rule(x, start=start), rule(x))


@pytest.mark.parametrize("scale", [1e2, 1e8, 1e14])
def test_geometric_median_is_a_row_however_far_byzantine_rows_are(scale):
    """Distances to far rows are equal up to rounding, but the other distances still count."""
    rng, rule, found = np.random.default_rng(0), make("geometric_median"), 0
    for _ in range(20):
        x = rng.normal(size=(9, 3))
        x[1] = x[2:7].mean(axis=0)
        x[7:] = scale * rng.normal(size=(2, 3))
        x = x.astype(np.float32).astype(np.float64)
        away = np.delete(x - x[1], 1, axis=0)
        pull = np.linalg.norm((away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0))
        if pull < 0.99:
            found += 1
            np.testing.assert_array_equal(rule(x.astype(np.float32)), x[1])
    assert found > 1


def exact_geometric_median(x):
    """The minimiser by Newton's method in float64, with Weiszfeld's steps where it diverges."""

    def gradient(z):
        return ((z - x) / np.linalg.norm(x - z, axis=1)[:, None]).sum(axis=0)

    z = np.median(x, axis=0) + 1e-9
    for _ in range(2000):
        size = np.linalg.norm(x - z, axis=1)
        u = (x - z) / size[:, None]
        hessian = ((np.eye(len(z)) - u[:, :, None] * u[:, None]) / size[:, None, None]).sum(0)
        newton = z - np.linalg.solve(hessian, gradient(z))
        if np.linalg.norm(gradient(newton)) < 0.9 * np.linalg.norm(gradient(z)):
            z = newton
        else:
            z = z - gradient(z) / (1 / size).sum()
        if np.linalg.norm(gradient(z)) < 1e-11:
            return z
    raise AssertionError("the reference did not converge")


def test_byzantine_rows_far_away_cost_no_accuracy():
    """The minimiser hardly depends on how far they are, and the accuracy not at all."""
    rule, cases = jax.jit(make("geometric_median")), 0
    for seed in range(6):
        rng, byzantine = np.random.default_rng(seed), 1 + seed % 4
        for d in (2, 10):
            honest, towards = rng.normal(size=(11, d)), rng.normal(size=(byzantine, d))
            for scale in (1e1, 1e4, 1e8, 1e14):
                x = honest.copy()
                x[11 - byzantine :] = scale * towards
                x = x.astype(np.float32).astype(np.float64)
                got = np.asarray(rule(x.astype(np.float32)))
                if (got == x).all(axis=1).any():  # tested above
                    continue
                want = exact_geometric_median(x)
                usual = np.median(np.linalg.norm(x - want, axis=1))
                assert np.linalg.norm(got - want) < 1e-5 * usual, (seed, d, scale)
                cases += 1
    assert cases > 25


def test_byzantine_rows_choose_the_block_by_norms_and_not_by_medians():
    x = np.tile(np.array([3, 2, 1, 0.1, 0.1, 0.1], np.float32), (9, 1))
    x[:4] = [0, 0, 0, 0, 50, 50]
    by_norm, by_median = (make("bgmd", block=2, score=s)(x) for s in ("norm", "median"))
    np.testing.assert_array_equal(by_norm, np.array([0, 0, 0, 0, 0.1, 0.1], np.float32))
    np.testing.assert_array_equal(by_median, [3, 2, 0, 0, 0, 0])
