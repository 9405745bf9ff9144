"""The server over a network: one stream per worker that carries nothing but bytes.

The server reads from a stream only after it has written its reply to the previous message: a
peer that sends without waiting fills its own flow-control window, and a peer that does not read
is disconnected after the silence limit.

Two mechanisms detect lost workers: pings of the connection detect a host that is dead or
frozen, and the silence limit detects a process that hangs while its connection lives.
"""

import asyncio
import contextlib
import math
import secrets
import time
from collections import Counter, deque
from typing import Any

import grpc

from farsign_jax.runtime import messages
from farsign_jax.runtime.admission import Admission
from farsign_jax.runtime.connection import ConnectionLimits, Security, channel_options
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import TokenBucket
from farsign_jax.runtime.session import Reply, Session, SessionClosed
from farsign_jax.runtime.tls import is_valid
from farsign_jax.validation import InvalidConfig

# The gRPC status with which a session ends, by reason.
_CODES = {
    "strikes": grpc.StatusCode.PERMISSION_DENIED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
    "expired": grpc.StatusCode.PERMISSION_DENIED,
    "flood": grpc.StatusCode.INVALID_ARGUMENT,
    "garbage": grpc.StatusCode.INVALID_ARGUMENT,
    "replaced": grpc.StatusCode.ALREADY_EXISTS,
    "silent": grpc.StatusCode.DEADLINE_EXCEEDED,
    "slow": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "over": grpc.StatusCode.OUT_OF_RANGE,
}
_ATTEMPTS = 3  # at sending all of a large x before the history no longer covers the changes


class GrpcServer:
    """Carries the messages between a core and its workers over gRPC.

    Args:
        core: the server's side of the run.
        config: the configuration of the run, JSON, which every worker receives.
        fingerprint: of the configuration.
        security: None disables encryption and trusts what workers say about themselves; for
            tests on one machine.
        limits: limits on each connection.
        began: seconds for which the run was served before.

    Attributes:
        bytes: number of bytes in messages, "up" from and "down" to the workers.
        rejected: number of peers that were not admitted, by reason.
    """

    def __init__(
        self,
        core: ServerCore,
        config: str,
        fingerprint: str,
        *,
        security: Security | None,
        limits: ConnectionLimits | None = None,
        began: float = 0.0,
    ):
        self.core, self.limits = core, limits or ConnectionLimits()
        self.bytes: Counter[str] = Counter()
        self._security, self._start = security, time.monotonic() - began
        self._admission = Admission(core, self.limits, security, self.now)
        self.rejected = self._admission.rejected
        m = core.machine.num_workers
        # The instance that speaks for each worker, and the instances that it has replaced.
        self._instances = [0] * m
        self._replaced = [deque[int](maxlen=64) for _ in range(m)]
        self._ready = set[int]()  # workers that have answered since the start
        self._all_ready = asyncio.Event()
        if core.events:
            self._all_ready.set()  # a resumed run does not wait
        self._writing: set[Session] = set()
        self._tasks: dict[Session, Any] = {}
        self._last_message: dict[Session, float] = {}
        self._certificates: dict[Session, bytes] = {}
        welcome = messages.ServerMessage()
        welcome.welcome.protocol = messages.PROTOCOL
        welcome.welcome.epoch = secrets.randbits(63) | 1
        welcome.welcome.config, welcome.welcome.fingerprint = config, fingerprint
        welcome.welcome.dim = len(core.machine.params)
        welcome.welcome.silence = self.limits.silence
        self._welcome = welcome

    def now(self) -> float:
        """Returns the number of seconds since the run began."""
        return time.monotonic() - self._start

    async def start(self, address: str) -> int:
        """Listens at HOST:PORT, where port 0 selects a free one, and returns the port.

        Raises:
            InvalidConfig: if the server cannot listen at the address.
        """
        machine = self.core.machine
        self._server: Any = grpc.aio.server(
            options=channel_options(self.limits, math.prod(machine.shape)),
            maximum_concurrent_rpcs=2 * machine.num_workers + 8,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._converse)
        generic = grpc.method_handlers_generic_handler(
            messages.SERVICE, {messages.METHOD: handler}
        )
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
        self._monitor = asyncio.create_task(self._monitor_sessions())
        return port

    async def run(self) -> None:
        """Returns when the run is over."""
        while not self.core.over:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Closes all sessions; the answers accepted so far are the result of the run."""
        self._monitor.cancel()
        for session in list(self._tasks):
            self._close(session, "over" if self.core.over else "stopping")
        await self._server.stop(1.0)

    def _close(self, session: Session, reason: str) -> None:
        """Closes a session.

        A task that is writing ends by itself, because a status cannot overtake a message.
        """
        self.core.leave(session, reason)
        if session not in self._writing or reason == "silent":
            self._tasks[session].cancel()

    async def _monitor_sessions(self) -> None:
        """Closes the sessions of workers that are silent, or may not be here any more."""
        while True:
            await asyncio.sleep(min(self.limits.silence / 4, 1.0))
            for session in list(self._tasks):
                if self.now() - self._last_message[session] > self.limits.silence:
                    self._close(session, "silent")
                elif self._security is not None:
                    certificate = self._certificates[session]
                    if self._security.allowed.worker(certificate) != session.worker:
                        self._close(session, "revoked")
                    elif not is_valid(certificate):
                        self._close(session, "expired")

    async def _converse(self, _: Any, context: Any) -> None:
        """Serves one stream from its first byte to its last."""
        try:
            worker, certificate, hello = await self._admission.admit(context)
            session, reply, encoded = self._open(worker, hello)
        except SessionClosed as error:
            reason = str(error) if str(error) in _CODES else "strikes"
            self.rejected[reason] += 1
            await context.abort(_CODES[reason], str(error))
            return
        self._tasks[session] = asyncio.current_task()
        self._last_message[session] = self.now()
        self._certificates[session] = certificate
        reason = "gone"  # unless another reason is found
        try:
            reason = await self._exchange(context, session, reply, encoded)
        except SessionClosed as error:
            reason = str(session.reason or error)
        except asyncio.CancelledError:
            if not session.reason or session in self._writing:
                raise  # the connection is lost or blocked, so no status can be sent
        finally:
            self.core.leave(session, reason)
            self._writing.discard(session)
            for table in (self._tasks, self._last_message, self._certificates):
                del table[session]
        if session.reason in _CODES:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # receives the cancellation that closed the session
            await context.abort(_CODES[session.reason], session.reason)

    def _open(self, worker: int, hello: Any) -> tuple[Session, Reply, list[bytes] | None]:
        """Opens a session; returns it with its first reply, encoded before x can change."""
        if hello.instance and hello.instance in self._replaced[worker]:
            raise SessionClosed("replaced")
        have = hello.version if hello.epoch == self._welcome.welcome.epoch else None
        old = self.core.sessions.get(worker)
        session, reply = self.core.join(worker, have, self.now())
        encoded = messages.encode_reply(reply)
        if old in self._tasks:
            self._close(old, "replaced")
        if self._instances[worker] != hello.instance:
            self._replaced[worker].append(self._instances[worker])
            self._instances[worker] = hello.instance
        return session, reply, encoded

    async def _exchange(
        self, context: Any, session: Session, reply: Reply, encoded: list[bytes] | None
    ) -> str:
        """Exchanges messages after the hello; returns the reason for which this ended."""
        core, heartbeats = self.core, TokenBucket(4 / self.limits.silence, 8)
        self._welcome.welcome.worker = session.worker
        await self._write(context, session, self._welcome.SerializeToString())
        while True:
            if not await self._send(context, session, reply, encoded):
                return "slow"
            while True:
                data = await context.read()
                if data is messages.END:
                    return "left"
                self._last_message[session] = self.now()
                self.bytes["up"] += len(data)
                name, content = messages.parse(messages.ClientMessage, data)
                if name == "answer":
                    break
                if name != "heartbeat":
                    core.strike(session, "garbage")
                    return "garbage"
                if heartbeats.delay(self.now()) > 0:
                    core.strike(session, "flood")
                    return "flood"
                heartbeats.take(self.now())
            if not self._all_ready.is_set():
                await self._wait_for_others(session)
            answer = content.nonce, content.version, content.values
            reply = core.handle(session, *answer, self.now())
            encoded = messages.encode_reply(reply)

    @property
    def missing(self) -> int:
        """The number of workers that must still answer before any answer is processed."""
        return 0 if self._all_ready.is_set() else self.limits.wait_for - len(self._ready)

    async def _wait_for_others(self, session: Session) -> None:
        """Waits until `wait_for` workers have answered, whether they are still here or not."""
        self._ready.add(session.worker)
        if not self.missing:
            self._all_ready.set()
        self._last_message[session] = float("inf")  # the worker is waiting for the server
        await self._all_ready.wait()
        self._last_message[session] = self.now()

    async def _send(
        self, context: Any, session: Session, reply: Reply, encoded: list[bytes] | None
    ) -> bool:
        """Sends a reply after its wait; returns False if x changes faster than it is sent."""
        if reply.wait:
            self._last_message[session] = self.now() + reply.wait
            await asyncio.sleep(reply.wait)
        for _ in range(_ATTEMPTS):
            if encoded is not None:
                for part in encoded:
                    await self._write(context, session, part)
                return True
            # A large x changes while it is sent: the changes since then follow.
            have, x = self.core.snapshot()
            for part in messages.encode_chunks(x):
                await self._write(context, session, part)
            encoded = messages.encode_reply(self.core.ask_again(session, reply.verdict, have))
        return False

    async def _write(self, context: Any, session: Session, part: bytes) -> None:
        self.bytes["down"] += len(part)
        self._writing.add(session)
        await context.write(part)
        self._writing.discard(session)
        if session.reason:
            raise SessionClosed(session.reason)
        self._last_message[session] = max(self._last_message[session], self.now())
