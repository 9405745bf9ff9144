"""Schedules of workers that answer one by one, against a heap that is written from scratch."""

import jax
import numpy as np
import pytest
import scipy.stats

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.validation import InvalidConfig
from tests.arrivals.workers import (
    ALIKE,
    EXP,
    KEY,
    MODELS,
    ONE,
    TIMED,
    WINDOWED,
    ZERO,
    simulated,
    table,
)


@pytest.mark.parametrize("name", ALIKE | WINDOWED)
def test_schedules_equal_a_heap_to_the_last_bit(name):
    models = (ALIKE | WINDOWED)[name]
    last = 1 if name == "withhold" else 150  # its workers give few answers
    events = len(simulated(KEY, models, last if name != "withhold" else 10**6)[0])
    for count in (0, 1, events // 3, events):
        workers, times = simulated(KEY, models, count)
        vectorised = arrivals.by_time(KEY, models, count)
        by_heap = arrivals.by_heap(KEY, models, count)
        for schedule in (vectorised, by_heap):
            assert schedule.workers.dtype == np.int32 and schedule.times.dtype == np.float64
            np.testing.assert_array_equal(schedule.workers, workers)
            np.testing.assert_allclose(schedule.times, times, rtol=1e-12, atol=0)
        assert vectorised.times.tobytes() == by_heap.times.tobytes()
        if name in ALIKE and name != "withhold":  # without windows there is no further rounding
            assert vectorised.times.tobytes() == times.tobytes()
        arrivals.check_schedule(vectorised, len(models))


def test_random_workers_equal_a_heap():
    rng = np.random.default_rng(0)
    pool = [*MODELS.values(), *TIMED.values(), ONE, ONE]
    for trial in range(40):
        models = []
        for _ in range(rng.integers(1, 7)):
            delay = pool[rng.integers(len(pool))].at_speed(2.0 ** rng.integers(-4, 5))
            if rng.random() < 0.5:
                ends = np.cumsum(rng.integers(0, 12, 2 * rng.integers(1, 5))).astype(float)
                if rng.random() < 0.5:
                    ends[-1] = np.inf
                delay = delay.within(*ends.reshape(-1, 2).tolist())
            models.append(delay)
        key = jax.random.key(trial)
        workers, times = simulated(key, models, 120)
        got, slow = (
            make(key, models, len(times)) for make in (arrivals.by_time, arrivals.by_heap)
        )
        np.testing.assert_array_equal(got.workers, workers)
        np.testing.assert_allclose(got.times, times, rtol=1e-12, atol=1e-12)
        assert got.workers.tobytes() == slow.workers.tobytes()
        assert got.times.tobytes() == slow.times.tobytes()
        if len(times) < 120:  # all workers are dead, and both functions say so
            message = f"all workers are dead after {len(times)} of 120 events"
            for make in (arrivals.by_time, arrivals.by_heap):
                with pytest.raises(InvalidConfig, match=message):
                    make(key, models, 120)


def test_order_of_answers_at_the_same_time():
    """At equal times, fewer earlier answers come first, then the smaller id."""
    models = [ONE.at_speed(0.5), ONE, ZERO.within((2, 2)), ONE]
    got = arrivals.by_time(KEY, models, 12)
    # At 2 s: worker 0 gives its answer number 0, worker 2 its numbers 0, 1, 2 and so on.
    assert got.workers.tolist() == [1, 3, 0, 2, 1, 2, 3, *[2] * 5]
    assert got.times.tolist() == [1, 1, *[2] * 10]


def test_a_window_stops_the_work_and_keeps_it():
    work = delays.deterministic(2.0).within((1.0, 2.0), (5.0, 6.0), (10.0, 13.0))
    got = arrivals.by_time(KEY, [work, ONE], 14)
    own = got.times[got.workers == 0].tolist()
    assert own == [6.0, 12.0]  # one second of each of the first two windows, then two of three
    with pytest.raises(InvalidConfig, match="all workers are dead after 2 of 3"):
        arrivals.by_time(KEY, [work], 3)


def test_dead_workers_never_arrive():
    models = [EXP.within(), EXP, EXP.within((0.0, 20.0)), timing.withhold(EXP)]
    got = arrivals.by_time(KEY, models, 200)
    assert set(got.workers.tolist()) == {1, 2}
    assert got.times[got.workers == 2].max() <= 20 < got.times[-1]
    late = arrivals.by_time(KEY, [EXP, EXP.within((30.0, np.inf))], 200)
    assert late.times[late.workers == 1].min() > 30


@pytest.mark.parametrize("make", [arrivals.by_time, arrivals.by_heap])
def test_a_longer_schedule_begins_like_a_shorter_one(make):
    for models in (ALIKE["all_kinds"], ALIKE["twenty_in_step"], WINDOWED["pauses"]):
        full = make(KEY, models, 120)
        for count in (0, 1, 17, 119):
            part = make(KEY, models, count)
            assert part.workers.tobytes() == full.workers[:count].tobytes()
            assert part.times.tobytes() == full.times[:count].tobytes()


def test_keys_and_workers_have_different_streams():
    models = [EXP] * 3
    a, b = (arrivals.by_time(jax.random.key(s), models, 50) for s in (0, 1))
    assert not np.array_equal(a.times, b.times)
    firsts = [a.times[a.workers == i][0] for i in range(3)]
    assert len(set(firsts)) == 3


def test_arrivals_are_proportional_to_speeds():
    speeds = np.array([1.0, 2.0, 4.0, 8.0, 5.0])
    even = arrivals.by_time(KEY, [ONE.at_speed(s) for s in speeds], 4000)
    counts = np.bincount(even.workers, minlength=5)
    np.testing.assert_allclose(counts, 4000 * speeds / speeds.sum(), atol=1.5)
    drawn = arrivals.by_time(KEY, [EXP.at_speed(s) for s in speeds], 20_000)
    counts = np.bincount(drawn.workers, minlength=5)
    assert scipy.stats.chisquare(counts, 20_000 * speeds / speeds.sum()).pvalue > 1e-3


def test_exponential_delays_give_the_distribution_of_weighted():
    """The next worker does not depend on the last one, and gaps are exponential."""
    speeds = np.array([1.0, 3.0, 6.0])
    rates = speeds / speeds.sum()
    models = [delays.exponential().at_speed(s) for s in speeds]
    clock = arrivals.by_time(KEY, models, 20_001)
    law = arrivals.weighted(jax.random.key(11), speeds, 20_001)
    for workers in (clock.workers, law):
        pairs = np.zeros((3, 3))
        np.add.at(pairs, (workers[:-1], workers[1:]), 1)
        want = 20_000 * np.outer(rates, rates)
        assert scipy.stats.chisquare(pairs.ravel(), want.ravel()).pvalue > 1e-3
    gaps = np.diff(clock.times, prepend=0.0) * speeds.sum()
    assert scipy.stats.kstest(gaps, "expon").pvalue > 1e-3


@pytest.mark.parametrize("make", [arrivals.by_time, arrivals.by_heap])
@pytest.mark.parametrize(
    ("models", "events", "message"),
    [
        ([], 3, "at least one worker"),
        ([EXP], -1, "num_events >= 0: got -1"),
        ([EXP.within(), EXP.within()], 5, "all workers are dead after 0 of 5 events"),
        ([timing.withhold(EXP)] * 2, 5, "all workers are dead after 0 of 5 events"),
        ([ONE.within((0, 2)), ONE.within((1, 4))], 9, "all workers are dead after 5 of 9"),
        ([table(1.0, np.inf)] * 3, 9, "all workers are dead after 3 of 9 events"),
        ([EXP, table(1.0, -1.0)], 9, "seconds >= 0: worker 1 took -1"),
        ([EXP, table(1.0, np.nan)], 9, "seconds >= 0: worker 1 took nan"),
    ],
)
def test_impossible_workers_are_refused(make, models, events, message):
    with pytest.raises(InvalidConfig, match=message):
        make(KEY, models, events)
