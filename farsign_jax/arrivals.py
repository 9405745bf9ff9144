"""Schedules: which worker is heard at which event, and when, drawn before the loop.

Where every worker is asked again as soon as it has answered, the order of arrivals is all there
is to know about an asynchronous run; staleness follows from it. What time it is then concerns
the reader of the results only, so the clock, float64, stays on the host.

Three ways to a schedule: a law of who comes next (`uniform`, `weighted`, `sets`: no clock); how
long each worker takes (`by_time`, and `rounds` where the server waits); and what happened
elsewhere (`load`, `trace`).
"""

import heapq
import io
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from farsign_jax import results
from farsign_jax.base import InvalidConfig, Key, require
from farsign_jax.keys import host_rng
from farsign_jax.services import Service

# What reading a damaged archive, or an .npy file, can raise.
_DAMAGED = (ValueError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile)


class Schedule(NamedTuple):
    """T events.

    Where a function takes a schedule, it also takes `workers` alone.
    """

    workers: np.ndarray  # i32[T], who is heard; or i32[T, s], sets, padded with -1
    times: np.ndarray | None = None  # f64[T], virtual seconds, ascending


def uniform(key: Key, num_workers: int, num_events: int) -> np.ndarray:
    """Every worker is equally likely at every event (the paper's experiment): i32[T]."""
    return weighted(key, np.ones(num_workers), num_events)


def weighted(key: Key, rates: Any, num_events: int) -> np.ndarray:
    """Worker i arrives with probability proportional to `rates[i]`: i32[T].

    Exactly the order of arrivals of workers with exponential service times at these rates.
    """
    rates = np.asarray(rates, np.float64)
    require(rates.ndim == 1 and rates.size > 0, f"need one rate per worker: got {rates}")
    good = (rates > 0) & np.isfinite(rates)
    worst = int(np.argmin(good))
    rule = f"rates are finite and > 0: worker {worst} has rate {rates[worst]:g}"
    require(good, rule)
    require(num_events >= 0, f"need num_events >= 0: got {num_events}")
    rates = rates / rates.max()  # whose sum is finite
    share = np.cumsum(rates) / rates.sum()
    draws = host_rng(key).random(num_events)
    return np.searchsorted(share, draws, side="right").astype(np.int32)


def sets(key: Key, num_workers: int, num_events: int, size: int) -> np.ndarray:
    """`size` distinct workers at every event, all sets equally likely, i32[T, size]."""
    require(
        1 <= size <= num_workers,
        f"a set needs 1 <= size <= workers: got size={size}, workers={num_workers}",
    )
    order = host_rng(key).random((num_events, num_workers)).argsort(axis=1)
    return order[:, :size].astype(np.int32)


class _Stream:
    """The answers of one worker, drawn as far as they are needed."""

    def __init__(self, key: Key, worker: int, service: Service):
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


def _streams(key: Key, services: Sequence[Service], num_events: int) -> list[_Stream]:
    require(len(services) > 0, "need at least one worker")
    rule = f"need a whole num_events >= 0: got {num_events}"
    require(num_events >= 0 and num_events == int(num_events), rule)
    return [_Stream(key, i, service) for i, service in enumerate(services)]


def _all_dead(events: int, wanted: int) -> InvalidConfig:
    return InvalidConfig(f"all workers are dead after {events} of {wanted} events")


def by_time(key: Key, services: Sequence[Service], num_events: int) -> Schedule:
    """The first events where worker i takes `services[i]` and is asked again when it is heard.

    Answers at the same moment are heard in the order of how many their workers gave before,
    then of worker ids. All workers' streams are drawn whole and merged; `by_heap` does the same
    one event at a time.

    Raises:
        InvalidConfig: on a negative or NaN time, or where all workers are dead too early.
    """
    streams = _streams(key, services, num_events)
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


def by_heap(key: Key, services: Sequence[Service], num_events: int) -> Schedule:
    """`by_time` by the book: a heap of answers to come. Slow, and the same to the last bit."""
    streams = _streams(key, services, num_events)
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


def rounds(
    key: Key,
    services: Sequence[Service],
    num_rounds: int,
    *,
    wait: int | None = None,
    participation: float = 1.0,
) -> Schedule:
    """Rounds, for servers that wait: all are asked at once, and heard once enough are done.

    A round lasts until the last answer that it waits for; the others are dropped and their
    workers asked anew. The service times are those of `by_time`: waiting costs what it costs.

    Args:
        key: a run's `keys.schedule`.
        services: how long each of the m workers takes.
        num_rounds: R.
        wait: q, the answers that end a round; None: of everybody who takes part, a barrier.
        participation: gamma, the probability with which a worker takes part in a round,
            independently; where nobody does, the round is empty and takes no time.

    Returns:
        Sets i32[R, q] (q = m for a barrier), ascending ids padded with -1, and their times.

    Raises:
        InvalidConfig: on q outside 1..m or gamma outside (0, 1], or where a round would never
            end because those it waits for are dead.
    """
    require(num_rounds >= 0, f"need num_rounds >= 0: got {num_rounds}")
    streams, m = _streams(key, services, num_rounds), len(services)
    num_rounds = int(num_rounds)
    rule = f"need a whole number 1 <= wait <= workers: got wait={wait}, workers={m}"
    require(wait is None or (wait == int(wait) and 1 <= wait <= m), rule)
    size = m if wait is None else int(wait)
    rule = f"need 0 < participation <= 1: got {participation}"
    require(0 < participation <= 1, rule)
    require(wait is None or participation == 1, "either wait for some or let some take part")
    took = np.stack([s.service.draw(s.rng, 0, num_rounds) for s in streams], axis=1)  # [R, m]
    worst = int(np.argmin((took >= 0).all(axis=0)))
    rule = "a service time is a number of seconds >= 0"
    require(took >= 0, f"{rule}: worker {worst} took {took[:, worst].min(initial=np.inf)}")
    rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)), m])  # no worker's
    takes_part = rng.random((num_rounds, m)) < participation
    sets, times, now = np.full((num_rounds, size), -1, np.int32), np.empty(num_rounds), 0.0
    if np.isfinite(took).all() and all(s.windows == ((0.0, np.inf),) for s in services):
        return _rounds_at_work(took, takes_part, wait)
    for r in range(num_rounds):
        done = np.array([_done(s.service, now, took[r, i]) for i, s in enumerate(streams)])
        done = np.where(takes_part[r], done, np.inf)
        first = np.argsort(done, kind="stable")[:size]
        if wait is None:
            first = np.flatnonzero(takes_part[r])
        if len(first):
            never = first[np.isinf(done[first])]
            rule = (
                f"round {r} waits for worker {never.min(initial=m)}, which is dead at {now:g} s"
            )
            require(len(never) == 0, f"{rule}: wait for fewer than {len(first)}")
            now = float(done[first].max())
        sets[r, : len(first)], times[r] = np.sort(first), now
    return Schedule(sets, times)


def _rounds_at_work(took: np.ndarray, takes_part: np.ndarray, wait: int | None) -> Schedule:
    """`rounds` of workers that neither pause nor die: a round costs what its slowest takes."""
    ids = np.arange(took.shape[1], dtype=np.int32)
    if wait is None:
        sets = np.sort(np.where(takes_part, ids, len(ids)), axis=1)
        lasts = np.where(takes_part, took, 0.0).max(axis=1)
        sets[sets == len(ids)] = -1
    else:
        first = np.argsort(took, axis=1, kind="stable")[:, :wait]
        lasts = np.take_along_axis(took, first[:, -1:], axis=1)[:, 0]
        sets = np.sort(first, axis=1)
    return Schedule(sets.astype(np.int32), np.cumsum(lasts))


def _done(service: Service, now: float, work: float) -> float:
    """When a worker that begins now has worked for so long."""
    for begin, end in service.windows:
        start = max(begin, now)
        if start <= end and work <= end - start:
            return start + work
        work -= max(end - start, 0.0)
    return np.inf


def of(schedule: Any) -> Schedule:
    """A `Schedule` as it is, an array as the workers of one without a clock."""
    return schedule if isinstance(schedule, Schedule) else Schedule(np.asarray(schedule))


def save(path: str | os.PathLike, schedule: Schedule) -> None:
    """Writes .npz, whole or not at all."""
    arrays: Any = {name: a for name, a in of(schedule)._asdict().items() if a is not None}
    results.atomic_write(path, lambda file: np.savez(file, **arrays))


def load(path: str | os.PathLike) -> Schedule:
    """What `save` wrote, bit by bit.

    Raises:
        InvalidConfig: where it is damaged, or no schedule.
    """
    try:
        whole = pathlib.Path(path).read_bytes()  # no such file is no damaged file
        with np.load(io.BytesIO(whole), allow_pickle=False) as arrays:
            schedule = Schedule(arrays["workers"], arrays.get("times"))
    except _DAMAGED as error:
        raise InvalidConfig(f"{path} is not a saved schedule: {error}") from error
    most = int(schedule.workers.max(initial=0)) if schedule.workers.dtype.kind in "iu" else 0
    try:
        return check_schedule(schedule, min(most, 2**31 - 2) + 1)
    except InvalidConfig as error:
        raise InvalidConfig(f"{path}: {error}") from None


def trace(path: str | os.PathLike, num_workers: int, num_events: int | None = None) -> Schedule:
    """Arrivals that were recorded: a file written by `save`, or CSV with columns `time,worker`.

    Args:
        path: .npz; or seconds and worker ids 0..m-1, one arrival per line, in their order.
        num_workers: m.
        num_events: T, the first so many; None: all.

    Raises:
        InvalidConfig: on a file that cannot be read, lines that are not a number and a whole
            number, unknown workers, times negative, NaN or out of order, or too few lines.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix == ".npz":
            return _first(load(path), num_workers, num_events, path)
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidConfig(f"no trace of arrivals: {path}: {why}") from None
    header, _, body = text.partition("\n")
    header = header.strip().replace(" ", "")
    require(header == "time,worker", f"{path} begins with 'time,worker': got {header!r}")
    lines = [(n, line) for n, line in enumerate(body.splitlines(), 2) if line.strip()]
    lines = lines[:num_events]
    try:
        rows = np.loadtxt([line for _, line in lines], delimiter=",", ndmin=2) if lines else []
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}") from None
    rows = np.reshape(rows, (0, 2)) if not lines else np.asarray(rows)
    require(rows.shape[1] == 2, f"{path} has {rows.shape[1]} columns: expected time,worker")
    rule = f"{path} has {len(rows)} arrivals: asked for {num_events}"
    require(num_events is None or len(rows) == num_events, rule)
    times, ids = rows.T
    unknown = np.flatnonzero(~((ids >= 0) & (ids < num_workers) & (ids == np.floor(ids))))
    if len(unknown):
        line, worker = lines[unknown[0]][0], ids[unknown[0]]
        known = f"workers are whole numbers 0..{num_workers - 1}"
        raise InvalidConfig(f"{path}, line {line}: unknown worker {worker:g}: {known}")
    before = np.concatenate([[0.0], times[:-1]])
    for rule, good in (
        ("times are finite and >= 0", np.isfinite(times) & (times >= 0)),
        ("times ascend", ~(times < before)),
    ):
        for at in np.flatnonzero(~good)[:1]:
            where = f"{path}, line {lines[at][0]}"
            raise InvalidConfig(f"{where}: {rule}: got {times[at]:g} after {before[at]:g}")
    return Schedule(ids.astype(np.int32), times)


def _first(
    schedule: Schedule, num_workers: int, num_events: int | None, path: pathlib.Path
) -> Schedule:
    """The first events of a saved schedule."""
    workers, times = schedule
    rule = f"{path} has {len(workers)} arrivals: asked for {num_events}"
    require(num_events is None or len(workers) >= num_events, rule)
    rule = f"{path} is of sets of workers: a trace has one at a time"
    require(workers.ndim == 1, rule)
    part = slice(None, num_events)
    return check_schedule(
        Schedule(workers[part], None if times is None else times[part]), num_workers
    )


def check_schedule(schedule: Any, num_workers: int) -> Schedule:
    """The schedule, its workers as i32[T] or i32[T, s], its times as f64[T].

    Raises:
        InvalidConfig: where an id is not a worker's, an event names one twice, or times are
            negative, NaN, out of order or not one per event.
    """
    workers, times = of(schedule)
    workers = check(workers, num_workers)
    if times is not None:
        times = np.asarray(times, np.float64)
        rule = f"need one time per event: got {times.shape} for {len(workers)} events"
        require(times.shape == workers.shape[:1], rule)
        good = np.isfinite(times) & (times >= 0)
        at = int(np.argmin(good)) if len(times) else 0
        rule = "times are finite and >= 0"
        require(good, f"{rule}: event {at} is at {times[at : at + 1]}")
        later = np.diff(times) >= 0
        at = int(np.argmin(later)) if len(later) else 0
        rule = "times ascend"
        require(
            later,
            f"{rule}: event {at + 1} is at {times[at + 1 : at + 2]} after {times[at : at + 1]}",
        )
    return Schedule(workers, times)


def check(schedule: Any, num_workers: int) -> np.ndarray:
    """The schedule as i32[T] or i32[T, s].

    Raises:
        InvalidConfig: where an id is not a worker's, or an event names one twice.
    """
    schedule = np.asarray(schedule)
    rule = f"a schedule is an integer array [T] or [T, s]: got {schedule.dtype}"
    require(
        schedule.ndim in (1, 2) and np.issubdtype(schedule.dtype, np.integer),
        f"{rule}{list(schedule.shape)}",
    )
    too_low = np.any(schedule < (0 if schedule.ndim == 1 else -1))
    worst = schedule.min(initial=0) if too_low else schedule.max(initial=0)
    require(
        not too_low and worst < num_workers,
        f"the schedule names worker {worst}, but workers are 0..{num_workers - 1} "
        "(-1 pads a set)",
    )
    if schedule.ndim == 2:
        ordered = np.sort(schedule, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        at = int(np.argmax(twice.any(axis=1))) if twice.any() else -1
        require(at < 0, f"event {at} of the schedule names a worker twice: {schedule[at]}")
    return schedule.astype(np.int32)
