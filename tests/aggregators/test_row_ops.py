"""Distances between rows, and the sorting network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.aggregators import row_ops
from farsign_jax.aggregators.registry import make
from tests import helpers
from tests.aggregators.reference import RULES, admitted, build, close, sample, scope, squares


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


MANY = row_ops.UNROLLED + 8
LOOPED = ("median", "trimmed_mean", "meamed", "bucketing:s=36+mean")


@pytest.mark.parametrize(
    "text", [*LOOPED, *helpers.slow([text for text in RULES if text not in LOOPED])]
)
def test_more_rows_than_are_unrolled(text):
    if text.startswith("bucketing:s"):
        x, mask = sample(n=MANY), np.arange(MANY) % 9 != 3
        good = x[mask].astype(np.float64)
        assert len(good) < 36
        close(make(text)(x, mask), good.mean(0), np.float32)
        return
    mask = np.arange(MANY) % 9 != 3
    f = min(admitted(text, mask.sum()), 1 if text == "mda" else 7)
    x = sample(n=MANY)
    x[5:12, :3] = x[5, :3]  # ties
    x[12:14, 0] = 0.0, -0.0
    x[14] = np.nan
    want = RULES[text][1](x[mask & (np.arange(MANY) != 14)].astype(np.float64), f)
    close(build(text, f)(x, mask), want, np.float32)


def equations(jaxpr):
    count = 0
    for equation in jaxpr.eqns:
        inner = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
        )
        count += 1 + sum(equations(p.jaxpr) for p in inner if hasattr(p, "jaxpr"))
    return count


@pytest.mark.parametrize("text", [*RULES, "bucketing:s=40+mean"])
def test_programs_do_not_grow_with_the_number_of_rows(text):
    rule = build(text, 1) if text in RULES else make(text)
    sizes = [
        equations(jax.make_jaxpr(rule)(jax.ShapeDtypeStruct((n, 2), np.float32)).jaxpr)
        for n in (2000, 10_000)
    ]
    assert sizes[0] == sizes[1]


def test_values_by_bisection():
    """Any floats, of both signs and from the smallest to the largest, in float64 as well."""
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        special = [0, info.tiny, info.smallest_subnormal, info.max, 1, 1 + info.eps]
        x = np.asarray(special + [-s for s in special] * 3, dtype)
        x = np.random.default_rng(0).permuted(np.tile(x[:, None], (1, 4)), axis=0)
        with scope(dtype):
            for place in (0, 5, 11, 12, 23):
                (got,) = row_ops.ranked(jnp.asarray(x), jnp.int32(place))
                np.testing.assert_array_equal(got, np.sort(x, axis=0)[place])


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
