"""Conversion between the objects of the conversation and the bytes of its messages.

The messages are protocol buffers, described in messages.proto; messages_pb2.py is generated
from it. Bytes from a worker are parsed only by protobuf and by `numpy.frombuffer`, and nothing
in them is ever executed.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from google.protobuf import message

from farsign_jax.runtime import messages_pb2
from farsign_jax.runtime.session import Question, Reply

PROTOCOL = 1
SERVICE, METHOD = "farsign.Parameters", "Converse"
CHUNK_SIZE = 2**18  # values of x in one message: 1 MiB
_OVERHEAD = 128  # bytes of an answer besides its values
_SMALLEST_LIMIT = 16384  # bytes that a worker may always send in one message

_AIO: Any = grpc.aio
END: Any = _AIO.EOF  # what reading from a stream that has ended returns

_GENERATED: Any = messages_pb2  # the generated module defines its classes dynamically
ClientMessage: Any = _GENERATED.ClientMessage
ServerMessage: Any = _GENERATED.ServerMessage


def parse(message_type: Any, data: bytes) -> tuple[str, Any]:
    """Parses a `ClientMessage` or a `ServerMessage`.

    Returns:
        The name and the content of the one field that is set, or ("", None) if the bytes are
        not such a message with exactly one field.
    """
    parsed = message_type()
    try:
        parsed.ParseFromString(data)
    except message.DecodeError:
        return "", None
    fields = parsed.ListFields()
    if len(fields) != 1:
        return "", None
    return fields[0][0].name, fields[0][1]


def max_message_bytes(size: int) -> int:
    """Returns the size limit of a worker's messages in a run with `size` values per answer."""
    return max(_SMALLEST_LIMIT, 4 * size + _OVERHEAD)


def encode_question(reply: Reply) -> bytes:
    """Encodes the question of a reply and the changes of x as a `ServerMessage`."""
    question, delta = reply.question, reply.delta
    encoded = ServerMessage()
    target = encoded.question
    target.verdict, target.nonce = reply.verdict, question.nonce
    target.version, target.number = question.version, question.number
    target.step = question.step
    if delta is not None and delta.indices is not None:
        target.indices = delta.indices.astype("<u4", copy=False).tobytes()
        target.values = delta.values.astype("<f4", copy=False).tobytes()
    if question.direction is not None:
        target.direction = question.direction.tobytes()
    return encoded.SerializeToString()


def encode_chunks(x: np.ndarray) -> Iterator[bytes]:
    """Encodes all of x as `ServerMessage`s.

    Each chunk holds the values that x has when the iterator reaches it.
    """
    for offset in range(0, len(x), CHUNK_SIZE):
        encoded, values = ServerMessage(), x[offset : offset + CHUNK_SIZE]
        encoded.chunk.offset, encoded.chunk.values = offset, values.astype("<f4").tobytes()
        yield encoded.SerializeToString()


def encode_reply(reply: Reply) -> list[bytes] | None:
    """Encodes a reply with one consistent x; returns None if all of a large x is needed."""
    if reply.delta is None:
        return None
    chunks = encode_chunks(reply.delta.values) if reply.delta.indices is None else ()
    return [*chunks, encode_question(reply)]


def decode_question(content: Any, x: np.ndarray, like: np.ndarray) -> Question:
    """Applies the changes of x in a `Question` message and returns the question.

    Args:
        content: the message.
        x: f32[d], changed in place.
        like: directions with the type and the shape that the run uses; empty if the message
            contains none.
    """
    indices = np.frombuffer(content.indices, "<u4")
    x[indices] = np.frombuffer(content.values, "<f4")
    direction = None
    if like.size:
        received = np.frombuffer(content.direction, like.dtype)
        direction = received.reshape(like.shape) if content.direction else None
    return Question(content.nonce, content.version, content.number, content.step, direction)
