"""The server of workers that are Ray actors, which Ray places and starts.

Only for machines that trust each other. Whatever a worker returns is unpickled here, and any
member of a Ray cluster may run code on all others: `core` protects against mistakes and against
the simulated attacks of `attacks`, not against intruders. For these, use `grpc_server`.

The server asks the actors, and `ray.wait` reports which of them have answered, those with the
oldest question first, so that no worker is passed over. In an alternative design, where the
server was an actor that its workers called, four workers that answered at once were processed
less often.
"""

import asyncio
import dataclasses
import os
import secrets
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from farsign_jax.cli import commands
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.session import Question, Reply, Session, SessionClosed
from farsign_jax.runtime.worker import make_attack, make_responder
from farsign_jax.validation import InvalidConfig

try:
    import ray  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

_LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by an address that others can reach


def connect(address: str) -> None:
    """Joins the Ray cluster at an address; "local" starts a cluster for this process alone.

    Usage statistics are disabled. A cluster that is started here uses loopback addresses and
    requires a token that is drawn for it.

    Raises:
        InvalidConfig: if there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {}
    if address == "local":
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex()
        options = {"_node_ip_address": _LOOPBACK, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise InvalidConfig(f"--address={address}: {_last_line(error)}") from None


def check_room(workers: int, cpus: float) -> None:
    """Raises `InvalidConfig` if the cluster has too few cores for all workers."""
    available = ray.cluster_resources().get("CPU", 0)
    if workers * cpus > available:
        rule = f"{workers} workers with --cpus={cpus:g} each need {workers * cpus:g} cores"
        raise InvalidConfig(f"{rule}: the cluster has {available:g}")


def _last_line(error: BaseException) -> str:
    """Returns the message of an error of Ray without the traceback that it contains."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[-1], 200, placeholder=" ...")


class Worker:
    """The actor: one worker with its copy of x.

    Args:
        config: the configuration of the run, JSON.
        fingerprint: of the configuration.
        worker: its number.
        attack: the attack of a Byzantine worker, as in --attack; None for an honest worker.
        data_dir: the directory of the data set.
    """

    def __init__(
        self,
        config: str,
        fingerprint: str,
        worker: int,
        attack: str | None,
        data_dir: str | None,
    ):
        commands.prepare_jax()
        responder = make_responder(config, fingerprint, worker, make_attack(attack), data_dir)
        self._answer = responder.answer
        self._x = np.zeros(0, np.float32)

    def answer(self, question: Question, indices: np.ndarray | None, values: np.ndarray) -> Any:
        """Sets x[indices] to `values`, or all of x, and returns the answer to a question."""
        if indices is None:
            self._x = np.array(values)  # a copy, because Ray's memory is read-only
        else:
            self._x[indices] = values
        return self._answer(self._x, question)


def actor_factory(
    cpus: float,
    attack: str | None,
    byzantine: int,
    config: str,
    fingerprint: str,
    data_dir: str | None,
) -> Callable[[int], Any]:
    """Returns a function that starts the actor of a worker; Ray spreads them over the hosts.

    Args:
        cpus: cores reserved for each worker.
        attack: the attack of the Byzantine workers.
        byzantine: number of Byzantine workers, which are the first ones.
        config: the configuration of the run, JSON.
        fingerprint: of the configuration.
        data_dir: the directory of the data set.
    """
    actor = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(Worker)

    def start(worker: int) -> Any:
        own_attack = attack if worker < byzantine else None
        return actor.remote(config, fingerprint, worker, own_attack, data_dir)

    return start


@dataclasses.dataclass(eq=False)
class _OpenQuestion:
    """A question that an actor has not answered yet."""

    handle: Any
    session: Session
    nonce: int
    version: int
    deadline: float  # after which the actor is considered lost


class RayServer:
    """Carries the questions and answers between a core and Ray actors.

    Args:
        core: the server's side of the run.
        start: starts the actor of a worker.
        silence: seconds after which an actor that has not answered is replaced.
        grace: additional seconds for an actor's first answer, since Ray starts a process and
            the process starts JAX.
        tries: number of consecutive actors of a worker that may be lost without an answer
            before the worker is no longer replaced.
        began: seconds for which the run was served before.

    Attributes:
        bytes: empty, since Ray does not count them.
        rejected: number of actors that were not admitted, by reason.
        missing: 0, since this server does not wait for other workers.
    """

    def __init__(
        self,
        core: ServerCore,
        start: Callable[[int], Any],
        *,
        silence: float = 60.0,
        grace: float = 60.0,
        tries: int = 3,
        began: float = 0.0,
    ):
        self.core, self.bytes, self.rejected = core, Counter[str](), Counter[str]()
        self._start, self._silence, self._grace = start, silence, grace
        self._tries = tries
        self._began = time.monotonic() - began
        self.missing = 0
        self._open: dict[Any, _OpenQuestion] = {}  # the oldest question first
        self._lost = Counter[int]()  # lost actors of each worker since its last answer
        self._handles: dict[int, Any] = {}
        self._reason = "every worker has too many strikes"  # why the last worker was lost

    def now(self) -> float:
        """Returns the number of seconds since the run began."""
        return time.monotonic() - self._began

    async def run(self) -> None:
        """Returns when the run is over.

        Raises:
            InvalidConfig: if no worker is left.
        """
        for worker in range(self.core.machine.num_workers):
            self._join(worker)
        while not self.core.over:
            if not self._open:
                raise InvalidConfig(f"no worker is left: {self._reason}")
            ready, _ = ray.wait(list(self._open), timeout=0.05)
            for ref in ready:
                self._receive(ref)
            now = self.now()
            for ref in [ref for ref, one in self._open.items() if one.deadline < now]:
                self._replace(self._open.pop(ref), "silent", "silent")
            await asyncio.sleep(0)  # lets other tasks of the event loop run

    async def stop(self) -> None:
        """Closes all sessions and ends all actors."""
        reason = "over" if self.core.over else "stopping"
        for session in list(self.core.sessions.values()):
            self.core.leave(session, reason)
        for handle in self._handles.values():
            ray.kill(handle)
        self._open.clear()

    def _join(self, worker: int) -> None:
        """Starts the actor of a worker and asks it the worker's open question."""
        try:
            session, reply = self.core.join(worker, None, self.now())
        except SessionClosed as error:
            self.rejected["strikes"] += 1
            self._reason = str(error)
            return
        handle = self._handles[worker] = self._start(worker)
        self._ask(handle, session, reply, self._grace)

    def _ask(self, handle: Any, session: Session, reply: Reply, grace: float = 0.0) -> None:
        question, delta = reply.question, reply.delta
        indices, values = (None, self.core.snapshot()[1]) if delta is None else delta
        ref = handle.answer.remote(question, indices, values)  # copies x before it returns
        deadline = self.now() + self._silence + grace
        self._open[ref] = _OpenQuestion(
            handle, session, question.nonce, question.version, deadline
        )

    def _receive(self, ref: Any) -> None:
        """Processes an answer, or the loss of the actor that should have sent it."""
        asked = self._open.pop(ref)
        worker, session = asked.session.worker, asked.session
        try:
            value = np.asarray(ray.get(ref), "<f4").tobytes()
        except (ray.exceptions.RayError, TypeError, ValueError) as error:
            self._replace(asked, "gone", _last_line(error))
            return
        self._lost[worker] = 0
        answer = asked.nonce, asked.version, value, self.now()
        try:
            self._ask(asked.handle, session, self.core.handle(session, *answer))
        except SessionClosed as error:
            self._reason = str(error)
            ray.kill(self._handles.pop(worker))

    def _replace(self, asked: _OpenQuestion, reason: str, error: str) -> None:
        """Replaces the lost actor of a worker, unless too many of its actors were lost."""
        worker = asked.session.worker
        self.core.leave(asked.session, reason)
        ray.kill(self._handles.pop(worker))
        self._lost[worker] += 1
        restarts = self._lost[worker] < self._tries
        outcome = "is restarted" if restarts else "is given up"
        print(f"worker {worker} {outcome}: {error}", file=sys.stderr, flush=True)
        self._reason = error
        if restarts and not self.core.over:
            self._join(worker)
