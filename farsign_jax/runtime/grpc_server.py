"""The server over a network: one stream per worker, and nothing but bytes from it.

Who a worker is, is its certificate, looked up in the list of who may join; a message cannot
say otherwise. Bytes are read only while a reply to what came before is written: a peer that
pipelines fills its own window, and one that does not read is gone after the silence limit.

Two layers notice who is gone: pings of the connection, for a host that is dead or frozen, and
the silence limit, for a process whose connection lives and whose program does not.
"""

import asyncio
import contextlib
import secrets
import time
from collections import Counter, deque
from typing import Any, NoReturn

import grpc

from farsign_jax.runtime import messages
from farsign_jax.runtime.connection import Security, Terms, options
from farsign_jax.runtime.core import Out, Reply, ServerCore, Session
from farsign_jax.runtime.limits import Bucket
from farsign_jax.validation import InvalidConfig

_CODES = {
    "strikes": grpc.StatusCode.PERMISSION_DENIED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
    "flood": grpc.StatusCode.INVALID_ARGUMENT,
    "garbage": grpc.StatusCode.INVALID_ARGUMENT,
    "replaced": grpc.StatusCode.ALREADY_EXISTS,
    "silent": grpc.StatusCode.DEADLINE_EXCEEDED,
    "slow": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "over": grpc.StatusCode.OUT_OF_RANGE,
}
_TRIES = 3  # to send all of a large x before the history has moved on


class GrpcServer:
    """Lets workers converse with a core.

    Args:
        core: the run.
        setting: of the run, JSON, told to everybody who joins.
        fingerprint: of the setting.
        security: None, no encryption and workers are believed who they are; for tests on
            one machine.
        terms: see there.
        began: seconds that the run has been running already.
    """

    def __init__(
        self,
        core: ServerCore,
        setting: str,
        fingerprint: str,
        *,
        security: Security | None,
        terms: Terms | None = None,
        began: float = 0.0,
    ):
        self.core, self.terms = core, terms or Terms()
        self.bytes: Counter[str] = Counter()  # "up" and "down", of messages
        self.turned_away: Counter[str] = Counter()  # who did not get as far as a session
        self._security, self._start = security, time.monotonic() - began
        m = core.machine.num_workers
        self._joins = [Bucket(1.0, self.terms.joins) for _ in range(m)]
        self._instances = [0] * m  # who speaks for each worker, and who did
        self._replaced = [deque[int](maxlen=64) for _ in range(m)]
        self._ready = set[int]()  # workers that have answered, since the start
        self._enough = asyncio.Event()  # of these
        if core.events:
            self._enough.set()  # a run that goes on
        self._at_the_door: set[int] = set()
        self._writing: set[Session] = set()
        self._tasks: dict[Session, Any] = {}
        self._heard: dict[Session, float] = {}
        self._certificates: dict[Session, bytes] = {}
        down = messages.Down()
        down.welcome.protocol, down.welcome.epoch = messages.PROTOCOL, secrets.randbits(63) | 1
        down.welcome.setting, down.welcome.fingerprint = setting, fingerprint
        down.welcome.dim = len(core.machine.params)
        down.welcome.silence = self.terms.silence
        self._welcome = down

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    async def start(self, address: str) -> int:
        """Listens at HOST:PORT (port 0: any that is free); the port.

        Raises:
            InvalidConfig: where nobody can listen there.
        """
        core, handler = self.core, grpc.stream_stream_rpc_method_handler(self._converse)
        size = 1
        for length in core.machine.shape:
            size *= length
        self._server: Any = grpc.aio.server(
            options=options(self.terms, size),
            maximum_concurrent_rpcs=2 * core.machine.num_workers + 8,
        )
        handlers = {messages.METHOD: handler}
        generic = grpc.method_handlers_generic_handler(messages.SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        try:
            if self._security is None:
                port = self._server.add_insecure_port(address)
            else:
                key, certificate, authority, _ = self._security
                credentials = grpc.ssl_server_credentials(
                    [(key, certificate)], authority, require_client_auth=True
                )
                port = self._server.add_secure_port(address, credentials)
        except (RuntimeError, ValueError) as error:
            raise InvalidConfig(f"cannot listen at {address}: {error}") from None
        if not port:
            raise InvalidConfig(f"cannot listen at {address}")
        await self._server.start()
        self._watcher = asyncio.create_task(self._watch())
        return port

    async def run(self) -> None:
        """Until the run is over."""
        while not self.core.over:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Ends all sessions; what was accepted until now is what the run is."""
        self._watcher.cancel()
        for session in list(self._tasks):
            self._end(session, "over" if self.core.over else "stopping")
        await self._server.stop(1.0)

    def _end(self, session: Session, why: str) -> None:
        """Ends a session. Who is writing ends by itself: a status cannot overtake a message."""
        self.core.leave(session, why)
        if session not in self._writing or why == "silent":
            self._tasks[session].cancel()

    async def _watch(self) -> None:
        """Ends the sessions of those who are silent, and of those no longer allowed."""
        while True:
            await asyncio.sleep(min(self.terms.silence / 4, 1.0))
            for session in list(self._tasks):
                if self.now() - self._heard[session] > self.terms.silence:
                    self._end(session, "silent")
                elif self._security is not None:
                    certificate = self._certificates[session]
                    if self._security.allowed.worker(certificate) != session.worker:
                        self._end(session, "revoked")

    async def _converse(self, _: Any, context: Any) -> None:
        """One stream, from its first byte to its last."""
        try:
            worker, certificate, hello = await self._admit(context)
            if hello.instance and hello.instance in self._replaced[worker]:
                raise Out("replaced")
            have = hello.version if hello.epoch == self._welcome.welcome.epoch else None
            old = self.core.sessions.get(worker)
            session, reply = self.core.join(worker, have, self.now())
            parts = messages.parts(reply)  # x is as it is now until we wait for something
            if old in self._tasks:
                self._end(old, "replaced")
            if self._instances[worker] != hello.instance:
                self._replaced[worker].append(self._instances[worker])
                self._instances[worker] = hello.instance
        except Out as error:
            why = str(error) if str(error) in _CODES else "strikes"
            self.turned_away[why] += 1
            await context.abort(_CODES[why], str(error))
            return
        self._tasks[session], self._heard[session] = asyncio.current_task(), self.now()
        self._certificates[session] = certificate
        why = "gone"  # unless we know better
        try:
            why = await self._talk(context, session, reply, parts)
        except Out as error:
            why = str(session.over or error)
        except asyncio.CancelledError:
            if not session.over or session in self._writing:
                raise  # the connection is gone, or stuck: there is nobody to tell
        finally:
            self.core.leave(session, why)
            self._writing.discard(session)
            for table in (self._tasks, self._heard, self._certificates):
                del table[session]
        if session.over in _CODES:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # takes what was meant to end the conversation
            await context.abort(_CODES[session.over], session.over)

    async def _admit(self, context: Any) -> tuple[int, bytes, Any]:
        """Who this is, its certificate and what it says first; aborts where it may not join."""
        if self._security is None:
            hello = await self._hello(context)
            if hello.worker >= self.core.machine.num_workers:
                await self._refuse(context, "PERMISSION_DENIED", "no such worker")
            await self._hold_up(context, hello.worker)
            return hello.worker, b"", hello
        found = context.auth_context().get("x509_pem_cert") or [b""]
        worker = self._security.allowed.worker(found[0]) if found[0] else None
        if worker is None:
            await self._refuse(context, "PERMISSION_DENIED", "not on the list")
        await self._hold_up(context, worker)
        if worker in self._at_the_door:  # or one could take the places of all
            await self._refuse(context, "UNAVAILABLE", "joins too often")
        self._at_the_door.add(worker)
        try:
            return worker, found[0], await self._hello(context)
        finally:
            self._at_the_door.discard(worker)

    async def _hold_up(self, context: Any, worker: int) -> None:
        """Aborts where a worker is out, or joins too often."""
        self.core.refuse_out(worker)
        if self._joins[worker].due(self.now()) > 0:
            await self._refuse(context, "UNAVAILABLE", "joins too often")
        self._joins[worker].take(self.now())

    async def _hello(self, context: Any) -> Any:
        """The first message; aborts where it is no hello of this protocol."""
        try:
            data = await asyncio.wait_for(context.read(), self.terms.handshake)
        except TimeoutError:
            await self._refuse(context, "DEADLINE_EXCEEDED", "said nothing")
        name, hello = messages.parse(messages.Up, b"" if data is messages.END else data)
        if name != "hello":
            await self._refuse(context, "INVALID_ARGUMENT", "no hello")
        if hello.protocol != messages.PROTOCOL:
            text = f"speaks protocol {hello.protocol}, not {messages.PROTOCOL}"
            await self._refuse(context, "FAILED_PRECONDITION", text)
        return hello

    async def _refuse(self, context: Any, code: str, why: str) -> NoReturn:
        self.turned_away[why] += 1
        await context.abort(getattr(grpc.StatusCode, code), why)
        raise AssertionError("abort raises")

    async def _talk(
        self, context: Any, session: Session, reply: Reply, parts: list[bytes] | None
    ) -> str:
        """The conversation after the hello; why it ended."""
        core, alive = self.core, Bucket(4 / self.terms.silence, 8)
        self._welcome.welcome.worker = session.worker
        await self._write(context, session, self._welcome.SerializeToString())
        while True:
            if not await self._send(context, session, reply, parts):
                return "slow"
            while True:
                data = await context.read()
                if data is messages.END:
                    return "left"
                self._heard[session] = self.now()
                self.bytes["up"] += len(data)
                name, told = messages.parse(messages.Up, data)
                if name == "answer":
                    break
                if name != "alive":
                    core.strike(session, "garbage")
                    return "garbage"
                if alive.due(self.now()) > 0:
                    core.strike(session, "flood")
                    return "flood"
                alive.take(self.now())
            if not self._enough.is_set():
                await self._wait_for_others(session)
            reply = core.handle(session, told.nonce, told.version, told.values, self.now())
            parts = messages.parts(reply)

    @property
    def missing(self) -> int:
        """How many more workers must answer before anybody is heard."""
        return 0 if self._enough.is_set() else self.terms.wait_for - len(self._ready)

    async def _wait_for_others(self, session: Session) -> None:
        """Until `wait_for` workers have answered, whether they are still here or not."""
        self._ready.add(session.worker)
        if not self.missing:
            self._enough.set()
        self._heard[session] = float("inf")  # it is not silent: we are
        await self._enough.wait()
        self._heard[session] = self.now()

    async def _send(
        self, context: Any, session: Session, reply: Reply, parts: list[bytes] | None
    ) -> bool:
        """Sends a reply, after the wait it asks for; False where x changes faster than that."""
        if reply.wait:
            self._heard[session] = self.now() + reply.wait
            await asyncio.sleep(reply.wait)
        for _ in range(_TRIES):
            if parts is not None:
                for part in parts:
                    await self._write(context, session, part)
                return True
            # All of a large x, while it changes: what has changed since is sent behind.
            have, x = self.core.snapshot()
            for part in messages.chunks(x):
                await self._write(context, session, part)
            parts = messages.parts(self.core.ask_again(session, reply.verdict, have))
        return False

    async def _write(self, context: Any, session: Session, part: bytes) -> None:
        self.bytes["down"] += len(part)
        self._writing.add(session)
        await context.write(part)
        self._writing.discard(session)
        if session.over:
            raise Out(session.over)
        self._heard[session] = max(self._heard[session], self.now())
