"""Schedules without times, and checks of schedules."""

import jax
import numpy as np
import pytest

from farsign_jax import arrivals
from farsign_jax.validation import InvalidConfig
from tests.arrivals.workers import EXP, KEY


def test_longer_schedules_begin_like_shorter_ones():
    for make in (
        lambda n: arrivals.Schedule(arrivals.uniform(KEY, 6, n)),
        lambda n: arrivals.Schedule(arrivals.weighted(KEY, [1.0, 2.0, 3.0], n)),
        lambda n: arrivals.Schedule(arrivals.sets(KEY, 6, n, 3)),
        lambda n: arrivals.rounds(KEY, [EXP] * 4, n, wait=2),
        lambda n: arrivals.rounds(KEY, [EXP] * 4, n, participation=0.6),
    ):
        full, part = make(60), make(23)
        assert part.workers.tobytes() == full.workers[:23].tobytes()
        assert part.times is None or part.times.tobytes() == full.times[:23].tobytes()


def test_rates_may_be_huge():
    drawn = arrivals.weighted(jax.random.key(0), [1e308, 1e308, 1e308], 3000)
    assert np.bincount(drawn, minlength=3).min() > 800


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (arrivals.Schedule(np.array([0, 1]), np.zeros(3)), r"per event: got \(3,\) for 2"),
        (arrivals.Schedule(np.array([0, 1]), np.zeros((2, 1))), "one time per event"),
        (arrivals.Schedule(np.array([0, 1]), np.array([0.0, -1])), "event 1 is at"),
        (arrivals.Schedule(np.array([0, 1]), np.array([np.nan, 1])), "event 0 is at"),
        (arrivals.Schedule(np.array([0, 1]), np.array([0, np.inf])), "event 1 is at"),
        (arrivals.Schedule(np.array([0, 1]), np.array([2.0, 1.0])), "times ascend: event 1"),
        (arrivals.Schedule(np.array([0, 3])), "names worker 3, but workers are 0..2"),
        (arrivals.Schedule(np.array([0, -1])), "names worker -1"),
        (arrivals.Schedule(np.array([0.0, 1.0])), "integer array"),
        (arrivals.Schedule(np.array([True])), "integer array"),
        (arrivals.Schedule(np.zeros((1, 1, 1), int)), "integer array"),
        (arrivals.Schedule(np.array([[0, 1], [1, 1]])), "event 1 of the schedule names"),
    ],
)
def test_bad_schedules_are_refused(schedule, message):
    with pytest.raises(InvalidConfig, match=message):
        arrivals.check_schedule(schedule, 3)


def test_a_checked_schedule_has_the_types_of_a_run():
    got = arrivals.check_schedule(arrivals.Schedule([[0, -1], [2, 1]], [0, 1]), 3)
    assert got.workers.dtype == np.int32 and got.times.dtype == np.float64
    assert arrivals.check_schedule([0, 1], 3).times is None
