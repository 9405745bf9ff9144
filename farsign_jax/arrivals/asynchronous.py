"""Schedules of workers that answer one by one, from how long each takes."""

import heapq
from collections.abc import Sequence

import jax
import numpy as np

from farsign_jax.arrivals.delays import DelayModel
from farsign_jax.arrivals.schedule import Schedule
from farsign_jax.base import Key
from farsign_jax.validation import InvalidConfig, require


class _Stream:
    """The answers of one worker, drawn as far as they are needed."""

    def __init__(self, key: Key, worker: int, service: DelayModel):
        self.rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)), worker])
        self.worker, self.service = worker, service
        self.work = 0.0  # seconds of work so far
        self.times = np.empty(0)  # of its answers, on the wall clock
        self.drawn = 0
        self.ended = not service.windows

    def extend(self, count: int) -> np.ndarray:
        """Draws `count` more service times; the arrival times they lead to."""
        took = np.asarray(self.service.draw(self.rng, self.drawn, count), np.float64)
        rule = f"worker {self.worker} was asked for {count} service times: got {took.shape}"
        require(took.shape == (count,), rule)
        rule = "a service time is a number of seconds >= 0"
        require(took >= 0, f"{rule}: worker {self.worker} took {took.min(initial=np.inf)}")
        work = np.cumsum(np.concatenate([[self.work], took]))[1:]  # as if added one by one
        times = self.service.wall(work)
        alive = np.isfinite(times)
        self.work, self.drawn = float(work[-1]), self.drawn + count
        self.ended = not alive.all()
        self.times = np.concatenate([self.times, times[alive]])
        return times[alive]

    @property
    def next(self) -> tuple[float, int, int]:
        """The first that its next answer can be, in the order of hearing."""
        last = float(self.times[-1]) if len(self.times) else 0.0
        return last, len(self.times), self.worker

    def before(self, other: tuple[float, int, int]) -> int:
        """How many of its answers are heard before another one."""
        time, number, worker = other
        earlier, not_later = (np.searchsorted(self.times, time, s) for s in ("left", "right"))
        return int(np.clip(number + (self.worker < worker), earlier, not_later))


def draw_streams(key: Key, services: Sequence[DelayModel], num_events: int) -> list[_Stream]:
    require(len(services) > 0, "need at least one worker")
    rule = f"need a whole num_events >= 0: got {num_events}"
    require(num_events >= 0 and num_events == int(num_events), rule)
    return [_Stream(key, i, service) for i, service in enumerate(services)]


def _all_dead(events: int, wanted: int) -> InvalidConfig:
    return InvalidConfig(f"all workers are dead after {events} of {wanted} events")


def by_time(key: Key, services: Sequence[DelayModel], num_events: int) -> Schedule:
    """The first events where worker i takes `services[i]` and is asked again when it is heard.

    Answers at the same moment are heard in the order of how many their workers gave before,
    then of worker ids. All workers' streams are drawn whole and merged; `by_heap` does the same
    one event at a time.

    Raises:
        InvalidConfig: on a negative or NaN time, or where all workers are dead too early.
    """
    streams = draw_streams(key, services, num_events)
    rates = np.array([1 / max(s.service.typical, 1e-300) for s in streams])
    guess = num_events * rates / rates.sum()
    for stream, count in zip(streams, guess, strict=True):
        if not stream.ended:
            stream.extend(min(int(1.1 * count) + 16, num_events + 1))
    while True:
        # No answer comes before the first that may be missing: up to it, all is known.
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


def by_heap(key: Key, services: Sequence[DelayModel], num_events: int) -> Schedule:
    """`by_time` by the book: a heap of answers to come. Slow, and the same to the last bit."""
    streams = draw_streams(key, services, num_events)
    heap: list[tuple[float, int, int]] = []

    def ask(worker):
        stream = streams[worker]
        number = stream.drawn
        if not stream.ended:
            for time in stream.extend(1):
                heapq.heappush(heap, (time, number, worker))

    for worker in range(len(streams)):
        ask(worker)
    heard = []
    while len(heard) < num_events:
        if not heap:
            raise _all_dead(len(heard), num_events)
        time, _, worker = heapq.heappop(heap)
        heard.append((worker, time))
        ask(worker)
    workers, times = zip(*heard, strict=True) if heard else ((), ())
    return Schedule(np.array(workers, np.int32), np.array(times, np.float64))
