"""Preconditions of rules, and the arguments that they accept."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.aggregators.registry import make
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import RULES, D, N, build, sample
from tests.helpers import assert_same


@pytest.mark.parametrize(
    ("text", "n", "message"),
    (
        ("krum:f=1", 4, "krum needs n >= 2f + 3: got n=4, f=1"),
        ("multi_krum:f=1", 4, "multi_krum needs n >= 2f + 3: got n=4, f=1"),
        ("multi_krum:f=2,m=6", 9, "multi_krum needs 1 <= m <= n - f - 2: got m=6, n=9, f=2"),
        (
            "multi_krum:f=2,m=8,neighbours=n-f-1",
            9,
            "multi_krum needs 1 <= m <= n - f: got m=8, n=9, f=2",
        ),
        ("multi_krum:f=2,m=0", 9, "multi_krum needs a whole number m >= 1: got 0"),
        ("multi_krum:f=2,m=most", 9, "needs m of n-f-2, n-f or a number: got 'most'"),
        ("bulyan:f=2", 10, "bulyan needs n >= 4f + 3: got n=10, f=2"),
        ("trimmed_mean:f=2", 4, "trimmed_mean needs n > 2f: got n=4, f=2"),
        ("meamed:f=2", 4, "meamed needs n > 2f: got n=4, f=2"),
        ("phocas:f=2", 4, "phocas needs n > 2f: got n=4, f=2"),
        (
            "comparative_elimination:f=3",
            6,
            "comparative_elimination needs n > 2f: got n=6, f=3",
        ),
        ("mda:f=2", 4, "mda needs n > 2f: got n=4, f=2"),
        ("mda:f=12", 30, "mda tries all C(n, f) <= 200,000 sets: got n=30, f=12"),
        ("nnm:f=2+mean", 4, "nnm needs n > 2f: got n=4, f=2"),
        ("arc:f=2+mean", 4, "arc needs n > 2f: got n=4, f=2"),
        ("nnm:f=1+krum:f=1", 4, "krum needs n >= 2f + 3: got n=4, f=1"),
        ("krum:f=-1", 9, "krum needs a whole number f >= 0: got -1"),
        ("trimmed_mean:f=1.5", 9, "trimmed_mean needs a whole number"),
        ("trimmed_mean:f=true", 9, "trimmed_mean needs a whole number"),
        ("nnm:f=many+mean", 9, "nnm needs a whole number"),
        ("krum:f=1,power=3", 9, "krum needs power 1, 2 or 4: got 3"),
        ("krum:f=1,neighbours=n", 9, "krum needs neighbours of n-f-2, n-f-1, n-f: got 'n'"),
        ("median:even=high", 9, "median needs even 'mean' or 'low': got 'high'"),
        ("cc:tau=0", 9, "centered_clipping needs tau > 0: got 0"),
        ("cc:tau=x", 9, "centered_clipping needs"),
        ("cc:iterations=0", 9, "centered_clipping needs a whole number iterations >= 1: got 0"),
        ("rfa:nu=0", 9, "rfa needs nu > 0: got 0"),
        ("rfa:iterations=0", 9, "rfa needs a whole number iterations >= 1: got 0"),
        ("rfa:start=one", 9, "rfa needs start of mean, zero, median: got 'one'"),
        ("geometric_median:iterations=0", 9, "needs a whole number iterations >= 1: got 0"),
        ("geometric_median:tolerance=0", 9, "geometric_median needs tolerance > 0: got 0"),
        ("iterative_filtering:f=2", 4, "iterative_filtering needs n > 2f: got n=4, f=2"),
        ("iterative_filtering:f=1,threshold=-1", 9, "needs threshold >= 0: got -1"),
        ("bgmd:block=0", 9, "block_geometric_median needs a whole number block >= 1: got 0"),
        ("bgmd:block=1.5", 9, "needs a fraction 0 < block <= 1: got 1.5"),
        ("bgmd:block=7", 9, "needs a block of at most d coordinates: got 7, d=6"),
        ("bgmd:score=mean", 9, "block_geometric_median needs score of norm, median"),
        ("bgmd:tolerance=0", 9, "block_geometric_median needs tolerance > 0: got 0"),
        ("clipping:c=-1+mean", 9, "clipping needs c > 0: got -1"),
        ("bucketing:s=0+mean", 9, "bucketing needs a whole number s >= 1: got 0"),
        ("trimmed_mean", 9, "trimmed_mean needs f, or a fraction"),
        ("trimmed_mean:f=1,fraction=0.1", 9, "trimmed_mean needs f, or a fraction"),
        ("trimmed_mean:fraction=-0.1", 9, "trimmed_mean needs 0 <= fraction < 0.5: got -0.1"),
    ),
)  # fmt: skip
def test_preconditions_name_their_numbers(text, n, message):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        make(text)(sample(n=n))


def test_preconditions_count_present_rows_where_the_mask_is_known():
    x, mask = sample(), np.arange(N) < 4
    message = re.escape("krum needs n >= 2f + 3: got n=4 present of 9 rows, f=1")
    for rule in (make("krum:f=1"), make("nnm+krum", f=1)):
        with pytest.raises(InvalidConfig, match=message):
            rule(x, mask)
        # Under jit the mask is not known, and f shrinks to what four rows admit, 0.
        got = jax.jit(rule)(x, jnp.asarray(mask))
        assert np.isfinite(got).all()
    np.testing.assert_array_equal(
        jax.jit(make("krum:f=1"))(x, jnp.asarray(mask)), make("krum:f=0")(x[:4])
    )


def test_accepted_and_refused_arguments():
    x = sample(1)
    rule = make("trimmed_mean:f=2")
    want = rule(x)
    kept = x.copy()
    for text in RULES:
        build(text, 1)(x)
    np.testing.assert_array_equal(x, kept)  # rules do not write to the caller's array
    assert_same(rule(list(x)), want)
    assert_same(rule([jnp.asarray(row) for row in x]), want)
    assert_same(rule(x.astype(np.float16)), rule(x.astype(np.float16).astype(np.float32)))
    assert rule(np.arange(12).reshape(6, 2)).dtype == np.float32
    np.testing.assert_array_equal(rule(np.arange(12).reshape(6, 2)), [5, 6])
    assert_same(make("mean")([[1, 2], [2, 4]]), jnp.asarray([1.5, 3.0]))
    assert_same(rule(x, [True] * N, start=jnp.zeros(D), key=jax.random.key(0)), want)
    for bad, message in (
        (x[0], "x of shape [n, d]: got shape (6,)"),
        (x[:0], "n >= 1: got n=0"),
        (x * 1j, "real numbers: got complex64"),
        ([[1.0, 2.0], [3.0]], "rows of one length"),
    ):
        with pytest.raises(InvalidConfig, match=re.escape(message)):
            rule(bad)
    with pytest.raises(InvalidConfig, match=re.escape("a mask of 9 rows: got shape (8,)")):
        rule(x, np.ones(8, bool))
