"""Rules that select rows by their distances."""

import itertools

import jax
import numpy as np
import pytest

from farsign_jax.aggregators import minimum_diameter
from farsign_jax.aggregators.registry import make
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import sample


def test_subsets_come_in_lexicographic_order():
    for n, f in ((5, 0), (5, 2), (6, 1), (7, 3)):
        want = [list(s) for s in itertools.combinations(range(n), n - f)]
        kept = jax.jit(minimum_diameter._subsets, static_argnums=(0, 1))(n, f)
        got = [list(np.flatnonzero(row)) for row in np.asarray(kept)]
        assert got == want
    np.testing.assert_array_equal(make("mda:f=1")([[0.0], [1], [2]]), [0.5])  # a tie


def test_strict_false_takes_the_largest_f_that_fits():
    x = sample()
    for text, most in (("krum", 3), ("multi_krum", 3), ("bulyan", 1)):
        with pytest.raises(InvalidConfig, match=f"{text} needs"):
            make(text, f=5)(x)
        got = make(text, f=5, strict=False)(x)
        np.testing.assert_array_equal(got, make(text, f=most)(x))
