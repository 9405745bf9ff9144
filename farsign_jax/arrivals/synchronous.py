"""Schedules of rounds, in which the server waits for all workers or for some of them."""

from collections.abc import Sequence

import numpy as np

from farsign_jax.arrivals.asynchronous import open_streams
from farsign_jax.arrivals.delays import DelayModel
from farsign_jax.arrivals.schedule import Schedule, drawn_for
from farsign_jax.base import Key
from farsign_jax.keys import host_rngs
from farsign_jax.validation import require


def rounds(
    key: Key,
    delays: Sequence[DelayModel],
    num_rounds: int,
    *,
    wait: int | None = None,
    participation: float = 1.0,
) -> Schedule:
    """The schedule of a server that asks all workers at once and waits for their answers.

    A round lasts until the last answer that the server waits for has arrived. Later answers
    are dropped, and their workers receive the question of the next round. The delays are those
    of `by_time`, so that the cost of waiting can be compared.

    Args:
        key: a run's `keys.schedule`.
        delays: the delay models of the m workers.
        num_rounds: R.
        wait: q, the number of answers that end a round; None for those of all workers that
            take part, a barrier.
        participation: gamma, the probability with which a worker takes part in a round,
            independently of the others. If no worker takes part, the round is empty and takes
            no time.

    Returns:
        R events with sets of workers i32[R, q] (q = m for a barrier), in ascending order and
        padded with -1, and times f64[R].

    Raises:
        InvalidConfig: if q is not in 1..m or gamma not in (0, 1], if both are given, or if a
            round would never end because a worker that it waits for is dead.
    """
    require(num_rounds >= 0, f"need num_rounds >= 0: got {num_rounds}")
    m = len(delays)
    *own, common = host_rngs(key, m + 1)
    streams = open_streams(own, delays, num_rounds)
    num_rounds = int(num_rounds)
    rule = f"need an integer 1 <= wait <= workers: got wait={wait}, workers={m}"
    require(wait is None or (wait == int(wait) and 1 <= wait <= m), rule)
    size = m if wait is None else int(wait)
    rule = f"need 0 < participation <= 1: got {participation}"
    require(0 < participation <= 1, rule)
    require(wait is None or participation == 1, "wait and participation cannot be combined")
    took = np.stack([s.delay.draw(s.rng, 0, num_rounds) for s in streams], axis=1)  # [R, m]
    worst = int(np.argmin((took >= 0).all(axis=0)))
    rule = "a delay is a number of seconds >= 0"
    require(took >= 0, f"{rule}: worker {worst} took {took[:, worst].min(initial=np.inf)}")
    takes_part = common.random((num_rounds, m)) < participation
    sets, times, now = np.full((num_rounds, size), -1, np.int32), np.empty(num_rounds), 0.0
    if np.isfinite(took).all() and all(s.windows == ((0.0, np.inf),) for s in delays):
        return _rounds_at_work(took, takes_part, wait)
    for r in range(num_rounds):
        done = np.array([_done(s.delay, now, took[r, i]) for i, s in enumerate(streams)])
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
    return Schedule(drawn_for(m, sets), times)


def _rounds_at_work(took: np.ndarray, takes_part: np.ndarray, wait: int | None) -> Schedule:
    """`rounds` of workers that neither pause nor die, for all rounds at once."""
    ids = np.arange(took.shape[1], dtype=np.int32)
    if wait is None:
        sets = np.sort(np.where(takes_part, ids, len(ids)), axis=1)
        lasts = np.where(takes_part, took, 0.0).max(axis=1)
        sets[sets == len(ids)] = -1
    else:
        first = np.argsort(took, axis=1, kind="stable")[:, :wait]
        lasts = np.take_along_axis(took, first[:, -1:], axis=1)[:, 0]
        sets = np.sort(first, axis=1)
    return Schedule(drawn_for(len(ids), sets), np.cumsum(lasts))


def _done(delay: DelayModel, now: float, work: float) -> float:
    """The time at which a worker that begins now has worked for `work` seconds."""
    for begin, end in delay.windows:
        start = max(begin, now)
        if start <= end and work <= end - start:
            return start + work
        work -= max(end - start, 0.0)
    return np.inf
