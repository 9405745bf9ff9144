"""A verdict needs a difference beyond its interval over pairs of seeds."""

import numpy as np
import pytest
from scipy import stats

from farsign_jax.harness import verdicts


def test_the_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        ours, theirs = rng.normal(0.9, 0.01, count), rng.normal(0.88, 0.02, count)
        found = verdicts.paired(ours, theirs)
        interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        low, high = found.mean - found.half_width, found.mean + found.half_width
        np.testing.assert_allclose([low, high], interval, rtol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs", "points", "verdict"),
    [
        ([0.91, 0.92, 0.93], [0.90, 0.91, 0.92], "+1.0 ± 0.0", "ahead"),
        ([0.91, 0.80, 0.93], [0.90, 0.91, 0.92], "-3.0 ± 17.2", "level"),
        ([0.5, 0.51], [0.9, 0.9], "-39.5 ± 6.4", "behind"),
        ([0.9], [0.8], "+10.0", "one seed"),
        ([0.9, 0.9], [0.9, 0.9], "+0.0 ± 0.0", "level"),
    ],
)
def test_verdicts(ours, theirs, points, verdict):
    found = verdicts.paired(ours, theirs)
    assert (found.points, found.verdict) == (points, verdict)


def test_luck_of_equal_methods_is_level_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(4000, 2, 5))
    level = [verdicts.paired(a, b).verdict == "level" for a, b in draws]
    assert abs(np.mean(level) - 0.95) < 0.015
