"""Workers of many kinds, and a simulation of their answers that is written from scratch."""

import dataclasses
import heapq

import jax
import numpy as np

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.arrivals.delays import DelayModel
from farsign_jax.attacks import timing
from tests.helpers import at_wall, stream

KEY = jax.random.key(7)


def simulated(key, models, num_events):
    """A simulation with a heap of the answers to come, which draws one delay at a time."""
    rngs = [stream(key, i) for i in range(len(models))]
    work, number, heap, events = [0.0] * len(models), [0] * len(models), [], []

    def ask(i):
        (took,) = models[i].draw(rngs[i], number[i], 1)
        work[i] += float(took)
        time = at_wall(models[i].windows, work[i])
        if time < np.inf:
            heapq.heappush(heap, (time, number[i], i))
        number[i] += 1

    for i in range(len(models)):
        ask(i)
    while heap and len(events) < num_events:
        time, _, i = heapq.heappop(heap)
        events.append((i, time))
        ask(i)
    workers, times = zip(*events, strict=True) if events else ((), ())
    return np.array(workers, np.int32), np.array(times, np.float64)


def table(*seconds):
    """A worker with these delays, repeated forever."""
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
    "all_kinds": [*MODELS.values(), *(s for n, s in TIMED.items() if n != "withhold")],
    "alone": [delays.lognormal()],
    "alone_at_once": [ZERO],
    "twenty_in_step": [ONE] * 20,
    "in_step_at_whole_ratios": [ONE.at_speed(s) for s in (1.0, 2.0, 4.0, 0.5, 1.0)],
    # `typical` only decides how far to draw ahead: the events are the same for any value.
    "wrong_typical": [
        dataclasses.replace(s, typical=t)
        for s, t in ((EXP, 1e-6), (EXP, 1.0), (EXP, 1e3), (delays.pareto(0.8), 1e-3))
    ],
    "at_once_and_wrong_typical": [dataclasses.replace(ZERO, typical=t) for t in (1.0, 1e3)],
    "two_at_once_leave_the_others_out": [ONE, ZERO, EXP, ZERO],
    "half_of_the_answers_at_once": [table(0.0, 1.0), table(1.0, 0.0), ONE, table(0, 0, 2)],
}
WINDOWED = {
    "pauses": [EXP.within((0, 3), (8, 9), (20, np.inf)), EXP, EXP.within((2, 5), (9, np.inf))],
    "dies": [EXP.within((0, 10)), EXP, EXP.within((0, 0.01))],
    "joins_late": [EXP, EXP.within((15, np.inf)), EXP.within((1e6, np.inf))],
    "returns": [EXP.within((0, 4), (30, np.inf)), delays.pareto(0.9).within((1, 2), (3, 99))],
    "only_one_survives": [EXP.within((0, 5)), EXP.within(), ONE],
    "no_answers_for_a_while": [EXP.within((0, 2), (50, np.inf)), EXP.within((0, 1), (60, 70))],
    # With integers, answers arrive exactly at ends and begins.
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


def delays_alone(delay, count=20_000):
    """The delays of a worker that is alone, computed from its schedule."""
    return np.diff(arrivals.by_time(KEY, [delay], count).times, prepend=0.0)
