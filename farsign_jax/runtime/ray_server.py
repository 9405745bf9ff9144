"""The server among Ray actors: one worker each, placed and started by Ray.

For machines that trust each other only. Whatever a worker returns is unpickled here, and any
member of a Ray cluster may run code on all others: what `core` refuses are mistakes and the
lies of `attacks`, not intruders. Those are what `grpc_server` is for.

The server asks and `ray.wait` says who has answered, the longest asked first, so that nobody
is passed over. With a server that is an actor itself and is called by its workers, four
workers that answer at once were heard less often.
"""

import asyncio
import dataclasses
import os
import secrets
import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from farsign_jax.cli import commands
from farsign_jax.runtime.core import Out, Question, Reply, ServerCore, Session
from farsign_jax.runtime.worker import attack_of, kind_of
from farsign_jax.validation import InvalidConfig

try:
    import ray  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

_LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 to mean an address that others can reach


def connect(address: str) -> None:
    """Joins the Ray cluster at an address; "local" starts one, for this process alone.

    Nothing is reported to Ray's makers. What is started here speaks over loopback addresses,
    and to nobody without a token that is drawn for it.

    Raises:
        InvalidConfig: where there is no cluster.
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
    """Raises `InvalidConfig` where so many workers will not all be placed."""
    there = ray.cluster_resources().get("CPU", 0)
    if workers * cpus > there:
        rule = f"{workers} workers with --cpus={cpus:g} each need {workers * cpus:g} cores"
        raise InvalidConfig(f"{rule}: the cluster has {there:g}")


def _last_line(error: BaseException) -> str:
    """What an error of Ray says, without the traceback it brings along."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[-1], 200, placeholder=" ...")


class Worker:
    """The actor: one worker and the x that it was told.

    Args:
        setting: of the run, JSON.
        fingerprint: of the setting.
        worker: its number.
        attack: None, honest; or what it says instead, as in --attack.
        data_dir: where the data set lies.
    """

    def __init__(
        self,
        setting: str,
        fingerprint: str,
        worker: int,
        attack: str | None,
        data_dir: str | None,
    ):
        commands.prepare_jax()
        lies = attack_of(attack)
        self._answer = kind_of(setting, fingerprint, worker, lies, data_dir).answer
        self._x = np.zeros(0, np.float32)

    def answer(self, question: Question, at: np.ndarray | None, values: np.ndarray) -> Any:
        """The numbers that answer a question, after x has been changed as told."""
        if at is None:
            self._x = np.array(values)  # Ray's own memory is read only
        else:
            self._x[at] = values
        return self._answer(self._x, question)


def placed(cpus: float, attack: str | None, liars: int, *told: Any) -> Callable[[int], Any]:
    """What starts the actor of a worker, on whichever host has the fewest.

    `told`: setting, fingerprint and data_dir.
    """
    setting, fingerprint, data_dir = told
    actor = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(Worker)

    def start(worker: int) -> Any:
        lies = attack if worker < liars else None
        return actor.remote(setting, fingerprint, worker, lies, data_dir)

    return start


@dataclasses.dataclass(eq=False)
class _Asked:
    """An actor that was asked something."""

    handle: Any
    session: Session
    nonce: int
    version: int
    due: float  # when it is taken for lost


class RayServer:
    """Asks the actors of a core's workers.

    Args:
        core: the run.
        start: starts the actor of a worker.
        silence: seconds after which an actor that has not answered is replaced.
        grace: seconds more for its first answer: Ray starts a process, which starts JAX.
        tries: actors of a worker that may be lost one after the other without an answer;
            then there is no such worker any more.
        began: seconds that the run has been running already.
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
        self.core, self.bytes, self.turned_away = core, Counter[str](), Counter[str]()
        self._start, self._silence, self._grace = start, silence, grace
        self._tries = tries
        self._began = time.monotonic() - began
        self.missing = 0  # it waits for nobody
        self._open: dict[Any, _Asked] = {}  # the longest asked first
        self._lost = Counter[int]()  # actors of each worker since its last answer
        self._handles: dict[int, Any] = {}
        self._why = deque(["nobody may answer"], maxlen=1)

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    async def run(self) -> None:
        """Until the run is over.

        Raises:
            InvalidConfig: where no worker is left.
        """
        for worker in range(self.core.machine.num_workers):
            self._join(worker)
        while not self.core.over:
            if not self._open:
                raise InvalidConfig(f"no worker is left: {self._why[0]}")
            ready, _ = ray.wait(list(self._open), timeout=0.05)
            for ref in ready:
                self._hear(ref)
            now = self.now()
            for ref in [ref for ref, asked in self._open.items() if asked.due < now]:
                self._replace(self._open.pop(ref), "silent", "silent")
            await asyncio.sleep(0)  # whoever else lives on this loop

    async def stop(self) -> None:
        """Ends all sessions and actors."""
        why = "over" if self.core.over else "stopping"
        for session in list(self.core.sessions.values()):
            self.core.leave(session, why)
        for handle in self._handles.values():
            ray.kill(handle)
        self._open.clear()

    def _join(self, worker: int) -> None:
        """Starts the actor of a worker and asks it what the worker was asked last."""
        try:
            session, reply = self.core.join(worker, None, self.now())
        except Out as error:
            self.turned_away["strikes"] += 1
            self._why.append(str(error))
            return
        handle = self._handles[worker] = self._start(worker)
        self._ask(handle, session, reply, self._grace)

    def _ask(self, handle: Any, session: Session, reply: Reply, grace: float = 0.0) -> None:
        question, delta = reply.question, reply.delta
        at, values = (None, self.core.snapshot()[1]) if delta is None else delta
        ref = handle.answer.remote(question, at, values)  # copies x before it returns
        known = question.nonce, question.version, self.now() + self._silence + grace
        self._open[ref] = _Asked(handle, session, *known)

    def _hear(self, ref: Any) -> None:
        """Takes in an answer, or what came of the actor that owed it."""
        asked = self._open.pop(ref)
        worker, session = asked.session.worker, asked.session
        try:
            value = np.asarray(ray.get(ref), "<f4").tobytes()
        except (ray.exceptions.RayError, TypeError, ValueError) as error:
            self._replace(asked, "gone", _last_line(error))
            return
        self._lost[worker] = 0
        told = asked.nonce, asked.version, value, self.now()
        try:
            self._ask(asked.handle, session, self.core.handle(session, *told))
        except Out as error:
            self._why.append(str(error))
            ray.kill(self._handles.pop(worker))

    def _replace(self, asked: _Asked, why: str, error: str) -> None:
        """Another actor for a worker whose own is lost; none, where none answers."""
        worker = asked.session.worker
        self.core.leave(asked.session, why)
        ray.kill(self._handles.pop(worker))
        self._lost[worker] += 1
        again = self._lost[worker] < self._tries
        then = "starts again" if again else "is given up"
        print(f"worker {worker} {then}: {error}", file=sys.stderr, flush=True)
        self._why.append(error)
        if again and not self.core.over:
            self._join(worker)
