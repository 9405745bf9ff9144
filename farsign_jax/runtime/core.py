"""The server's side of the conversation: who may speak, what is heard, what is answered.

No I/O and no clock: bytes, times and sessions come from a driver, one call at a time, so every
arrival is atomic and every rule can be tested without a network. What a worker can do to the
server is what `hear` lets it do:

- an answer is a nonce, the version of x it is about, and numbers. Who answers is known from
  the connection, which directions are meant from the question: neither can be forged;
- one question is open per worker, and its nonce cannot be guessed: no answer can come twice,
  come early, or be prepared before the question is asked;
- whatever is not an answer to that question, as many finite numbers as it takes, changes
  nothing but the count of its strikes. These outlive the connection; who has too many is out;
- who answers often waits for the next question (a token bucket per worker).

Whatever passes goes into the log, and then into `Machine.hear`.
"""

import dataclasses
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from farsign_jax.runtime.delta_history import NOTHING, Delta, History
from farsign_jax.runtime.journal import Arrival
from farsign_jax.runtime.limits import Bucket, Limits
from farsign_jax.runtime.state_machine import Machine, check_alike


class Question(NamedTuple):
    """What a worker is asked."""

    nonce: int  # to be sent back with the answer
    version: int  # events heard when x was read; with that, too
    number: int  # what directions and mini-batch are drawn from
    step: int  # of the server at that x
    direction: np.ndarray | None  # None: drawn from the number


class Reply(NamedTuple):
    """What a worker is told."""

    verdict: str  # of its message, one of `VERDICTS`; or "joined"
    question: Question
    delta: Delta | None  # from the x it has to that of the question; None: too far behind
    wait: float  # seconds before it is sent


# Of messages; those in `STRIKES` are no honest mistakes.
STRIKES = ("garbage", "size", "nonce", "version", "nonfinite", "flood")
VERDICTS = ("accepted", "stale", *STRIKES)


class Out(Exception):
    """A worker that is not listened to; the message says why."""


@dataclasses.dataclass(eq=False)
class Session:
    """A worker that has joined, until it leaves or joins again."""

    worker: int
    nonce: int = -1  # of the open question; -1, none
    version: int = 0
    step: int = 0
    over: str = ""  # why, once it is


@dataclasses.dataclass
class Tally:
    """What is known of one worker, for those who watch."""

    verdicts: Counter = dataclasses.field(default_factory=Counter)
    staleness: Counter = dataclasses.field(default_factory=Counter)  # 0, 1, 2..3, 4..7, ...
    latest: int = 0  # staleness of its last answer
    joins: int = 0
    leaves: Counter = dataclasses.field(default_factory=Counter)


class ServerCore:
    """One run, seen from its server.

    Args:
        machine: what answers do to x and y.
        limits: see there.
        by_seed: whether workers draw the directions from the number of the question.
        log: told of every accepted arrival, before it is heard.
        struck: told the strikes i64[m] whenever they change.
        last: the run is over when so many answers have been heard; None, never.
        nonce: draws what nobody can guess, 0 .. 2^63 - 1.
        strikes: of each worker, so far.
    """

    def __init__(
        self,
        machine: Machine,
        limits: Limits,
        *,
        by_seed: bool,
        log: Callable[[Arrival], Any],
        struck: Callable[[np.ndarray], Any] = lambda strikes: None,
        nonce: Callable[[], int] = lambda: secrets.randbits(63),
        strikes: np.ndarray | None = None,
        last: int | None = None,
    ):
        m = machine.num_workers
        self.machine, self.limits, self.events = machine, limits, 0
        self.last, self.sessions = last, dict[int, Session]()
        self.tallies = [Tally() for _ in range(m)]
        self.strikes = np.zeros(m, np.int64) if strikes is None else strikes
        self._by_seed, self._log, self._nonce, self._struck = by_seed, log, nonce, struck
        self._history = History(machine, limits.history, 0)
        self._buckets = [Bucket(limits.rate, limits.burst) for _ in range(m)]
        self._size = int(np.prod(machine.shape))
        self._numbers = np.zeros(m, np.int64)
        self._directions = [machine.ask(i, 0) for i in range(m)]

    def join(self, worker: int, have: int | None, now: float) -> tuple[Session, Reply]:
        """A worker is there, again or for the first time, with the x of version `have`.

        A session it had before is over. It is asked what it was asked, about x as it is now.

        Raises:
            Out: where it has too many strikes, or the run is over.
        """
        self.refuse_out(worker)
        if self.over:
            raise Out("over")
        if worker in self.sessions:
            self.leave(self.sessions[worker], "replaced")
        session = self.sessions[worker] = Session(worker)
        self.tallies[worker].joins += 1
        wait = self._buckets[worker].due(now)
        return session, self._ask(session, "joined", have, wait)

    def refuse_out(self, worker: int) -> None:
        """Raises `Out` where a worker has too many strikes."""
        count = self.strikes[worker]
        if count >= self.limits.strikes:
            raise Out(f"worker {worker} has {count} strikes")

    @property
    def over(self) -> bool:
        """Whether all answers have been heard."""
        return self.last is not None and self.events >= self.last

    def leave(self, session: Session, why: str) -> None:
        """Ends a session. y keeps what the worker said; nobody waits for it."""
        if session.over:
            return
        session.over, session.nonce = why, -1
        self.tallies[session.worker].leaves[why] += 1
        if self.sessions.get(session.worker) is session:
            del self.sessions[session.worker]

    def handle(
        self, session: Session, nonce: int, version: int, value: bytes, now: float
    ) -> Reply:
        """Judges one answer; hears it, if it is one; and asks again.

        Raises:
            Out: where the session or the run is over, or that was one strike too many.
        """
        if self.over:
            self.leave(session, "over")
        if session.over:
            raise Out(session.over)
        verdict, numbers = self._judge(session, nonce, version, value)
        if verdict in STRIKES:
            self.strike(session, verdict)  # its question stays open
            wait = self._buckets[session.worker].take(now)
            return Reply(verdict, self._question(session), NOTHING, wait)
        worker, have, wait = session.worker, session.version, 0.0
        if verdict == "accepted":
            self._hear(session, numbers, now)
            wait = self._buckets[worker].take(now)
        self.tallies[worker].verdicts[verdict] += 1
        return self._ask(session, verdict, have, wait)

    def strike(self, session: Session, verdict: str) -> None:
        """Counts a message that no honest worker sends.

        Raises:
            Out: where that was one too many; the session is over.
        """
        worker = session.worker
        self.strikes[worker] += 1
        self.tallies[worker].verdicts[verdict] += 1
        self._struck(self.strikes)
        if self.strikes[worker] >= self.limits.strikes:
            self.leave(session, "strikes")
            self.refuse_out(worker)

    def _judge(
        self, session: Session, nonce: int, version: int, value: bytes
    ) -> tuple[str, np.ndarray]:
        none = np.zeros(0, np.float32)
        if nonce != session.nonce or nonce < 0:
            return "nonce", none
        if version != session.version:
            return "version", none
        if len(value) != 4 * self._size:
            return "size", none
        numbers = np.frombuffer(value, "<f4")
        if not np.isfinite(numbers).all():
            return "nonfinite", none
        limit = self.limits.staleness
        if limit is not None and self.machine.step - session.step > limit:
            return "stale", none
        return "accepted", numbers.reshape(self.machine.shape)

    def _hear(self, session: Session, numbers: np.ndarray, now: float) -> None:
        worker, machine = session.worker, self.machine
        number = int(self._numbers[worker])
        self._log(Arrival(worker, number, session.step, now, numbers))
        late = machine.step - session.step
        tally = self.tallies[worker]
        tally.latest = late
        tally.staleness[late.bit_length()] += 1
        self.apply(worker, session.step, numbers)

    def apply(self, worker: int, step: int, numbers: np.ndarray) -> None:
        """Hears an answer that has been accepted, now or in a log, and asks anew."""
        machine = self.machine
        self._history.add(machine.hear(worker, step, self._directions[worker], numbers))
        self.events += 1
        self._numbers[worker] = self.events
        self._directions[worker] = machine.ask(worker, self.events)

    def _ask(self, session: Session, verdict: str, have: int | None, wait: float) -> Reply:
        session.version, session.step = self.events, self.machine.step
        session.nonce = self._nonce()
        return Reply(verdict, self._question(session), self._history.since(have), wait)

    def ask_again(self, session: Session, verdict: str, have: int) -> Reply:
        """The open question about x as it is now, for a worker with the x of `have`."""
        return self._ask(session, verdict, have, 0.0)

    def _question(self, session: Session) -> Question:
        direction = None if self._by_seed else self._directions[session.worker]
        number = int(self._numbers[session.worker])
        return Question(session.nonce, session.version, number, session.step, direction)

    def snapshot(self) -> tuple[int, np.ndarray]:
        """The version of x, and x, to be read before the next call."""
        return self.events, self.machine.params

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that a checkpoint needs, by name; to be written before the next call.

        Nonces are not part of it: whoever joins after a restart is given a new one. Nor are
        strikes, which must not wait for a checkpoint.
        """
        return {f"machine/{name}": a for name, a in self.machine.state().items()} | {
            "events": np.asarray(self.events, np.int64),
            "numbers": self._numbers,
            "directions": np.stack(self._directions),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state_dict` returned; before anybody has joined.

        Raises:
            ValueError: where it is that of something else.
        """
        check_alike(state, self.state_dict())
        parts = ((name.partition("machine/")[2], a) for name, a in state.items())
        self.machine.restore({name: a for name, a in parts if name})
        self.events, self._numbers = int(state["events"]), state["numbers"]
        self._directions = list(state["directions"])
        self._history = History(self.machine, self.limits.history, self.events)
