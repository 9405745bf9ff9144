"""Messages as bytes: protocol buffers, from the schema in wire.proto.

Code that protoc generates works with the protobuf it was generated for and some later ones.
The schema is a few scalar fields, so it is read here instead, when the program starts, and
any protobuf makes the messages. Bytes from a worker are parsed by that library and by
`numpy.frombuffer`; nothing in them is ever evaluated.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from farsign_jax.runtime.core import Question, Reply

PROTOCOL = 1


SERVICE, METHOD = "farsign.Parameters", "Converse"


CHUNK = 2**18  # numbers of x in one message: 1 MiB


SLACK = 128  # bytes around the numbers of an answer


SMALLEST = 16384  # bytes that a worker may send in a message, in any case


_AIO: Any = grpc.aio


END = _AIO.EOF  # what reading a stream that has ended gives


_Field = descriptor_pb2.FieldDescriptorProto


_SCALARS = ("bytes", "double", "fixed64", "string", "uint32", "uint64")


def schema(text: str) -> descriptor_pb2.FileDescriptorProto:
    """The messages of a .proto file that has no more than messages of singular fields.

    Raises:
        ValueError: on a line that is something else.
    """
    file = descriptor_pb2.FileDescriptorProto(name="farsign/wire.proto")
    inside: Any = None
    for line in text.splitlines():
        line = line.partition("//")[0].strip()
        if found := re.fullmatch(r'syntax = "(\w+)";', line):
            file.syntax = found[1]
        elif found := re.fullmatch(r"package (\w+);", line):
            file.package = found[1]
        elif found := re.fullmatch(r"message (\w+) \{", line):
            inside = file.message_type.add(name=found[1])
        elif found := re.fullmatch(r"(\w+) (\w+) = (\d+);", line):
            kind, name, number = found.groups()
            field = inside.field.add(name=name, number=int(number), json_name=name)
            field.label = _Field.LABEL_OPTIONAL
            if kind in _SCALARS:
                field.type = getattr(_Field, f"TYPE_{kind.upper()}")
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{file.package}.{kind}"
        elif line not in ("", "}"):
            raise ValueError(f"wire.proto: cannot read {line!r}")
    return file


def _messages() -> dict[str, Any]:
    text = pathlib.Path(__file__).with_name("messages.proto").read_text()
    file, pool = schema(text), descriptor_pool.DescriptorPool()
    pool.Add(file)  # a pool of its own: no name can be taken already
    names = [each.name for each in file.message_type]
    find = pool.FindMessageTypeByName
    return {n: message_factory.GetMessageClass(find(f"{file.package}.{n}")) for n in names}


_MESSAGES = _messages()


Up, Down = _MESSAGES["Up"], _MESSAGES["Down"]


def parse(kind: Any, data: bytes) -> tuple[str, Any]:
    """The name and content of the one field that is set in an `Up` or `Down`; ("", None) of
    anything else."""
    told = kind()
    try:
        told.ParseFromString(data)
    except message.DecodeError:
        return "", None
    fields = told.ListFields()
    if len(fields) != 1:
        return "", None
    return fields[0][0].name, fields[0][1]


def answer_bytes(size: int) -> int:
    """The largest message that a worker whose answers are `size` numbers may send."""
    return max(SMALLEST, 4 * size + SLACK)


def question(reply: Reply) -> bytes:
    """A `Down` with the question of a reply and what changed in x since."""
    asked, delta = reply.question, reply.delta
    down = Down()
    into = down.question
    into.verdict, into.nonce = reply.verdict, asked.nonce
    into.version, into.number, into.step = asked.version, asked.number, asked.step
    if delta is not None and delta.at is not None:
        into.indices = delta.at.astype("<u4", copy=False).tobytes()
        into.values = delta.values.astype("<f4", copy=False).tobytes()
    if asked.direction is not None:
        into.direction = asked.direction.tobytes()
    return down.SerializeToString()


def chunks(x: np.ndarray) -> Iterator[bytes]:
    """All of x in `Down`s, each with the numbers that are there when it is its turn."""
    for offset in range(0, len(x), CHUNK):
        down, values = Down(), x[offset : offset + CHUNK]
        down.chunk.offset, down.chunk.values = offset, values.astype("<f4").tobytes()
        yield down.SerializeToString()


def parts(reply: Reply) -> list[bytes] | None:
    """The `Down`s of a reply, all of one moment; None where all of a large x is needed."""
    if reply.delta is None:
        return None
    whole = chunks(reply.delta.values) if reply.delta.at is None else ()
    return [*whole, question(reply)]


def asked(told: Any, x: np.ndarray, like: np.ndarray) -> Question:
    """The question in a `Question` message, after its changes have been made to x.

    Args:
        told: the message.
        x: f32[d], changed in place.
        like: directions of the type and shape of those of the run.
    """
    at = np.frombuffer(told.indices, "<u4")
    x[at] = np.frombuffer(told.values, "<f4")
    direction = None
    if like.size:
        given = np.frombuffer(told.direction, like.dtype)
        direction = given.reshape(like.shape) if told.direction else None
    return Question(told.nonce, told.version, told.number, told.step, direction)
