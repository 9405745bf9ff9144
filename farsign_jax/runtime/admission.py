"""Which peers may open a session with the network server.

A worker is identified by its certificate, which must be in the list of allowed workers. What
the worker says about itself counts only if the server uses no certificates.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from farsign_jax.runtime import messages
from farsign_jax.runtime.connection import ConnectionLimits, Security
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import TokenBucket
from farsign_jax.runtime.tls import is_valid


class Admission:
    """Checks the identity, the strikes, the rate and the first message of each peer.

    Args:
        core: the server's side of the run.
        limits: limits on each connection.
        security: keys, certificates and the allow list; None trusts every peer.
        now: returns the time in seconds since the run began.

    Attributes:
        rejected: number of peers that were not admitted, by reason.
    """

    def __init__(
        self,
        core: ServerCore,
        limits: ConnectionLimits,
        security: Security | None,
        now: Callable[[], float],
    ):
        self.rejected: Counter[str] = Counter()
        self._core, self._limits, self._security, self._now = core, limits, security, now
        workers = core.machine.num_workers
        self._joins = [TokenBucket(1.0, limits.joins) for _ in range(workers)]
        self._pending: set[int] = set()  # workers whose first message is awaited

    async def admit(self, context: Any) -> tuple[int, bytes, Any]:
        """Returns the number, the certificate and the hello of a worker; aborts otherwise.

        Raises:
            SessionClosed: if the worker has too many strikes.
        """
        if self._security is None:
            hello = await self._read_hello(context)
            if hello.worker >= self._core.machine.num_workers:
                await self._reject(context, "PERMISSION_DENIED", "no such worker")
            await self._check_rate(context, hello.worker)
            return hello.worker, b"", hello
        certificates = context.auth_context().get("x509_pem_cert") or [b""]
        certificate = certificates[0]
        worker = self._security.allowed.worker(certificate) if certificate else None
        if worker is None and certificate and self._security.allowed.changing:
            await self._reject(context, "UNAVAILABLE", "the allow list is being changed")
        if worker is None:
            await self._reject(context, "PERMISSION_DENIED", "not on the allow list")
        if not is_valid(certificate):
            await self._reject(context, "PERMISSION_DENIED", "expired")
        await self._check_rate(context, worker)
        if worker in self._pending:  # otherwise one worker could occupy every stream
            await self._reject(context, "UNAVAILABLE", "joins too often")
        self._pending.add(worker)
        try:
            return worker, certificate, await self._read_hello(context)
        finally:
            self._pending.discard(worker)

    async def _check_rate(self, context: Any, worker: int) -> None:
        """Aborts if a worker joins too often; raises if it has too many strikes."""
        self._core.check_strikes(worker)
        if self._joins[worker].delay(self._now()) > 0:
            await self._reject(context, "UNAVAILABLE", "joins too often")
        self._joins[worker].take(self._now())

    async def _read_hello(self, context: Any) -> Any:
        """Reads the first message; aborts if it is not a hello of this protocol."""
        try:
            data = await asyncio.wait_for(context.read(), self._limits.handshake)
        except TimeoutError:
            await self._reject(context, "DEADLINE_EXCEEDED", "no message received")
        data = b"" if data is messages.END else data
        name, hello = messages.parse(messages.ClientMessage, data)
        if name != "hello":
            await self._reject(context, "INVALID_ARGUMENT", "no hello")
        if hello.protocol != messages.PROTOCOL:
            details = f"the worker uses protocol {hello.protocol}, not {messages.PROTOCOL}"
            await self._reject(context, "FAILED_PRECONDITION", "another protocol", details)
        return hello

    async def _reject(
        self, context: Any, code: str, reason: str, details: str | None = None
    ) -> NoReturn:
        """Aborts with `details`, and counts the `reason`, of which there are only a few."""
        self.rejected[reason] += 1
        await context.abort(getattr(grpc.StatusCode, code), details or reason)
        raise AssertionError("abort raises")
