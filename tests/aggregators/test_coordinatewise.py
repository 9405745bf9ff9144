"""Rules that treat each coordinate by itself."""

import re

import jax
import numpy as np
import pytest

from farsign_jax.aggregators import coordinatewise
from farsign_jax.aggregators.registry import make
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import D, sample


def test_trimmed_fraction_is_rounded_down():
    for n, fraction, f in (
        (10, 0.2, 2),
        (4, 0.2, 0),
        (100, 0.29, 29),
        (9, 0.1, 0),
        (9, 0.4, 3),
    ):
        assert coordinatewise._trimmed_counts(fraction, n)[n] == f
    x = sample(n=12)
    # The fraction is that of the 10 rows present, not of all 12.
    mask = np.arange(12) < 10
    want = make("trimmed_mean:f=2")(x[:10])
    np.testing.assert_allclose(make("trimmed_mean:fraction=0.2")(x[:12], mask), want, rtol=1e-6)
    with pytest.raises(InvalidConfig, match=re.escape("0 <= fraction < 0.5: got 0.5")):
        make("trimmed_mean:fraction=0.5")
    traced = jax.jit(lambda beta: make("trimmed_mean", fraction=beta)(x[:10]))(0.2)
    np.testing.assert_allclose(traced, want, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 6, 40])
def test_the_mean_of_two_middle_values_loses_no_number(n):
    """Their halves may be too small, and their sum too large, for float32."""
    small, large = np.float32(2.0**-126), np.finfo(np.float32).max
    others = np.repeat([[-large, large]], n // 2 - 1, axis=0).reshape(-1, 1)
    for pair, want in (((small, small), small), ((large / 2, large), large * 0.75)):
        x = np.concatenate([others, np.array(pair, np.float32)[:, None]])
        assert make("median")(x)[0] == np.float32(want)


def test_results_stay_within_the_honest_range():
    f, honest = 4, sample(4)[:5]
    low, high = honest.min(0), honest.max(0)
    for sent in (1e6, -1e6, 3e38, -3e38, 0.5):
        x = np.concatenate([np.full((f, D), sent, np.float32), honest])
        for text in ("median", "trimmed_mean:f=4", "meamed:f=4", "phocas:f=4"):
            got = np.asarray(make(text)(x))
            assert (got >= low - 1e-6).all() and (got <= high + 1e-6).all(), (text, sent)
