"""What the server and a worker exchange in a session, and what the server counts."""

import dataclasses
from collections import Counter
from typing import NamedTuple

import numpy as np

from farsign_jax.runtime.delta_history import Delta


class Question(NamedTuple):
    """What a worker is asked.

    Attributes:
        nonce: to be returned with the answer.
        version: number of events when x was read; also to be returned with the answer.
        number: the number that seeds the directions and the mini-batch.
        step: the step of the server at that x.
        direction: the directions, or None if the worker draws them from the number.
    """

    nonce: int
    version: int
    number: int
    step: int
    direction: np.ndarray | None


class Reply(NamedTuple):
    """What a worker receives.

    Attributes:
        verdict: on its message, one of `VERDICTS`, or "joined".
        question: the next question.
        delta: the changes from the worker's x to that of the question, or None if the worker
            is too far behind and x is large.
        wait: seconds to wait before the reply is sent.
    """

    verdict: str
    question: Question
    delta: Delta | None
    wait: float


# Verdicts on messages. An honest worker causes none of those in `STRIKES`.
STRIKES = ("garbage", "size", "nonce", "version", "nonfinite", "flood")
VERDICTS = ("accepted", "stale", "unrecorded", *STRIKES)


class SessionClosed(Exception):
    """The server does not, or no longer, listen to a worker; the message gives the reason."""


@dataclasses.dataclass(eq=False)
class Session:
    """A worker from the time it joins until it leaves or joins again.

    Attributes:
        worker: its number.
        nonce: of the open question; -1 if there is none.
        version: of the open question.
        step: of the open question.
        reason: why the session was closed; empty while it is open.
    """

    worker: int
    nonce: int = -1
    version: int = 0
    step: int = 0
    reason: str = ""


@dataclasses.dataclass
class WorkerStatistics:
    """Counts of one worker for monitoring.

    Attributes:
        verdicts: number of messages by verdict.
        staleness: number of accepted answers by bit length of their staleness, that is, with
            a staleness of 0, 1, 2..3, 4..7, ...
        total_staleness: sum of the staleness of all accepted answers, in updates.
        latest: staleness of the most recent answer.
        joins: number of sessions opened.
        leaves: number of sessions closed, by reason.
    """

    verdicts: Counter = dataclasses.field(default_factory=Counter)
    staleness: Counter = dataclasses.field(default_factory=Counter)
    total_staleness: int = 0
    latest: int = 0
    joins: int = 0
    leaves: Counter = dataclasses.field(default_factory=Counter)
