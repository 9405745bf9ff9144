"""Schedules against a heap written here from scratch, and against the laws they promise."""

import dataclasses
import functools
import heapq
import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.arrivals.delays import DelayModel
from farsign_jax.attacks import timing
from farsign_jax.validation import InvalidConfig

KEY = jax.random.key(7)


def stream(key, worker):
    """The generator of one worker, as the library documents it to be."""
    return np.random.default_rng([*np.asarray(jax.random.key_data(key)), worker])


def at_wall(windows, work):
    """When somebody who works only in these windows has worked for so long, step by step."""
    for begin, end in windows:
        if work <= end - begin:
            return begin + work
        work -= end - begin
    return np.inf


def simulated(key, fleet, num_events):
    """A heap of answers to come, one service time drawn at a time."""
    rngs = [stream(key, i) for i in range(len(fleet))]
    work, number, heap, heard = [0.0] * len(fleet), [0] * len(fleet), [], []

    def ask(i):
        (took,) = fleet[i].draw(rngs[i], number[i], 1)
        work[i] += float(took)
        time = at_wall(fleet[i].windows, work[i])
        if time < np.inf:
            heapq.heappush(heap, (time, number[i], i))
        number[i] += 1

    for i in range(len(fleet)):
        ask(i)
    while heap and len(heard) < num_events:
        time, _, i = heapq.heappop(heap)
        heard.append((i, time))
        ask(i)
    workers, times = zip(*heard, strict=True) if heard else ((), ())
    return np.array(workers, np.int32), np.array(times, np.float64)


def table(*seconds):
    """A worker whose service times are these, again and again."""
    seconds = np.asarray(seconds, np.float64)
    return DelayModel(
        lambda rng, first, count: seconds[np.arange(first, first + count) % len(seconds)],
        1.0,
    )


MODELS = {
    "deterministic": delays.deterministic(0.75),
    "exponential": delays.exponential(2.0),
    "lognormal": delays.lognormal(1.0, 1.5),
    "pareto": delays.pareto(2.5),
    "pareto_infinite_variance": delays.pareto(1.5, 0.5),
    "pareto_infinite_mean": delays.pareto(0.6),
    "bimodal": delays.bimodal(1.0, 20.0, 0.2),
    "bimodal_mostly_slow": delays.bimodal(1.0, 20.0, 0.9, jitter=1.0),
    "table": table(0.0, 1.0, 0.0, 0.0, 2.5),
}
TIMED = {
    "flood": timing.flood(delays.exponential(), 7.0),
    "withhold": timing.withhold(delays.exponential(), 12.0),
    "max_stale": timing.max_stale(delays.lognormal(), 5.0),
    "burst": timing.burst(delays.exponential(), 4.0, 6),
    "burst_of_one": timing.burst(delays.exponential(), 4.0, 1),
    "slowed": delays.pareto(1.2).at_speed(0.3),
    "flood_of_bursts": timing.flood(timing.burst(delays.exponential(), 4.0, 6), 3.0),
    "stale_bursts": timing.max_stale(timing.burst(delays.exponential(), 4.0, 6), 0.5),
}
ONE, ZERO, EXP = delays.deterministic(1.0), delays.deterministic(0.0), MODELS["exponential"]
ALIKE = {name: [model] * 5 for name, model in (MODELS | TIMED).items()} | {
    "speeds": [model.at_speed(2.0**-i) for i, model in enumerate(MODELS.values())],
    "a_thousand_times_as_fast": [EXP.at_speed(s) for s in (1000.0, 1.0, 30.0)],
    "everybody": [*MODELS.values(), *(s for n, s in TIMED.items() if n != "withhold")],
    "alone": [delays.lognormal()],
    "alone_at_once": [ZERO],
    "twenty_in_step": [ONE] * 20,
    "in_step_at_whole_ratios": [ONE.at_speed(s) for s in (1.0, 2.0, 4.0, 0.5, 1.0)],
    # `typical` only says how far to draw ahead: however wrong, the events are the same.
    "not_as_typical_as_they_say": [
        dataclasses.replace(s, typical=t)
        for s, t in ((EXP, 1e-6), (EXP, 1.0), (EXP, 1e3), (delays.pareto(0.8), 1e-3))
    ],
    "at_once_and_not_as_typical": [dataclasses.replace(ZERO, typical=t) for t in (1.0, 1e3)],
    "two_at_once_starve_the_rest": [ONE, ZERO, EXP, ZERO],
    "half_of_the_answers_at_once": [table(0.0, 1.0), table(1.0, 0.0), ONE, table(0, 0, 2)],
}
WINDOWED = {
    "pauses": [EXP.within((0, 3), (8, 9), (20, np.inf)), EXP, EXP.within((2, 5), (9, np.inf))],
    "dies": [EXP.within((0, 10)), EXP, EXP.within((0, 0.01))],
    "joins_late": [EXP, EXP.within((15, np.inf)), EXP.within((1e6, np.inf))],
    "returns": [EXP.within((0, 4), (30, np.inf)), delays.pareto(0.9).within((1, 2), (3, 99))],
    "only_one_survives": [EXP.within((0, 5)), EXP.within(), ONE],
    "nobody_for_a_while": [EXP.within((0, 2), (50, np.inf)), EXP.within((0, 1), (60, 70))],
    # Whole numbers: answers fall exactly on ends and begins.
    "ends_exactly": [
        ONE.within((0, 3), (7, 9), (9, 10), (12, np.inf)),
        ONE.within((0, 3)),
        ONE,
    ],
    "longer_than_any_window": [
        delays.deterministic(5.0).within(*((2 * t, 2 * t + 1) for t in range(300))),
        ONE.within((0, 2), (2, 2), (4, np.inf)),
    ],
    "at_once_within_windows": [
        ZERO.within((5, np.inf)),
        table(0.0, 1.0).within((2, 3), (4, 6), (8, np.inf)),
        ONE,
        table(2.0, 0.0).within((0, 2), (3, 5)),
    ],
    "empty_windows": [ONE.within((0, 0), (1, 3), (3, 3), (5, np.inf)), ZERO.within((2, 2))] * 2,
    "timing_within_windows": [
        timing.flood(EXP.within((0, 5), (9, np.inf)), 5.0),
        timing.withhold(EXP.within((0, 5), (9, np.inf)), 11.0),
        timing.withhold(EXP.within((0, 5), (9, np.inf)), 7.0),
        timing.withhold(EXP),
        timing.max_stale(EXP.within((2, 30)), 3.0),
        timing.burst(EXP.within((1, 9), (20, np.inf)), 2.0, 5),
    ],
}


@pytest.mark.parametrize("name", ALIKE | WINDOWED)
def test_schedules_equal_a_heap_to_the_last_bit(name):
    fleet = (ALIKE | WINDOWED)[name]
    last = 1 if name == "withhold" else 150  # its workers say little before they fall silent
    events = len(simulated(KEY, fleet, last if name != "withhold" else 10**6)[0])
    for count in (0, 1, events // 3, events):
        workers, times = simulated(KEY, fleet, count)
        vectorised = arrivals.by_time(KEY, fleet, count)
        by_heap = arrivals.by_heap(KEY, fleet, count)
        for schedule in (vectorised, by_heap):
            assert schedule.workers.dtype == np.int32 and schedule.times.dtype == np.float64
            np.testing.assert_array_equal(schedule.workers, workers)
            np.testing.assert_allclose(schedule.times, times, rtol=1e-12, atol=0)
        assert vectorised.times.tobytes() == by_heap.times.tobytes()
        if name in ALIKE and name != "withhold":  # no windows, so no rounding of its own
            assert vectorised.times.tobytes() == times.tobytes()
        arrivals.check_schedule(vectorised, len(fleet))


def test_random_fleets_equal_a_heap():
    rng = np.random.default_rng(0)
    pool = [*MODELS.values(), *TIMED.values(), ONE, ONE]
    for trial in range(40):
        fleet = []
        for _ in range(rng.integers(1, 7)):
            service = pool[rng.integers(len(pool))].at_speed(2.0 ** rng.integers(-4, 5))
            if rng.random() < 0.5:
                ends = np.cumsum(rng.integers(0, 12, 2 * rng.integers(1, 5))).astype(float)
                if rng.random() < 0.5:
                    ends[-1] = np.inf
                service = service.within(*ends.reshape(-1, 2).tolist())
            fleet.append(service)
        key = jax.random.key(trial)
        workers, times = simulated(key, fleet, 120)
        got, slow = (
            make(key, fleet, len(times)) for make in (arrivals.by_time, arrivals.by_heap)
        )
        np.testing.assert_array_equal(got.workers, workers)
        np.testing.assert_allclose(got.times, times, rtol=1e-12, atol=1e-12)
        assert got.workers.tobytes() == slow.workers.tobytes()
        assert got.times.tobytes() == slow.times.tobytes()
        if len(times) < 120:  # everybody is dead by then: both must say so, with the same words
            says = f"all workers are dead after {len(times)} of 120 events"
            for make in (arrivals.by_time, arrivals.by_heap):
                with pytest.raises(InvalidConfig, match=says):
                    make(key, fleet, 120)


def test_ties_are_heard_in_turn():
    """Equal times: who gave fewer answers first, then the smaller id."""
    fleet = [ONE.at_speed(0.5), ONE, ZERO.within((2, 2)), ONE]
    got = arrivals.by_time(KEY, fleet, 12)
    # At 2 s: worker 0 gives its answer number 0, worker 2 its numbers 0, 1, 2 and so on.
    assert got.workers.tolist() == [1, 3, 0, 2, 1, 2, 3, *[2] * 5]
    assert got.times.tolist() == [1, 1, *[2] * 10]


def test_a_window_stops_the_work_and_keeps_it():
    work = delays.deterministic(2.0).within((1.0, 2.0), (5.0, 6.0), (10.0, 13.0))
    got = arrivals.by_time(KEY, [work, ONE], 14)
    mine = got.times[got.workers == 0].tolist()
    assert mine == [6.0, 12.0]  # one second of each of the first two windows, then two of three
    with pytest.raises(InvalidConfig, match="all workers are dead after 2 of 3"):
        arrivals.by_time(KEY, [work], 3)


def test_the_dead_never_speak():
    fleet = [EXP.within(), EXP, EXP.within((0.0, 20.0)), timing.withhold(EXP)]
    got = arrivals.by_time(KEY, fleet, 200)
    assert set(got.workers.tolist()) == {1, 2}
    assert got.times[got.workers == 2].max() <= 20 < got.times[-1]
    late = arrivals.by_time(KEY, [EXP, EXP.within((30.0, np.inf))], 200)
    assert late.times[late.workers == 1].min() > 30


@pytest.mark.parametrize("make", [arrivals.by_time, arrivals.by_heap])
def test_a_longer_schedule_begins_like_a_shorter_one(make):
    for fleet in (ALIKE["everybody"], ALIKE["twenty_in_step"], WINDOWED["pauses"]):
        whole = make(KEY, fleet, 120)
        for count in (0, 1, 17, 119):
            part = make(KEY, fleet, count)
            assert part.workers.tobytes() == whole.workers[:count].tobytes()
            assert part.times.tobytes() == whole.times[:count].tobytes()


def test_laws_without_a_clock_and_rounds_have_prefixes_too():
    for make in (
        lambda n: arrivals.Schedule(arrivals.uniform(KEY, 6, n)),
        lambda n: arrivals.Schedule(arrivals.weighted(KEY, [1.0, 2.0, 3.0], n)),
        lambda n: arrivals.Schedule(arrivals.sets(KEY, 6, n, 3)),
        lambda n: arrivals.rounds(KEY, [EXP] * 4, n, wait=2),
        lambda n: arrivals.rounds(KEY, [EXP] * 4, n, participation=0.6),
    ):
        whole, part = make(60), make(23)
        assert part.workers.tobytes() == whole.workers[:23].tobytes()
        assert part.times is None or part.times.tobytes() == whole.times[:23].tobytes()


@pytest.mark.parametrize("name", MODELS | TIMED)
def test_two_draws_in_a_row_are_one_longer_draw(name):
    service = (MODELS | TIMED)[name]
    whole = service.draw(np.random.default_rng(3), 0, 40)
    assert whole.shape == (40,) and whole.dtype == np.float64 and np.all(whole >= 0)
    for cut in (1, 7, 33):
        rng = np.random.default_rng(3)
        parts = [service.draw(rng, 0, cut), service.draw(rng, cut, 40 - cut)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_another_key_is_another_schedule_and_workers_differ():
    fleet = [EXP] * 3
    a, b = (arrivals.by_time(jax.random.key(s), fleet, 50) for s in (0, 1))
    assert not np.array_equal(a.times, b.times)
    firsts = [a.times[a.workers == i][0] for i in range(3)]
    assert len(set(firsts)) == 3


@pytest.mark.parametrize("attack", ["flood:", "withhold:3", "max_stale:", "burst:"])
def test_liars_that_play_with_time_change_nobody_elses_stream(attack):
    """Common random numbers: what differs between two runs is what the liars did."""
    name, _, after = attack.partition(":")
    honest = [delays.lognormal(), delays.pareto(1.5), EXP, delays.bimodal()]
    spoilt = timing.apply_timing_attack(honest[1], name, **({"after": 3.0} if after else {}))
    a = arrivals.by_time(KEY, honest, 150)
    b = arrivals.by_time(KEY, [honest[0], spoilt, *honest[2:]], 150)
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


# Laws.


def test_arrivals_are_proportional_to_speeds():
    speeds = np.array([1.0, 2.0, 4.0, 8.0, 5.0])
    even = arrivals.by_time(KEY, [ONE.at_speed(s) for s in speeds], 4000)
    counts = np.bincount(even.workers, minlength=5)
    np.testing.assert_allclose(counts, 4000 * speeds / speeds.sum(), atol=1.5)
    drawn = arrivals.by_time(KEY, [EXP.at_speed(s) for s in speeds], 20_000)
    counts = np.bincount(drawn.workers, minlength=5)
    assert scipy.stats.chisquare(counts, 20_000 * speeds / speeds.sum()).pvalue > 1e-3


def test_exponential_times_are_the_weighted_law():
    """The next worker does not depend on the last one, and gaps are exponential."""
    speeds = np.array([1.0, 3.0, 6.0])
    share = speeds / speeds.sum()
    fleet = [delays.exponential().at_speed(s) for s in speeds]
    clock = arrivals.by_time(KEY, fleet, 20_001)
    law = arrivals.weighted(jax.random.key(11), speeds, 20_001)
    for workers in (clock.workers, law):
        pairs = np.zeros((3, 3))
        np.add.at(pairs, (workers[:-1], workers[1:]), 1)
        want = 20_000 * np.outer(share, share)
        assert scipy.stats.chisquare(pairs.ravel(), want.ravel()).pvalue > 1e-3
    gaps = np.diff(clock.times, prepend=0.0) * speeds.sum()
    assert scipy.stats.kstest(gaps, "expon").pvalue > 1e-3


def gaps(service, count=20_000):
    """The service times of somebody alone, read off a schedule."""
    return np.diff(arrivals.by_time(KEY, [service], count).times, prepend=0.0)


@pytest.mark.parametrize("shape", [2.5, 1.5, 0.8])
def test_pareto_has_its_tail(shape):
    took = delays.pareto(shape, 2.0).draw(np.random.default_rng(0), 0, 20_000)
    assert took.min() >= 2
    hill = 1 / np.mean(np.log(took / 2))  # the maximum likelihood estimate of the exponent
    assert abs(hill - shape) < 5 * shape / np.sqrt(20_000)
    assert scipy.stats.kstest(took, "pareto", (shape, 0, 2)).pvalue > 1e-3


def test_lognormal_has_its_mean_and_spread():
    took = gaps(delays.lognormal(3.0, 0.5))
    deviation = 3 * np.sqrt(np.expm1(0.25))
    assert abs(took.mean() - 3) < 5 * deviation / np.sqrt(20_000)
    assert abs(np.log(took).std() - 0.5) < 5 * 0.5 / np.sqrt(40_000)


def test_bimodal_is_slow_as_often_as_it_says():
    took = gaps(delays.bimodal(1.0, 10.0, 0.1, 0.1))
    slow = took > 5
    assert abs(slow.mean() - 0.1) < 5 * np.sqrt(0.09 / 20_000)
    for part, centre in ((took[~slow], 1.0), (took[slow], 10.0)):
        assert 0.9 * centre - 1e-9 < part.min() and part.max() < 1.1 * centre + 1e-9
        assert abs(part.mean() - centre) < 5 * 0.1 * centre / np.sqrt(3 * len(part))


def test_timing_attacks_do_what_they_say():
    assert gaps(timing.flood(ONE, 4.0), 8).tolist() == [0.25] * 8
    assert gaps(timing.max_stale(ONE, 4.0), 8).tolist() == [5.0] * 8
    assert gaps(timing.burst(ONE, 4.0, 3), 8).tolist() == [4, 0, 0, 4, 0, 0, 4, 0]
    quiet = arrivals.by_time(KEY, [timing.withhold(ONE, 3.0), ONE], 20)
    assert quiet.times[quiet.workers == 0].tolist() == [1, 2, 3]


def test_speeds_fall_by_a_constant_factor():
    np.testing.assert_allclose(delays.geometric_speeds(3, 4.0), [1, 0.5, 0.25])
    np.testing.assert_array_equal(delays.geometric_speeds(5, 1.0), np.ones(5))


# Rounds.


def rounds_by_hand(key, fleet, num_rounds, wait=None, present=None):
    """Round by round; `present` lists who takes part in each, None: everybody."""
    rngs = [stream(key, i) for i in range(len(fleet))]
    now, heard, times = 0.0, [], []
    for r in range(num_rounds):
        took = [float(s.draw(g, r, 1)[0]) for s, g in zip(fleet, rngs, strict=True)]
        done = []
        for i in range(len(fleet)) if present is None else present[r]:
            left = [(max(b, now), e) for b, e in fleet[i].windows if e >= now]
            done.append((at_wall(left, took[i]), i))
        done = sorted(done)[:wait]
        now = max((time for time, _ in done), default=now)
        heard.append(sorted(i for _, i in done))
        times.append(now)
    return heard, times


def unpadded(schedule):
    return [[i for i in row if i >= 0] for row in schedule.workers.tolist()]


ROUNDS = {name: ALIKE[name] for name in ("everybody", "twenty_in_step", "bimodal", "table")} | {
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
    fleet = ROUNDS[name]
    m = len(fleet)
    options = {"barrier": {}, "fastest": {"wait": m // 2}, "partial": {"participation": 0.4}}
    got = arrivals.rounds(KEY, fleet, 30, **options[mode])
    present = unpadded(got) if mode == "partial" else None  # a draw of its own, checked below
    heard, times = rounds_by_hand(KEY, fleet, 30, options[mode].get("wait"), present)
    assert got.workers.dtype == np.int32 and got.times.dtype == np.float64
    assert got.workers.shape == (30, m // 2 if mode == "fastest" else m)
    assert unpadded(got) == heard
    np.testing.assert_allclose(got.times, times, rtol=1e-12, atol=0)
    padding = got.workers == -1  # comes last, after ascending ids
    assert np.all(np.diff(padding.astype(int), axis=1) >= 0)
    arrivals.check_schedule(got, m)


@pytest.mark.parametrize("name", ROUNDS)
def test_to_wait_for_fewer_never_takes_longer(name):
    fleet = ROUNDS[name]
    m = len(fleet)
    ends = [arrivals.rounds(KEY, fleet, 30, wait=q).times for q in range(1, m + 1)]
    for sooner, later in itertools.pairwise(ends):
        assert np.all(sooner <= later)
        if "ends" not in name and "joins" not in name:  # without windows, every single round
            lasts = [np.diff(t, prepend=0.0) for t in (sooner, later)]
            assert np.all(lasts[0] <= lasts[1] + 1e-9)
    barrier = arrivals.rounds(KEY, fleet, 30)
    np.testing.assert_array_equal(ends[-1], barrier.times)


def test_ties_at_the_end_of_a_round_go_to_the_smaller_ids():
    got = arrivals.rounds(KEY, [ONE, ONE.at_speed(2.0), ONE, ONE], 3, wait=3)
    assert got.workers.tolist() == [[0, 1, 2]] * 3 and got.times.tolist() == [1, 2, 3]


def test_workers_take_part_as_often_as_they_should():
    got = arrivals.rounds(KEY, [ONE] * 5, 4000, participation=0.3)
    present = np.zeros((4000, 5), bool)
    for r, row in enumerate(unpadded(got)):
        present[r, row] = True
    assert np.all(np.abs(present.mean(0) - 0.3) < 5 * np.sqrt(0.21 / 4000))
    sizes = np.bincount(present.sum(1), minlength=6)
    want = 4000 * scipy.stats.binom.pmf(np.arange(6), 5, 0.3)
    assert scipy.stats.chisquare(sizes, want).pvalue > 1e-3
    empty = ~present.any(1)
    assert empty.any()  # nobody takes part: the round takes no time
    np.testing.assert_array_equal(np.diff(got.times, prepend=0.0), np.where(empty, 0.0, 1.0))


def test_who_takes_part_has_nothing_to_do_with_how_long_it_takes():
    """Two draws, two streams: neither worker is slower in the rounds that it takes part in."""
    straggler = delays.bimodal(1.0, 10.0, share=0.5, jitter=0.0)
    for straggles in (0, 1):
        fleet = [straggler if i == straggles else ONE for i in range(2)]
        got = arrivals.rounds(KEY, fleet, 2000, participation=0.5)
        took = np.diff(got.times, prepend=0.0)
        present = np.array([straggles in row for row in unpadded(got)])
        slow = took[present] > 5
        assert abs(slow.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(slow))


def test_no_rounds_are_an_empty_schedule():
    got = arrivals.rounds(KEY, [EXP] * 3, 0)
    assert got.workers.shape == (0, 3) and got.times.shape == (0,)


@pytest.mark.parametrize(
    ("fleet", "options", "message"),
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
def test_rounds_that_cannot_be_are_refused(fleet, options, message):
    with pytest.raises(InvalidConfig, match=message):
        arrivals.rounds(KEY, fleet, 5, **options)


def test_rounds_go_on_without_those_they_do_not_wait_for():
    got = arrivals.rounds(KEY, [ONE, ONE.within((0, 2.5)), ONE], 10, wait=2)
    assert unpadded(got) == [[0, 1], [0, 1], *[[0, 2]] * 8]


# Files.


@pytest.mark.parametrize(
    "schedule",
    [
        arrivals.by_time(KEY, ALIKE["everybody"], 80),
        arrivals.rounds(KEY, [EXP] * 4, 20, participation=0.3),
        arrivals.Schedule(arrivals.uniform(KEY, 5, 30)),
        arrivals.Schedule(np.zeros(0, np.int32), np.zeros(0)),
        arrivals.Schedule(np.full((3, 2), -1, np.int32), np.zeros(3)),
    ],
    ids=["one_by_one", "rounds", "no_clock", "no_events", "nobody"],
)
def test_a_saved_schedule_is_loaded_bit_by_bit(tmp_path, schedule):
    path = tmp_path / "folder" / "schedule.npz"
    arrivals.save(path, schedule)
    got = arrivals.load(path)
    for mine, theirs in zip(got, schedule, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert mine.tobytes() == theirs.tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["schedule.npz"]  # nothing half written


def test_workers_alone_can_be_saved(tmp_path):
    arrivals.save(tmp_path / "a.npz", [0, 2, 1])
    got = arrivals.load(tmp_path / "a.npz")
    assert got.workers.tolist() == [0, 2, 1] and got.times is None


def test_damaged_schedules_are_refused(tmp_path):
    path = tmp_path / "schedule.npz"
    want = arrivals.by_time(KEY, [EXP] * 3, 20)
    arrivals.save(path, want)
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(InvalidConfig, match=r"schedule.npz is not a saved schedule"):
            arrivals.load(path)
    values = good.index(want.times.tobytes())  # each bit of the numbers is covered by a sum
    for at in range(values, values + want.times.nbytes, 13):
        damaged = bytearray(good)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(InvalidConfig, match="not a saved schedule"):
            arrivals.load(path)


def test_one_flipped_byte_anywhere_is_refused_or_harmless(tmp_path):
    path = tmp_path / "schedule.npz"
    want = arrivals.by_time(KEY, [EXP] * 3, 4)
    arrivals.save(path, want)
    good = path.read_bytes()
    for at in range(len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            got = arrivals.load(path)
        except InvalidConfig:
            continue
        assert got.workers.tobytes() == want.workers.tobytes(), at
        # No sum covers the names in an archive: its second array may be gone, never wrong.
        assert got.times is None or got.times.tobytes() == want.times.tobytes(), at


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [0, 1]}, "not a saved schedule"),
        ({"times": [0.0, 1.0]}, "not a saved schedule"),
        ({"workers": [0.0, 1.0]}, "integer array"),
        ({"workers": 3}, "integer array"),
        ({"workers": [0, -1]}, "names worker -1"),
        ({"workers": [[0, 0]]}, "names a worker twice"),
        ({"workers": [0, 1], "times": [1.0]}, "one time per event"),
        ({"workers": [0, 1], "times": [1.0, 0.5]}, "times ascend: event 1"),
        ({"workers": [0, 1], "times": [-1.0, 0.5]}, "finite and >= 0: event 0"),
        ({"workers": [0, 1], "times": [0.0, np.nan]}, "finite and >= 0: event 1"),
    ],
)
def test_other_archives_are_no_schedules(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidConfig, match=message):
        arrivals.load(tmp_path / "a.npz")


def test_other_files_are_no_schedules(tmp_path):
    (tmp_path / "text").write_text("time,worker\n0,1\n")
    np.save(tmp_path / "array.npy", np.arange(3))
    for name in ("text", "array.npy"):
        with pytest.raises(InvalidConfig, match=f"{name} is not a saved schedule"):
            arrivals.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        arrivals.load(tmp_path / "nowhere.npz")


def write_trace(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_is_what_happened(tmp_path):
    path = write_trace(tmp_path, "time,worker\n0,2\n0.125,0\n0.125,2\n1e3,1\n")
    got = arrivals.trace(path, 3)
    assert got.workers.dtype == np.int32 and got.times.dtype == np.float64
    assert got.workers.tolist() == [2, 0, 2, 1]
    assert got.times.tolist() == [0, 0.125, 0.125, 1000]
    assert arrivals.trace(path, 5, 2).workers.tolist() == [2, 0]
    spaced = write_trace(tmp_path, "time, worker\r\n0, 2\r\n0.5, 0\r\n")
    assert arrivals.trace(spaced, 3).workers.tolist() == [2, 0]


def test_a_schedule_written_as_a_trace_is_read_bit_by_bit(tmp_path):
    want = arrivals.by_time(KEY, ALIKE["everybody"], 100)
    pairs = zip(want.times.tolist(), want.workers.tolist(), strict=True)
    lines = [f"{time!r},{worker}\n" for time, worker in pairs]
    got = arrivals.trace(write_trace(tmp_path, "time,worker\n" + "".join(lines)), 20)
    assert got.workers.tobytes() == want.workers.tobytes()
    assert got.times.tobytes() == want.times.tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with 'time,worker': got ''"),
        ("worker,time\n0,0\n", "got 'worker,time'"),
        ("0,1\n", "got '0,1'"),
        ("time,worker\n0,1\nsoon,1\n", "could not convert string 'soon'"),
        ("time,worker\n0,\n", "could not convert"),
        ("time,worker\n0,1,2\n", "has 3 columns"),
        ("time,worker\n0,1\n1\n", "number of columns changed"),
        ("time,worker\n0\n", "has 1 columns"),
        ("time,worker\n0,1\n1,3\n", "line 3: unknown worker 3: workers are integers 0..2"),
        ("time,worker\n0,-1\n", "line 2: unknown worker -1"),
        ("time,worker\n0,1e20\n", r"line 2: unknown worker 1e\+20"),
        ("time,worker\n0,inf\n", "line 2: unknown worker"),
        ("time,worker\n0,0.5\n", "line 2: unknown worker 0.5"),
        ("time,worker\n0,nan\n", "line 2: unknown worker nan"),
        ("time,worker\n0,1\n-1,0\n", "line 3: times are finite and >= 0: got -1 after 0"),
        ("time,worker\nnan,0\n", "line 2: times are finite and >= 0: got nan"),
        ("time,worker\ninf,0\n", "line 2: times are finite and >= 0: got inf"),
        ("time,worker\n0,1\n2,0\n1,2\n", "line 4: times ascend: got 1 after 2"),
    ],
)
def test_bad_traces_are_refused(tmp_path, text, message):
    with pytest.raises(InvalidConfig, match=message):
        arrivals.trace(write_trace(tmp_path, text), 3)


def test_a_saved_schedule_is_a_trace(tmp_path):
    saved = arrivals.by_time(jax.random.key(0), [delays.exponential()] * 3, 50)
    arrivals.save(tmp_path / "s.npz", saved)
    got = arrivals.trace(tmp_path / "s.npz", 3, 20)
    np.testing.assert_array_equal(got.workers, saved.workers[:20])
    np.testing.assert_array_equal(got.times, saved.times[:20])
    with pytest.raises(InvalidConfig, match="has 50 arrivals: asked for 51"):
        arrivals.trace(tmp_path / "s.npz", 3, 51)
    with pytest.raises(InvalidConfig, match="names worker 2"):
        arrivals.trace(tmp_path / "s.npz", 2)


def test_what_is_no_trace_is_refused_in_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "binary"):
        with pytest.raises(InvalidConfig, match="cannot read a trace of arrivals"):
            arrivals.trace(path, 3)


def test_huge_rates_are_rates():
    drawn = arrivals.weighted(jax.random.key(0), [1e308, 1e308, 1e308], 3000)
    assert np.bincount(drawn, minlength=3).min() > 800


def test_rounds_of_those_who_always_work_are_those_of_windows():
    """The vectorised rounds, and one by one where a window, here an idle one, asks for it."""
    key, fleet = jax.random.key(3), [delays.pareto(1.5)] * 6
    for told in ({}, {"wait": 4}, {"participation": 0.4}):
        quick = arrivals.rounds(key, fleet, 300, **told)
        late = [s.within((0.0, 1e9), (1e9, np.inf)) for s in fleet]
        slow = arrivals.rounds(key, late, 300, **told)
        np.testing.assert_array_equal(quick.workers, slow.workers)
        np.testing.assert_array_equal(quick.times, slow.times)


def test_a_trace_of_nothing_and_a_trace_too_short(tmp_path):
    path = write_trace(tmp_path, "time,worker\n")
    got = arrivals.trace(path, 3)
    assert got.workers.shape == (0,) and got.workers.dtype == np.int32
    assert arrivals.trace(write_trace(tmp_path, "time,worker\n0,1\n"), 3, 0).times.size == 0
    with pytest.raises(InvalidConfig, match="has 1 arrivals: asked for 5"):
        arrivals.trace(path, 3, 5)


def test_blank_lines_of_a_trace_are_no_arrivals(tmp_path):
    path = write_trace(tmp_path, "time,worker\n0,1\n\n1,2\n2,0\n\n")
    assert arrivals.trace(path, 3).workers.tolist() == [1, 2, 0]
    assert arrivals.trace(path, 3, 2).workers.tolist() == [1, 2]


# What is refused.


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


@pytest.mark.parametrize("make", [arrivals.by_time, arrivals.by_heap])
@pytest.mark.parametrize(
    ("fleet", "events", "message"),
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
def test_fleets_that_cannot_work_are_refused(make, fleet, events, message):
    with pytest.raises(InvalidConfig, match=message):
        make(KEY, fleet, events)


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
def test_impossible_services_are_refused(make, message):
    with pytest.raises(InvalidConfig, match=message):
        make()


def test_windows_that_are_no_pairs_are_refused():
    """`within(0, 5)` is easily typed for `within((0, 5))`."""
    for windows in ((0.0, 5.0), ((0.0, 1.0, 2.0, 3.0),), ((0.0, 1.0), (2.0,)), (("a", "b"),)):
        with pytest.raises(InvalidConfig, match="windows are"):
            EXP.within(*windows)


@pytest.mark.parametrize("number", [np.float32(2), np.float64(2), np.int64(2), 2])
def test_numbers_of_numpy_are_numbers(number):
    make = functools.partial(delays.make, "exponential")
    want = arrivals.by_time(KEY, [make(mean=2.0)], 5).times
    np.testing.assert_allclose(arrivals.by_time(KEY, [make(mean=number)], 5).times, want)
    assert delays.make("deterministic", time=number).typical == 2
