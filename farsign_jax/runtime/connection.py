"""What a connection is held to: who may have one, and what the C core enforces."""

from typing import NamedTuple

from farsign_jax.runtime import messages
from farsign_jax.runtime.tls import Allowed


class Security(NamedTuple):
    """Keys and certificates, PEM, and who may join."""

    key: bytes
    certificate: bytes
    authority: bytes
    allowed: Allowed


class Terms(NamedTuple):
    """What a connection is held to.

    Attributes:
        silence: seconds after which a worker that has said nothing is gone.
        ping: seconds between two pings of an idle connection.
        handshake: seconds in which a connection must have shown its certificate.
        joins: sessions that a worker may open at once; one more every second.
        wait_for: nobody is heard before so many workers have a first answer, so that all
            begin alike however long they load and compile; a run that goes on does not wait.
            One that never comes keeps all others waiting.
    """

    silence: float = 30.0
    ping: float = 10.0
    handshake: float = 5.0
    joins: int = 10
    wait_for: int = 1


def options(terms: Terms, size: int) -> list[tuple[str, int]]:
    """Of the C core, for answers of `size` numbers."""
    ping = round(1000 * terms.ping)
    return [
        ("grpc.max_receive_message_length", messages.answer_bytes(size)),
        ("grpc.max_metadata_size", 8192),
        ("grpc.max_concurrent_streams", 4),
        ("grpc.http2.bdp_probe", 0),  # windows that grow would be memory that a flood fills
        ("grpc.server_handshake_timeout_ms", round(1000 * terms.handshake)),
        ("grpc.max_connection_idle_ms", 30_000),
        ("grpc.keepalive_time_ms", ping),
        ("grpc.keepalive_timeout_ms", max(ping // 2, 1)),
        ("grpc.http2.ping_timeout_ms", max(3 * ping // 4, 1)),  # the one that is kept
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", max(ping // 4, 1)),
        ("grpc.so_reuseport", 0),
    ]
