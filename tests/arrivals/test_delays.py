"""Delay models: their distributions, and the options that they refuse."""

import dataclasses
import functools

import numpy as np
import pytest
import scipy.stats

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.validation import InvalidConfig
from tests.arrivals.workers import (
    EXP,
    KEY,
    MODELS,
    TIMED,
    delays_alone,
)


@pytest.mark.parametrize("name", MODELS | TIMED)
def test_two_draws_in_a_row_are_one_longer_draw(name):
    delay = (MODELS | TIMED)[name]
    full = delay.draw(np.random.default_rng(3), 0, 40)
    assert full.shape == (40,) and full.dtype == np.float64 and np.all(full >= 0)
    for cut in (1, 7, 33):
        rng = np.random.default_rng(3)
        parts = [delay.draw(rng, 0, cut), delay.draw(rng, cut, 40 - cut)]
        np.testing.assert_array_equal(np.concatenate(parts), full)


@pytest.mark.parametrize("shape", [2.5, 1.5, 0.8])
def test_pareto_has_its_tail(shape):
    took = delays.pareto(shape, 2.0).draw(np.random.default_rng(0), 0, 20_000)
    assert took.min() >= 2
    hill = 1 / np.mean(np.log(took / 2))  # the maximum likelihood estimate of the exponent
    assert abs(hill - shape) < 5 * shape / np.sqrt(20_000)
    assert scipy.stats.kstest(took, "pareto", (shape, 0, 2)).pvalue > 1e-3


def test_lognormal_has_its_mean_and_spread():
    took = delays_alone(delays.lognormal(3.0, 0.5))
    deviation = 3 * np.sqrt(np.expm1(0.25))
    assert abs(took.mean() - 3) < 5 * deviation / np.sqrt(20_000)
    assert abs(np.log(took).std() - 0.5) < 5 * 0.5 / np.sqrt(40_000)


def test_bimodal_is_slow_with_the_given_probability():
    took = delays_alone(delays.bimodal(1.0, 10.0, 0.1, 0.1))
    slow = took > 5
    assert abs(slow.mean() - 0.1) < 5 * np.sqrt(0.09 / 20_000)
    for part, centre in ((took[~slow], 1.0), (took[slow], 10.0)):
        assert 0.9 * centre - 1e-9 < part.min() and part.max() < 1.1 * centre + 1e-9
        assert abs(part.mean() - centre) < 5 * 0.1 * centre / np.sqrt(3 * len(part))


def test_speeds_fall_by_a_constant_factor():
    np.testing.assert_allclose(delays.geometric_speeds(3, 4.0), [1, 0.5, 0.25])
    np.testing.assert_array_equal(delays.geometric_speeds(5, 1.0), np.ones(5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: delays.make("deterministic", time=-1.0), "time >= 0: got -1"),
        (lambda: delays.make("deterministic", time=np.nan), "time >= 0: got nan"),
        (lambda: delays.make("deterministic", time=np.inf), "time >= 0: got inf"),
        (
            lambda: delays.make("deterministic", time="soon"),
            "needs a number for time: got 'soon'",
        ),
        (lambda: delays.make("exponential", mean=0.0), "mean > 0: got 0"),
        (lambda: delays.make("exponential", mean=-2), "mean > 0: got -2"),
        (lambda: delays.make("exponential", mean=np.nan), "mean > 0: got nan"),
        (lambda: delays.make("exponential", mean=np.inf), "mean > 0: got inf"),
        (lambda: delays.make("lognormal", sigma=-1.0), "sigma > 0: got -1"),
        (lambda: delays.make("pareto", shape=0.0), "shape > 0: got 0"),
        (lambda: delays.make("pareto", scale=-1.0), "scale > 0: got -1"),
        (lambda: delays.make("bimodal", share=1.5), "0 <= share <= 1: got 1.5"),
        (lambda: delays.make("bimodal", share=np.nan), "0 <= share <= 1: got nan"),
        (lambda: delays.make("bimodal", jitter=2.0), "0 <= jitter <= 1: got 2"),
        (lambda: delays.make("bimodal", slow=0.0), "slow > 0: got 0"),
        (lambda: delays.make("expnential"), "did you mean 'exponential'"),
        (lambda: delays.make("exponential", rate=2.0), "delay model 'exponential': .*rate"),
        (lambda: timing.apply_timing_attack(EXP, "floood"), "did you mean 'flood'"),
        (
            lambda: timing.apply_timing_attack(EXP, "flood", speed=2.0),
            "timing attack 'flood': .*speed",
        ),
        (lambda: timing.apply_timing_attack(EXP, "flood", rate=0.0), "rate > 0: got 0"),
        (lambda: timing.apply_timing_attack(EXP, "withhold", after=-1.0), "after >= 0: got -1"),
        (
            lambda: timing.apply_timing_attack(EXP, "withhold", after=np.nan),
            "after >= 0: got nan",
        ),
        (lambda: timing.apply_timing_attack(EXP, "max_stale", lag=0.0), "lag > 0: got 0"),
        (lambda: timing.apply_timing_attack(EXP, "burst", size=0), "size >= 1: got 0"),
        (lambda: timing.apply_timing_attack(EXP, "burst", size=2.5), "size >= 1: got 2.5"),
        (
            lambda: timing.apply_timing_attack(EXP, "burst", silence=np.nan),
            "silence > 0: got nan",
        ),
        (lambda: EXP.at_speed(0.0), "speed > 0, or it never answers: got 0"),
        (lambda: EXP.at_speed(-1.0), "speed > 0, or it never answers: got -1"),
        (lambda: EXP.at_speed(np.nan), "never answers: got nan"),
        (lambda: EXP.at_speed(np.inf), "finite speed > 0.*got inf"),
        (lambda: EXP.within((-1.0, 2.0)), "windows are"),
        (lambda: EXP.within((2.0, 1.0)), "windows are"),
        (lambda: EXP.within((0.0, 3.0), (2.0, 5.0)), "windows are"),
        (lambda: EXP.within((0.0, np.inf), (np.inf, np.inf)), "windows are"),
        (lambda: EXP.within((0.0, np.nan)), "windows are"),
        (lambda: EXP.within((0.0,)), "windows are"),
        (lambda: dataclasses.replace(EXP, windows=((np.nan, 1.0),)), "windows are"),
        (lambda: delays.geometric_speeds(3, 0.5), "spread >= 1: got 0.5"),
        (lambda: arrivals.weighted(KEY, [1.0, np.nan], 5), "worker 1 has rate nan"),
        (lambda: arrivals.weighted(KEY, [0.0, 1.0], 5), "worker 0 has rate 0"),
        (lambda: arrivals.weighted(KEY, [np.inf, 1.0], 5), "worker 0 has rate inf"),
        (lambda: arrivals.weighted(KEY, [], 5), "one rate per worker"),
    ],
)
def test_impossible_delays_are_refused(make, message):
    with pytest.raises(InvalidConfig, match=message):
        make()


def test_windows_must_be_pairs():
    """`within(0, 5)` is a likely mistake for `within((0, 5))`."""
    for windows in ((0.0, 5.0), ((0.0, 1.0, 2.0, 3.0),), ((0.0, 1.0), (2.0,)), (("a", "b"),)):
        with pytest.raises(InvalidConfig, match="windows are"):
            EXP.within(*windows)


@pytest.mark.parametrize("number", [np.float32(2), np.float64(2), np.int64(2), 2])
def test_options_may_be_numbers_of_numpy(number):
    make = functools.partial(delays.make, "exponential")
    want = arrivals.by_time(KEY, [make(mean=2.0)], 5).times
    np.testing.assert_allclose(arrivals.by_time(KEY, [make(mean=number)], 5).times, want)
    assert delays.make("deterministic", time=number).typical == 2
