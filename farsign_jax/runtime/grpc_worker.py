"""A worker over a network, which joins a server and answers its questions until it is stopped.

The worker reconnects by itself if the connection or the server is lost, with growing and
randomised delays, so that workers do not all return at the same moment. It stops if the server
rejects it.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import numpy as np

from farsign_jax.runtime import messages
from farsign_jax.runtime.worker import Responder
from farsign_jax.validation import InvalidConfig

_FINAL = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
)


class Rejected(Exception):
    """The server rejects this worker, or cannot be reached; the message gives the reason."""


class _StreamEnded(Exception):
    """The stream has ended with a status."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(f"{code.name}: {details}")
        self.code = code


class Credentials(NamedTuple):
    """A worker's key and certificates in PEM form."""

    key: bytes
    certificate: bytes
    authority: bytes


# Maps the configuration of a run, JSON, and its fingerprint to a responder; raises
# `InvalidConfig` if the worker cannot take part in the run.
MakeResponder = Callable[[str, str], Responder]


class GrpcWorker:
    """One worker.

    Args:
        target: HOST:PORT of the server.
        worker: its number, which only a server without certificates trusts.
        make_responder: called once, when the server has described the run.
        credentials: None disables encryption.
        patience: seconds without a server after which the worker gives up.
        threaded: whether answers are computed outside the event loop, so that the worker can
            send heartbeats meanwhile. False is faster for answers that take no time.
        ping: seconds between two pings of an idle connection.

    Attributes:
        accepted: number of answers that the server has accepted.
        x: f32[d], the worker's copy of the iterate.
    """

    def __init__(
        self,
        target: str,
        worker: int,
        make_responder: MakeResponder,
        *,
        credentials: Credentials | None,
        patience: float = 60.0,
        threaded: bool = True,
        ping: float = 10.0,
    ):
        self.accepted = 0
        self.x = np.zeros(0, np.float32)
        self._target, self._worker, self._make_responder = target, worker, make_responder
        self._credentials, self._patience, self._threaded = credentials, patience, threaded
        self._options = [
            ("grpc.max_receive_message_length", 8 * 4 * messages.CHUNK_SIZE),
            ("grpc.keepalive_time_ms", round(1000 * ping)),
            ("grpc.keepalive_timeout_ms", max(round(500 * ping), 1)),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # do not share a connection
        ]
        self._epoch, self._version = 0, 0
        self._responder: Responder | None = None
        self._random = random.Random()
        self._instance = secrets.randbits(63) | 1
        self._last_welcome = 0.0

    async def run(self) -> None:
        """Answers questions until the run is over.

        Raises:
            Rejected: if the server rejects the worker, or cannot be reached for too long.
            InvalidConfig: if the worker cannot take part in the run.
        """
        self._last_welcome, delay = time.monotonic(), 0.2
        while True:
            before = self._last_welcome
            try:
                await self._connect()
            except _StreamEnded as ended:
                if ended.code is grpc.StatusCode.OUT_OF_RANGE:
                    return
                if ended.code in _FINAL:
                    raise Rejected(str(ended)) from None
                if self._last_welcome > before:  # the server was there until now
                    delay, self._last_welcome = 0.2, time.monotonic()
                waited = time.monotonic() - self._last_welcome
                if waited > self._patience:
                    reason = f"no server at {self._target} for {waited:.0f} s: {ended}"
                    raise Rejected(reason) from None
            await asyncio.sleep(delay * self._random.uniform(0.5, 1.0))
            delay = min(2 * delay, 2.0)

    def _channel(self) -> Any:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        key, certificate, authority = self._credentials
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        return grpc.aio.secure_channel(self._target, credentials, options=self._options)

    async def _connect(self) -> None:
        """Opens one stream and answers questions to its end, which raises `_StreamEnded`."""
        async with self._channel() as channel:
            call = channel.stream_stream(f"/{messages.SERVICE}/{messages.METHOD}")()
            first = messages.ClientMessage()
            first.hello.protocol, first.hello.worker = messages.PROTOCOL, self._worker
            first.hello.instance = self._instance
            first.hello.epoch, first.hello.version = self._epoch, self._version
            try:
                await call.write(first.SerializeToString())
                silence = await self._read_welcome(call)
                while await self._exchange(call, silence):
                    pass
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the status of the call, raised below, is more informative
            raise _StreamEnded(await call.code(), await call.details())

    async def _read_welcome(self, call: Any) -> float:
        """Reads the description of the run and returns the silence limit in seconds."""
        name, welcome = messages.parse(messages.ServerMessage, await _read(call))
        if name != "welcome" or welcome.protocol != messages.PROTOCOL:
            raise InvalidConfig(f"{self._target} uses another protocol")
        self._last_welcome = time.monotonic()
        if welcome.epoch != self._epoch:
            self._epoch, self._version = welcome.epoch, 0
        if self._responder is None:
            make = asyncio.to_thread(self._make_responder, welcome.config, welcome.fingerprint)
            self._responder = await self._with_heartbeats(call, make, welcome.silence)
        if len(self.x) != welcome.dim:
            self.x = np.zeros(welcome.dim, np.float32)
        return welcome.silence

    async def _exchange(self, call: Any, silence: float) -> bool:
        """Reads one question and sends its answer; returns False at the end of the stream."""
        responder = self._responder
        assert responder is not None
        while True:
            data = await call.read()
            if data is messages.END:
                return False
            name, content = messages.parse(messages.ServerMessage, data)
            if name != "chunk":
                break
            values = np.frombuffer(content.values, "<f4")
            self.x[content.offset : content.offset + len(values)] = values
        if name != "question":
            raise InvalidConfig(f"{self._target} uses another protocol")
        question = messages.decode_question(content, self.x, responder.direction)
        self._version = question.version
        self.accepted += content.verdict == "accepted"
        if self._threaded:
            work = asyncio.to_thread(responder.answer, self.x, question)
            value = await self._with_heartbeats(call, work, silence)
        else:
            value = responder.answer(self.x, question)
        reply = messages.ClientMessage()
        reply.answer.nonce, reply.answer.version = question.nonce, question.version
        reply.answer.values = value.astype("<f4", copy=False).tobytes()
        await call.write(reply.SerializeToString())
        return True

    async def _with_heartbeats(self, call: Any, work: Any, silence: float) -> Any:
        """Awaits `work`, sends heartbeats meanwhile, and returns its result."""
        task = asyncio.ensure_future(work)
        heartbeat = messages.ClientMessage()
        heartbeat.heartbeat.SetInParent()
        while not (await asyncio.wait({task}, timeout=silence / 3))[0]:
            await call.write(heartbeat.SerializeToString())
        return task.result()


async def _read(call: Any) -> bytes:
    data = await call.read()
    return b"" if data is messages.END else data
