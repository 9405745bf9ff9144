"""A worker over a network: asks who it is and what to do, and answers until it is stopped.

It comes back by itself when the connection or the server is lost, later and later and never
at the same moment as the others; it goes where it is told that it is not wanted.
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
from farsign_jax.runtime.worker import Kind
from farsign_jax.validation import InvalidConfig

_FINAL = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
)


class Refused(Exception):
    """The server does not want this worker, or there is none; the message says why."""


class _Ended(Exception):
    """The conversation is over."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(f"{code.name}: {details}")
        self.code = code


class Credentials(NamedTuple):
    """PEM."""

    key: bytes
    certificate: bytes
    authority: bytes


# The setting of the run and its fingerprint to what answers; raises `InvalidConfig`.
Make = Callable[[str, str], Kind]


class GrpcWorker:
    """One worker.

    Args:
        target: HOST:PORT of the server.
        worker: its number, believed only by a server without certificates.
        make: called once, when the server has said what the run is.
        credentials: None, no encryption.
        patience: seconds without a server after which it gives up.
        threaded: answers are computed beside the event loop, so that the worker can say that
            it is alive; for answers that take no time, False.
        ping: seconds between two pings of an idle connection.
    """

    def __init__(
        self,
        target: str,
        worker: int,
        make: Make,
        *,
        credentials: Credentials | None,
        patience: float = 60.0,
        threaded: bool = True,
        ping: float = 10.0,
    ):
        self.accepted = 0  # answers
        self.x = np.zeros(0, np.float32)
        self._target, self._worker, self._make = target, worker, make
        self._credentials, self._patience, self._threaded = credentials, patience, threaded
        self._options = [
            ("grpc.max_receive_message_length", 8 * 4 * messages.CHUNK),
            ("grpc.keepalive_time_ms", round(1000 * ping)),
            ("grpc.keepalive_timeout_ms", max(round(500 * ping), 1)),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
        ]
        self._epoch, self._version = 0, 0
        self._kind: Kind | None = None
        self._random = random.Random()
        self._instance = secrets.randbits(63) | 1
        self._welcomed = 0.0

    async def run(self) -> None:
        """Until the run is over.

        Raises:
            Refused: where the server does not want it, or there is none for too long.
            InvalidConfig: where it cannot do what the server wants.
        """
        self._welcomed, delay = time.monotonic(), 0.2
        while True:
            before = self._welcomed
            try:
                await self._connect()
            except _Ended as ended:
                if ended.code is grpc.StatusCode.OUT_OF_RANGE:
                    return
                if ended.code in _FINAL:
                    raise Refused(str(ended)) from None
                if self._welcomed > before:  # there was a server until now
                    delay, self._welcomed = 0.2, time.monotonic()
                waited = time.monotonic() - self._welcomed
                if waited > self._patience:
                    why = f"no server at {self._target} for {waited:.0f} s: {ended}"
                    raise Refused(why) from None
            await asyncio.sleep(delay * self._random.uniform(0.5, 1.0))
            delay = min(2 * delay, 2.0)

    def _channel(self) -> Any:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        key, certificate, authority = self._credentials
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        return grpc.aio.secure_channel(self._target, credentials, options=self._options)

    async def _connect(self) -> None:
        """One conversation, to its end: raises `_Ended`."""
        async with self._channel() as channel:
            call = channel.stream_stream(f"/{messages.SERVICE}/{messages.METHOD}")()
            up = messages.Up()
            up.hello.protocol, up.hello.worker = messages.PROTOCOL, self._worker
            up.hello.instance = self._instance
            up.hello.epoch, up.hello.version = self._epoch, self._version
            try:
                await call.write(up.SerializeToString())
                silence = await self._welcome(call)
                while await self._exchange(call, silence):
                    pass
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # what the call ended with says more
            raise _Ended(await call.code(), await call.details())

    async def _welcome(self, call: Any) -> float:
        """Learns what the run is; the silence limit."""
        name, told = messages.parse(messages.Down, await _read(call))
        if name != "welcome" or told.protocol != messages.PROTOCOL:
            raise InvalidConfig(f"{self._target} speaks another protocol")
        self._welcomed = time.monotonic()
        if told.epoch != self._epoch:
            self._epoch, self._version = told.epoch, 0
        if self._kind is None:
            make = asyncio.to_thread(self._make, told.setting, told.fingerprint)
            self._kind = await self._while_alive(call, make, told.silence)
        if len(self.x) != told.dim:
            self.x = np.zeros(told.dim, np.float32)
        return told.silence

    async def _exchange(self, call: Any, silence: float) -> bool:
        """One question and its answer; False at the end."""
        kind = self._kind
        assert kind is not None
        while True:
            data = await call.read()
            if data is messages.END:
                return False
            name, told = messages.parse(messages.Down, data)
            if name != "chunk":
                break
            values = np.frombuffer(told.values, "<f4")
            self.x[told.offset : told.offset + len(values)] = values
        if name != "question":
            raise InvalidConfig(f"{self._target} speaks another protocol")
        question = messages.asked(told, self.x, kind.direction)
        self._version = question.version
        self.accepted += told.verdict == "accepted"
        if self._threaded:
            work = asyncio.to_thread(kind.answer, self.x, question)
            value = await self._while_alive(call, work, silence)
        else:
            value = kind.answer(self.x, question)
        up = messages.Up()
        up.answer.nonce, up.answer.version = question.nonce, question.version
        up.answer.values = value.astype("<f4", copy=False).tobytes()
        await call.write(up.SerializeToString())
        return True

    async def _while_alive(self, call: Any, work: Any, silence: float) -> Any:
        """What `work` gives; meanwhile says now and then that it is still at it."""
        task = asyncio.ensure_future(work)
        up = messages.Up()
        up.alive.SetInParent()
        while not (await asyncio.wait({task}, timeout=silence / 3))[0]:
            await call.write(up.SerializeToString())
        return task.result()


async def _read(call: Any) -> bytes:
    data = await call.read()
    return b"" if data is messages.END else data
