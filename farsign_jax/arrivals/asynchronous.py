"""Schedules of workers that answer one by one, computed from their delays.

Every worker receives its next question at the moment when its answer arrives.
"""

import heapq
from collections.abc import Sequence

import jax
import numpy as np

from farsign_jax.arrivals.delays import DelayModel
from farsign_jax.arrivals.schedule import Schedule
from farsign_jax.base import Key
from farsign_jax.validation import InvalidConfig, require


class _Stream:
    """The answers of one worker, drawn as far as they are needed.

    Args:
        seed: u32[2], the data of the key of the schedule.
        worker: the id of the worker, which selects its random stream.
        delay: how long the worker takes.
    """

    def __init__(self, seed: np.ndarray, worker: int, delay: DelayModel):
        self.rng = np.random.default_rng([*seed, worker])
        self.worker, self.delay = worker, delay
        self.work = 0.0  # seconds of work so far
        self.times = np.empty(0)  # virtual seconds at which its answers arrive
        self.drawn = 0  # the number of delays drawn so far
        self.ended = not delay.windows  # whether no further answer will arrive

    def extend(self, count: int) -> np.ndarray:
        """Draws `count` more delays and returns the arrival times of these answers."""
        took = np.asarray(self.delay.draw(self.rng, self.drawn, count), np.float64)
        rule = f"worker {self.worker} was asked for {count} delays: got {took.shape}"
        require(took.shape == (count,), rule)
        rule = "a delay is a number of seconds >= 0"
        require(took >= 0, f"{rule}: worker {self.worker} took {took.min(initial=np.inf)}")
        work = np.cumsum(np.concatenate([[self.work], took]))[
            1:
        ]  # rounded as if added one by one
        times = self.delay.arrival_times(work)
        alive = np.isfinite(times)
        self.work, self.drawn = float(work[-1]), self.drawn + count
        self.ended = not alive.all()
        self.times = np.concatenate([self.times, times[alive]])
        return times[alive]

    @property
    def next(self) -> tuple[float, int, int]:
        """A lower bound of its next answer, as (time, number of the answer, worker)."""
        last = float(self.times[-1]) if len(self.times) else 0.0
        return last, len(self.times), self.worker

    def before(self, other: tuple[float, int, int]) -> int:
        """The number of its answers that arrive before another one, given in this form."""
        time, number, worker = other
        earlier, not_later = (np.searchsorted(self.times, time, s) for s in ("left", "right"))
        return int(np.clip(number + (self.worker < worker), earlier, not_later))


def open_streams(key: Key, delays: Sequence[DelayModel], num_events: int) -> list[_Stream]:
    """One stream of answers per worker, each with a random generator of its own.

    Raises:
        InvalidConfig: if there is no worker, or `num_events` is not an integer >= 0.
    """
    require(len(delays) > 0, "need at least one worker")
    rule = f"need an integer num_events >= 0: got {num_events}"
    require(num_events >= 0 and num_events == int(num_events), rule)
    seed = np.asarray(jax.random.key_data(key))
    return [_Stream(seed, i, delay) for i, delay in enumerate(delays)]


def _all_dead(events: int, wanted: int) -> InvalidConfig:
    return InvalidConfig(f"all workers are dead after {events} of {wanted} events")


def by_time(key: Key, delays: Sequence[DelayModel], num_events: int) -> Schedule:
    """The schedule of workers that take the time given by their delay models.

    Of answers that arrive at the same moment, the one whose worker has given fewer answers
    before comes first, then the one with the smaller worker id. The streams of all workers are
    drawn in advance and merged; `by_heap` does the same one event at a time.

    Args:
        key: a run's `keys.schedule`.
        delays: the delay models of the m workers.
        num_events: T.

    Returns:
        T events with their workers i32[T] and times f64[T].

    Raises:
        InvalidConfig: if a delay is negative or NaN, or all workers die before event T.
    """
    streams = open_streams(key, delays, num_events)
    rates = np.array([1 / max(s.delay.typical, 1e-300) for s in streams])
    guess = num_events * rates / rates.sum()
    for stream, count in zip(streams, guess, strict=True):
        if not stream.ended:
            stream.extend(min(int(1.1 * count) + 16, num_events + 1))
    while True:
        # No missing answer can arrive before this one, so all earlier events are known.
        open_ended = [s for s in streams if not s.ended and len(s.times) < num_events]
        missing = min((s.next for s in open_ended), default=(np.inf, 0, 0))
        known = [s.before(missing) for s in streams]
        if sum(known) >= num_events or not open_ended:
            break
        for stream in open_ended:
            if stream.next[0] <= 1.5 * missing[0]:
                stream.extend(len(stream.times) + 1)
    if sum(known) < num_events:
        raise _all_dead(sum(known), num_events)
    times = np.concatenate([s.times[:n] for s, n in zip(streams, known, strict=True)])
    number = np.concatenate([np.arange(n) for n in known])
    worker = np.repeat(np.arange(len(streams), dtype=np.int32), known)
    order = np.lexsort((worker, number, times))[:num_events]
    return Schedule(worker[order], times[order])


def by_heap(key: Key, delays: Sequence[DelayModel], num_events: int) -> Schedule:
    """The schedule of `by_time`, from a heap of the answers to come.

    This is the definition; it is slow, and the result is the same to the last bit.

    Args:
        key: as for `by_time`.
        delays: as for `by_time`.
        num_events: as for `by_time`.

    Returns:
        As for `by_time`.

    Raises:
        InvalidConfig: as for `by_time`.
    """
    streams = open_streams(key, delays, num_events)
    heap: list[tuple[float, int, int]] = []

    def ask(worker: int) -> None:
        stream = streams[worker]
        number = stream.drawn
        if not stream.ended:
            for time in stream.extend(1):
                heapq.heappush(heap, (time, number, worker))

    for worker in range(len(streams)):
        ask(worker)
    events: list[tuple[int, float]] = []
    while len(events) < num_events:
        if not heap:
            raise _all_dead(len(events), num_events)
        time, _, worker = heapq.heappop(heap)
        events.append((worker, time))
        ask(worker)
    workers, times = zip(*events, strict=True) if events else ((), ())
    return Schedule(np.array(workers, np.int32), np.array(times, np.float64))
