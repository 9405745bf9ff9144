"""The security and the limits of a network connection."""

import resource
from typing import NamedTuple

from farsign_jax.runtime import messages
from farsign_jax.runtime.allow_list import AllowList
from farsign_jax.validation import require

_RESERVE = 64  # file descriptors for files, metrics and the interpreter
_MOST = 1 << 16  # connections, where descriptors are unlimited


class Security(NamedTuple):
    """The server's key and certificates in PEM form, and the list of workers that may join."""

    key: bytes
    certificate: bytes
    authority: bytes
    allowed: AllowList


class ConnectionLimits(NamedTuple):
    """Limits on each connection.

    Attributes:
        silence: seconds without a message after which a worker is disconnected.
        ping: seconds between two pings of an idle connection.
        handshake: seconds within which a connection must complete the TLS handshake, and
            within which it must send its first message.
        joins: number of sessions that a worker may open in a burst; the long-run limit is one
            per second.
        connections: number of connections in all, those included whose peer is not known yet;
            more are closed at once.
        wait_for: number of workers that must have answered before any answer is processed, so
            that all workers start together however long they take to load data and compile. A
            run that is resumed does not wait. A worker that never arrives blocks all others.
    """

    silence: float = 30.0
    ping: float = 10.0
    handshake: float = 5.0
    joins: int = 10
    connections: int = 512
    wait_for: int = 1


def most_connections(workers: int) -> int:
    """Raises the limit of this process on open files to the highest that it may set.

    Returns:
        The number of connections that leave descriptors for the server's own files.

    Raises:
        InvalidConfig: if the limit is too low for this number of workers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    need = 2 * workers + 2 * _RESERVE
    rule = f"{workers} workers need {need} open files: got a limit of {files} (ulimit -n)"
    require(files >= need, rule)
    return files - _RESERVE


def channel_options(limits: ConnectionLimits, size: int) -> list[tuple[str, int]]:
    """Returns the options of the gRPC core of a server with `size` values per answer."""
    ping = round(1000 * limits.ping)
    return [
        ("grpc.max_receive_message_length", messages.max_message_bytes(size)),
        ("grpc.max_metadata_size", 8192),
        ("grpc.max_concurrent_streams", 4),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        # Only the identity: a compressed message may be a thousand times as large in memory.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.http2.bdp_probe", 0),  # a growing window is memory that a flood would fill
        ("grpc.server_handshake_timeout_ms", round(1000 * limits.handshake)),
        ("grpc.max_connection_idle_ms", 30_000),
        ("grpc.keepalive_time_ms", ping),
        ("grpc.keepalive_timeout_ms", max(ping // 2, 1)),
        # gRPC uses this timeout when both are set.
        ("grpc.http2.ping_timeout_ms", max(3 * ping // 4, 1)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", max(ping // 4, 1)),
        ("grpc.so_reuseport", 0),
    ]
