"""Connects the processes of one job, as a rule one per host, each with devices of its own.

The processes train apart and meet when there is something to exchange. They meet over TCP: the
first one listens at the coordinator's address, and the others keep a connection to it. Neither
the collectives of JAX nor those of its devices are used, because they need the same number of
devices in every process, cannot be interrupted, and give up after a while, whereas a process
that resumes a sweep may have hours more to do than the others. A process that ends closes its
connections, which ends the wait of the others with an error.

Messages are JSON or arrays in the .npz format; nothing that is received is executed. As with
`jax.distributed`, the connection is neither encrypted nor authenticated: use it in a network
that is trusted.
"""

import contextlib
import dataclasses
import io
import json
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farsign_jax.validation import require

_GREETING = struct.Struct("!12sII")  # who connects: the name below, its index, and the count
_NAME = b"farsign_jax1"
_LENGTH = struct.Struct("!Q")  # precedes every message
_GIVE_UP = 300.0  # seconds until all processes must have met for the first time


class LostProcess(Exception):
    """Another process of the job ended before all of them had met."""


@dataclasses.dataclass
class _Job:
    """The place of this process among all, and its connections.

    Attributes:
        index: which process this is.
        count: how many there are.
        peers: connections by process: of the first process to all others, of others to it.
    """

    index: int = 0
    count: int = 1
    peers: dict[int, socket.socket] = dataclasses.field(default_factory=dict)


_job = _Job()


def place() -> tuple[int, int]:
    """Returns which process this is, and of how many: (0, 1) unless `join` was called."""
    return _job.index, _job.count


def first() -> bool:
    """Returns whether this is the process that writes results and reports progress."""
    return _job.index == 0


def join(coordinator: str, count: int, index: int) -> None:
    """Connects this process with the others of the job.

    Args:
        coordinator: "HOST:PORT", where the first process listens.
        count: number of processes.
        index: which of them this is, 0 .. count - 1.

    Raises:
        OSError: if they have not met within five minutes.
    """
    host, _, port = coordinator.rpartition(":")
    address, deadline = (host.strip("[]"), int(port)), time.monotonic() + _GIVE_UP
    if index == 0:
        peers = _accept(address, count, deadline)
    else:
        peers = {0: _connect(address, count, index, deadline)}
    for peer in peers.values():
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # routers forget a connection that is silent
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    _job.index, _job.count, _job.peers = index, count, peers


def part() -> None:
    """Closes the connections; from now on this process is alone."""
    for peer in _job.peers.values():
        peer.close()
    _job.index, _job.count, _job.peers = 0, 1, {}


def exchange(value: Any) -> list[Any]:
    """Returns what every process passes, by process; waits until all have passed something.

    All processes must call the functions that exchange in the same order.

    Args:
        value: anything that JSON can represent; tuples are received as lists.
    """
    return [json.loads(text) for text in _exchange_bytes(json.dumps(value).encode())]


def exchange_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns the named arrays that every process passes, by process, like `exchange`."""
    if _job.count == 1:
        return [dict(arrays)]
    file = io.BytesIO()
    np.savez(file, **dict(arrays))  # pyright: ignore[reportArgumentType]
    return [_arrays(content) for content in _exchange_bytes(file.getvalue())]


def agree(value: Any, what: str) -> None:
    """Raises `InvalidConfig` if `value`, a number or a text, differs between processes."""
    values = exchange(value)
    require(len(set(values)) == 1, f"all processes need the same {what}: got {values}")


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _exchange_bytes(content: bytes) -> list[bytes]:
    if _job.count == 1:
        return [content]
    try:
        if _job.index:
            _send(_job.peers[0], content)
            return [_receive(_job.peers[0]) for _ in range(_job.count)]
        others = [_receive(_job.peers[other]) for other in range(1, _job.count)]
        for peer in _job.peers.values():
            for each in (content, *others):
                _send(peer, each)
        return [content, *others]
    except OSError as error:
        raise LostProcess(f"process {_job.index} of {_job.count} is alone: {error}") from error


def _send(peer: socket.socket, content: bytes) -> None:
    peer.sendall(_LENGTH.pack(len(content)))
    peer.sendall(content)


def _receive(peer: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_read(peer, _LENGTH.size))
    return _read(peer, length)


def _read(peer: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        piece = peer.recv(min(length - len(content), 2**20))
        if not piece:
            raise ConnectionError("another process closed its connection")
        content += piece
    return bytes(content)


def _accept(address: tuple[str, int], count: int, deadline: float) -> dict[int, socket.socket]:
    """Returns connections from all other processes; anything else that connects is ignored."""
    peers: dict[int, socket.socket] = {}
    with _listen(address) as server:
        while len(peers) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(1, count)) - set(peers))
                raise TimeoutError(f"processes {missing} did not connect") from None
            peer.settimeout(10)
            with contextlib.suppress(OSError):
                name, other, number = _GREETING.unpack(_read(peer, _GREETING.size))
                if name == _NAME and number == count and 0 < other < count:
                    peers[other] = peer
                    continue
            peer.close()
    return dict(sorted(peers.items()))


def _listen(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address, family=_family(address))
    except OSError as error:  # never on other addresses than the given one
        raise OSError(f"cannot listen there: {error.strerror or error}") from error


def _connect(
    address: tuple[str, int], count: int, index: int, deadline: float
) -> socket.socket:
    """Returns a connection to the first process, which may start later than this one."""
    while True:
        try:
            peer = socket.create_connection(address, timeout=10)
            peer.sendall(_GREETING.pack(_NAME, index, count))
            return peer
        except OSError as error:
            if time.monotonic() > deadline:
                raise OSError(f"cannot connect: {error.strerror or error}") from error
            time.sleep(0.1)


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    found: Sequence[Any] = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    return found[0][0]
