"""Timing attacks: what they do to delays, and that honest workers are not affected."""

import numpy as np
import pytest

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from tests.arrivals.workers import EXP, KEY, ONE, delays_alone


@pytest.mark.parametrize("attack", ["flood:", "withhold:3", "max_stale:", "burst:"])
def test_timing_attacks_do_not_change_the_streams_of_others(attack):
    """Common random numbers: two runs differ only in what the Byzantine workers do."""
    name, _, after = attack.partition(":")
    honest = [delays.lognormal(), delays.pareto(1.5), EXP, delays.bimodal()]
    attacked = timing.apply_timing_attack(honest[1], name, **({"after": 3.0} if after else {}))
    a = arrivals.by_time(KEY, honest, 150)
    b = arrivals.by_time(KEY, [honest[0], attacked, *honest[2:]], 150)
    for i in (0, 2, 3):
        mine, theirs = a.times[a.workers == i], b.times[b.workers == i]
        common = min(len(mine), len(theirs))
        assert common > 5
        np.testing.assert_array_equal(mine[:common], theirs[:common])
    mine, theirs = a.times[a.workers == 1], b.times[b.workers == 1]
    common = min(len(mine), len(theirs))
    if name == "flood":
        np.testing.assert_allclose(theirs[:common] * 10, mine[:common], rtol=1e-12)
        assert len(theirs) > 2 * len(mine)
    elif name == "max_stale":
        late = mine[:common] + 10 * np.arange(1, common + 1)
        np.testing.assert_allclose(theirs[:common], late, rtol=1e-12)
    elif name == "withhold":
        np.testing.assert_array_equal(theirs, mine[mine <= 3])
    else:
        silences = 10.0 * (np.arange(len(theirs)) // 10 + 1)
        np.testing.assert_array_equal(theirs, silences)


def test_timing_attacks_match_their_definitions():
    assert delays_alone(timing.flood(ONE, 4.0), 8).tolist() == [0.25] * 8
    assert delays_alone(timing.max_stale(ONE, 4.0), 8).tolist() == [5.0] * 8
    assert delays_alone(timing.burst(ONE, 4.0, 3), 8).tolist() == [4, 0, 0, 4, 0, 0, 4, 0]
    quiet = arrivals.by_time(KEY, [timing.withhold(ONE, 3.0), ONE], 20)
    assert quiet.times[quiet.workers == 0].tolist() == [1, 2, 3]
