"""Messages as bytes: the generated code is current, and every message survives the way."""

import pathlib

import numpy as np
import pytest

from farsign_jax.runtime import messages, messages_pb2
from farsign_jax.runtime.delta_history import NO_CHANGE, Delta
from farsign_jax.runtime.session import Question, Reply

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = "farsign_jax/runtime/messages.proto"


def test_the_generated_code_is_current(tmp_path):
    """The messages are the same whichever version of protoc has generated the code."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    from google.protobuf import descriptor_pb2

    out = tmp_path / "descriptors"
    assert (
        protoc.main(["", f"-I{ROOT}", f"--descriptor_set_out={out}", str(ROOT / SCHEMA)]) == 0
    )
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for message in expected.message_type:
        for field in message.field:
            field.ClearField("json_name")  # the generated code omits the default names
    found = descriptor_pb2.FileDescriptorProto()
    messages_pb2.DESCRIPTOR.CopyToProto(found)
    for message in found.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert found == expected


def test_exactly_one_field_of_a_message_is_set():
    message = messages.ClientMessage()
    assert messages.parse(messages.ClientMessage, b"") == ("", None)
    assert messages.parse(messages.ClientMessage, b"\xff") == ("", None)
    message.heartbeat.SetInParent()
    assert messages.parse(messages.ClientMessage, message.SerializeToString())[0] == "heartbeat"
    message.answer.nonce = 1
    assert messages.parse(messages.ClientMessage, message.SerializeToString()) == ("", None)


@pytest.mark.parametrize("direction", [None, np.arange(6, dtype=np.uint32).reshape(2, 3)])
def test_a_question_and_the_changes_of_x_survive_encoding(direction):
    question = Question(7, 8, 9, 10, direction)
    delta = Delta(np.array([1, 3], np.int32), np.array([0.5, -0.25], np.float32))
    x, like = (
        np.zeros(5, np.float32),
        np.zeros((0,) if direction is None else (2, 3), np.uint32),
    )
    for changes in (delta, NO_CHANGE):
        (data,) = messages.encode_reply(Reply("accepted", question, changes, 0.0))
        name, content = messages.parse(messages.ServerMessage, data)
        assert name == "question" and content.verdict == "accepted"
        decoded = messages.decode_question(content, x, like)
        assert decoded[:4] == question[:4]
        np.testing.assert_array_equal(decoded.direction, direction)
        np.testing.assert_array_equal(x, [0, 0.5, 0, -0.25, 0])


def test_all_of_a_large_x_is_sent_in_chunks():
    x = np.random.default_rng(0).normal(size=messages.CHUNK_SIZE + 3).astype(np.float32)
    question = Question(0, 0, 0, 0, None)
    encoded = messages.encode_reply(Reply("joined", question, Delta(None, x), 0.0))
    received = np.zeros_like(x)
    for data in encoded[:-1]:
        name, content = messages.parse(messages.ServerMessage, data)
        values = np.frombuffer(content.values, "<f4")
        assert name == "chunk" and len(values) <= messages.CHUNK_SIZE
        received[content.offset : content.offset + len(values)] = values
    np.testing.assert_array_equal(received, x)
    assert messages.parse(messages.ServerMessage, encoded[-1])[0] == "question"
    assert messages.encode_reply(Reply("joined", question, None, 0.0)) is None
