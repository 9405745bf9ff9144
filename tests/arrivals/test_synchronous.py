"""Schedules of rounds, against a loop over rounds."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.validation import InvalidConfig
from tests.arrivals.workers import ALIKE, EXP, KEY, ONE, WINDOWED, ZERO, table
from tests.helpers import at_wall, stream


def rounds_by_hand(key, models, num_rounds, wait=None, present=None):
    """Rounds one by one; `present` lists the workers of each round, None stands for all."""
    rngs = [stream(key, i) for i in range(len(models))]
    now, received, times = 0.0, [], []
    for r in range(num_rounds):
        took = [float(s.draw(g, r, 1)[0]) for s, g in zip(models, rngs, strict=True)]
        done = []
        for i in range(len(models)) if present is None else present[r]:
            left = [(max(b, now), e) for b, e in models[i].windows if e >= now]
            done.append((at_wall(left, took[i]), i))
        done = sorted(done)[:wait]
        now = max((time for time, _ in done), default=now)
        received.append(sorted(i for _, i in done))
        times.append(now)
    return received, times


def unpadded(schedule):
    return [[i for i in row if i >= 0] for row in schedule.workers.tolist()]


ROUNDS = {name: ALIKE[name] for name in ("all_kinds", "twenty_in_step", "bimodal", "table")} | {
    "joins_and_pauses": [
        EXP.within((3, 5), (8, np.inf)), EXP, delays.lognormal().within((0, 2), (30, np.inf)),
        delays.pareto(1.1),
    ],
    "ends_exactly": [ONE.within((0, 3), (7, 9), (9, 10), (12, np.inf)), ONE, ONE, ZERO],
    "joins_again_and_again": [*WINDOWED["longer_than_any_window"], ONE],
}  # fmt: skip


@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("mode", ["barrier", "fastest", "partial"])
def test_rounds_equal_a_loop(name, mode):
    models = ROUNDS[name]
    m = len(models)
    options = {"barrier": {}, "fastest": {"wait": m // 2}, "partial": {"participation": 0.4}}
    got = arrivals.rounds(KEY, models, 30, **options[mode])
    present = unpadded(got) if mode == "partial" else None  # participation is tested below
    received, times = rounds_by_hand(KEY, models, 30, options[mode].get("wait"), present)
    assert got.workers.dtype == np.int32 and got.times.dtype == np.float64
    assert got.workers.shape == (30, m // 2 if mode == "fastest" else m)
    assert unpadded(got) == received
    np.testing.assert_allclose(got.times, times, rtol=1e-12, atol=0)
    padding = got.workers == -1  # follows the ascending ids
    assert np.all(np.diff(padding.astype(int), axis=1) >= 0)
    arrivals.check_schedule(got, m)


@pytest.mark.parametrize("name", ROUNDS)
def test_waiting_for_fewer_workers_never_takes_longer(name):
    models = ROUNDS[name]
    m = len(models)
    ends = [arrivals.rounds(KEY, models, 30, wait=q).times for q in range(1, m + 1)]
    for sooner, later in itertools.pairwise(ends):
        assert np.all(sooner <= later)
        if "ends" not in name and "joins" not in name:  # then in every round
            lasts = [np.diff(t, prepend=0.0) for t in (sooner, later)]
            assert np.all(lasts[0] <= lasts[1] + 1e-9)
    barrier = arrivals.rounds(KEY, models, 30)
    np.testing.assert_array_equal(ends[-1], barrier.times)


def test_ties_at_the_end_of_a_round_go_to_the_smaller_ids():
    got = arrivals.rounds(KEY, [ONE, ONE.at_speed(2.0), ONE, ONE], 3, wait=3)
    assert got.workers.tolist() == [[0, 1, 2]] * 3 and got.times.tolist() == [1, 2, 3]


def test_workers_take_part_with_the_given_probability():
    got = arrivals.rounds(KEY, [ONE] * 5, 4000, participation=0.3)
    present = np.zeros((4000, 5), bool)
    for r, row in enumerate(unpadded(got)):
        present[r, row] = True
    assert np.all(np.abs(present.mean(0) - 0.3) < 5 * np.sqrt(0.21 / 4000))
    sizes = np.bincount(present.sum(1), minlength=6)
    want = 4000 * scipy.stats.binom.pmf(np.arange(6), 5, 0.3)
    assert scipy.stats.chisquare(sizes, want).pvalue > 1e-3
    empty = ~present.any(1)
    assert empty.any()  # a round without workers takes no time
    np.testing.assert_array_equal(np.diff(got.times, prepend=0.0), np.where(empty, 0.0, 1.0))


def test_participation_is_independent_of_delays():
    """They have separate streams: workers are not slower in rounds that they take part in."""
    straggler = delays.bimodal(1.0, 10.0, share=0.5, jitter=0.0)
    for straggles in (0, 1):
        models = [straggler if i == straggles else ONE for i in range(2)]
        got = arrivals.rounds(KEY, models, 2000, participation=0.5)
        took = np.diff(got.times, prepend=0.0)
        present = np.array([straggles in row for row in unpadded(got)])
        slow = took[present] > 5
        assert abs(slow.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(slow))


def test_no_rounds_are_an_empty_schedule():
    got = arrivals.rounds(KEY, [EXP] * 3, 0)
    assert got.workers.shape == (0, 3) and got.times.shape == (0,)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([ONE, ONE.within((0, 2.5))], {}, r"round 2 waits for worker 1.*dead at 2 s"),
        ([ONE, ONE.within()], {}, r"round 0 waits for worker 1, which is dead at 0 s"),
        ([ONE, ONE.within(), ONE.within()], {"wait": 2}, "wait for fewer than 2"),
        ([ONE.within()] * 2, {"participation": 0.5}, "which is dead at 0 s"),
        ([ONE, table(np.inf)], {}, r"round 0 waits for worker 1"),
        ([ONE] * 3, {"wait": 4}, "1 <= wait <= workers: got wait=4, workers=3"),
        ([ONE] * 3, {"wait": 0}, "got wait=0"),
        ([ONE] * 3, {"participation": 0.0}, "0 < participation <= 1: got 0.0"),
        ([ONE] * 3, {"participation": 1.5}, "0 < participation <= 1: got 1.5"),
        ([ONE] * 3, {"participation": np.nan}, "0 < participation <= 1: got nan"),
        ([ONE] * 3, {"wait": 2, "participation": 0.5}, "cannot be combined"),
        ([], {}, "at least one worker"),
        ([ONE, table(1.0, -2.0)], {}, "seconds >= 0: worker 1 took -2"),
        ([ONE, table(1.0, np.nan)], {}, "seconds >= 0: worker 1 took nan"),
    ],
)
def test_impossible_rounds_are_refused(models, options, message):
    with pytest.raises(InvalidConfig, match=message):
        arrivals.rounds(KEY, models, 5, **options)


def test_rounds_continue_without_dead_workers_that_are_not_needed():
    got = arrivals.rounds(KEY, [ONE, ONE.within((0, 2.5)), ONE], 10, wait=2)
    assert unpadded(got) == [[0, 1], [0, 1], *[[0, 2]] * 8]


def test_vectorised_rounds_equal_those_with_windows():
    """Rounds are computed at once, or one by one if a worker has windows, here idle ones."""
    key, models = jax.random.key(3), [delays.pareto(1.5)] * 6
    for options in ({}, {"wait": 4}, {"participation": 0.4}):
        quick = arrivals.rounds(key, models, 300, **options)
        late = [s.within((0.0, 1e9), (1e9, np.inf)) for s in models]
        slow = arrivals.rounds(key, late, 300, **options)
        np.testing.assert_array_equal(quick.workers, slow.workers)
        np.testing.assert_array_equal(quick.times, slow.times)
