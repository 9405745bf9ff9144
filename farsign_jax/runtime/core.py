"""The server's side of the conversation: it checks each answer, applies it and replies.

This module performs no I/O and reads no clock. A driver passes in bytes, times and sessions,
one call at a time, so every arrival is atomic and every rule can be tested without a network.
What a worker can do to the server is limited to what `handle` permits:

- An answer consists of a nonce, the version of x at which it was computed, and values. The
  connection determines which worker answers and the question determines the directions, so
  neither can be forged.
- Each worker has one open question with an unpredictable nonce, so an answer can be neither
  repeated, nor sent early, nor prepared before the question is asked.
- A message that does not answer the open question with the right number of finite values
  changes nothing except the worker's strike count. Strikes survive reconnection, and a worker
  with too many of them is excluded.
- A worker that answers too often waits for its next question (one token bucket per worker).

An accepted answer is first written to the journal and then passed to `StateMachine.update`.
"""

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from farsign_jax.runtime.delta_history import NO_CHANGE, DeltaHistory
from farsign_jax.runtime.journal import Arrival, NotRecorded
from farsign_jax.runtime.limits import Limits, TokenBucket
from farsign_jax.runtime.session import (
    STRIKES,
    Question,
    Reply,
    Session,
    SessionClosed,
    WorkerStatistics,
)
from farsign_jax.runtime.state_machine import StateMachine, check_alike

_UNRECORDED_WAIT = 1.0  # seconds until a worker is asked again


class ServerCore:
    """The server's side of one run.

    Args:
        machine: the state that answers change.
        limits: limits on each worker.
        by_seed: whether workers draw the directions from the number of the question.
        log: called with every accepted arrival before it is applied. If it raises
            `NotRecorded`, nothing is applied, and the worker is asked again a little later.
        on_strike: called with all strike counts, i64[m], whenever one of them changes.
        last: the number of events after which the run is over; None runs forever.
        nonce: draws an unpredictable number in 0 .. 2^63 - 1.
        strikes: the initial strike counts, i64[m].
    """

    def __init__(
        self,
        machine: StateMachine,
        limits: Limits,
        *,
        by_seed: bool,
        log: Callable[[Arrival], Any],
        on_strike: Callable[[np.ndarray], Any] = lambda strikes: None,
        nonce: Callable[[], int] = lambda: secrets.randbits(63),
        strikes: np.ndarray | None = None,
        last: int | None = None,
    ):
        m = machine.num_workers
        self.machine, self.limits, self.events = machine, limits, 0
        self.last, self.sessions = last, dict[int, Session]()
        self.statistics = [WorkerStatistics() for _ in range(m)]
        self.strikes = np.zeros(m, np.int64) if strikes is None else strikes
        self._by_seed, self._log, self._nonce = by_seed, log, nonce
        self._on_strike = on_strike
        self._history = DeltaHistory(machine, limits.history, 0)
        self._buckets = [TokenBucket(limits.rate, limits.burst) for _ in range(m)]
        self._size = int(np.prod(machine.shape))
        self._numbers = np.zeros(m, np.int64)
        self._directions = [machine.query(i, 0) for i in range(m)]

    def join(self, worker: int, have: int | None, now: float) -> tuple[Session, Reply]:
        """Opens a session of a worker and closes the one that it had before.

        The worker receives the question it was last asked, at the current x.

        Args:
            worker: its number.
            have: the version of x that it has, or None.
            now: the time in seconds of the run.

        Raises:
            SessionClosed: if the worker has too many strikes, or the run is over.
        """
        self.check_strikes(worker)
        if self.over:
            raise SessionClosed("over")
        if worker in self.sessions:
            self.leave(self.sessions[worker], "replaced")
        session = self.sessions[worker] = Session(worker)
        self.statistics[worker].joins += 1
        wait = self._buckets[worker].delay(now)
        return session, self._ask(session, "joined", have, wait)

    def check_strikes(self, worker: int) -> None:
        """Raises `SessionClosed` if a worker has too many strikes."""
        count = self.strikes[worker]
        if count >= self.limits.strikes:
            raise SessionClosed(f"worker {worker} has {count} strikes")

    @property
    def over(self) -> bool:
        """Whether the run has processed all of its events."""
        return self.last is not None and self.events >= self.last

    def leave(self, session: Session, reason: str) -> None:
        """Closes a session. The worker's part of y stays, and no one waits for the worker."""
        if session.reason:
            return
        session.reason, session.nonce = reason, -1
        self.statistics[session.worker].leaves[reason] += 1
        if self.sessions.get(session.worker) is session:
            del self.sessions[session.worker]

    def handle(
        self, session: Session, nonce: int, version: int, value: bytes, now: float
    ) -> Reply:
        """Checks one answer, applies it if it is valid, and asks the next question.

        Raises:
            SessionClosed: if the session is closed, the run is over, or this answer was one
                strike too many.
        """
        if self.over:
            self.leave(session, "over")
        if session.reason:
            raise SessionClosed(session.reason)
        verdict, values = self._check(session, nonce, version, value)
        if verdict in STRIKES:
            self.strike(session, verdict)  # the question stays open
            wait = self._buckets[session.worker].take(now)
            return Reply(verdict, self._question(session), NO_CHANGE, wait)
        worker, have, wait = session.worker, session.version, 0.0
        if verdict == "accepted":
            try:
                self._accept(session, values, now)
            except NotRecorded:  # the question stays open
                self.statistics[worker].verdicts["unrecorded"] += 1
                question = self._question(session)
                return Reply("unrecorded", question, NO_CHANGE, _UNRECORDED_WAIT)
            wait = self._buckets[worker].take(now)
        self.statistics[worker].verdicts[verdict] += 1
        return self._ask(session, verdict, have, wait)

    def strike(self, session: Session, verdict: str) -> None:
        """Counts a message that no honest worker sends.

        Raises:
            SessionClosed: if the worker now has too many strikes; its session is closed.
        """
        worker = session.worker
        self.strikes[worker] += 1
        self.statistics[worker].verdicts[verdict] += 1
        self._on_strike(self.strikes)
        if self.strikes[worker] >= self.limits.strikes:
            self.leave(session, "strikes")
            self.check_strikes(worker)

    def _check(
        self, session: Session, nonce: int, version: int, value: bytes
    ) -> tuple[str, np.ndarray]:
        none = np.zeros(0, np.float32)
        if nonce != session.nonce or nonce < 0:
            return "nonce", none
        if version != session.version:
            return "version", none
        if len(value) != 4 * self._size:
            return "size", none
        values = np.frombuffer(value, "<f4")
        if not np.isfinite(values).all():
            return "nonfinite", none
        limit = self.limits.staleness
        if limit is not None and self.machine.step - session.step > limit:
            return "stale", none
        return "accepted", values.reshape(self.machine.shape)

    def _accept(self, session: Session, values: np.ndarray, now: float) -> None:
        worker, machine = session.worker, self.machine
        number = int(self._numbers[worker])
        self._log(Arrival(worker, number, session.step, now, values))
        staleness = machine.step - session.step
        statistics = self.statistics[worker]
        statistics.latest = staleness
        statistics.total_staleness += staleness
        statistics.staleness[staleness.bit_length()] += 1
        self.apply(worker, session.step, values)

    def apply(self, worker: int, step: int, values: np.ndarray) -> None:
        """Applies an accepted answer, a new or a recorded one, and draws the next question."""
        machine = self.machine
        self._history.add(machine.update(worker, step, self._directions[worker], values))
        self.events += 1
        self._numbers[worker] = self.events
        self._directions[worker] = machine.query(worker, self.events)

    def _ask(self, session: Session, verdict: str, have: int | None, wait: float) -> Reply:
        session.version, session.step = self.events, self.machine.step
        session.nonce = self._nonce()
        return Reply(verdict, self._question(session), self._history.since(have), wait)

    def ask_again(self, session: Session, verdict: str, have: int) -> Reply:
        """Returns the open question at the current x, for a worker with version `have` of x."""
        return self._ask(session, verdict, have, 0.0)

    def _question(self, session: Session) -> Question:
        direction = None if self._by_seed else self._directions[session.worker]
        number = int(self._numbers[session.worker])
        return Question(session.nonce, session.version, number, session.step, direction)

    def snapshot(self) -> tuple[int, np.ndarray]:
        """Returns the version of x, and x itself, which must be read before the next call."""
        return self.events, self.machine.params

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns the content of a checkpoint, to be written before the next call.

        Nonces are not included: a worker that joins after a restart receives a new one. Strikes
        are not included either, since they must not wait for a checkpoint.
        """
        return {f"machine/{name}": a for name, a in self.machine.state().items()} | {
            "events": np.asarray(self.events, np.int64),
            "numbers": self._numbers,
            "directions": np.stack(self._directions),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `state_dict` returned, before any worker has joined.

        Raises:
            ValueError: if the state does not fit this run.
        """
        check_alike(state, self.state_dict())
        parts = ((name.partition("machine/")[2], a) for name, a in state.items())
        self.machine.restore({name: a for name, a in parts if name})
        self.events, self._numbers = int(state["events"]), state["numbers"]
        self._directions = list(state["directions"])
        self._history = DeltaHistory(self.machine, self.limits.history, self.events)
