"""A malicious worker, to test how the server reacts: see `experiments.cluster`.

    python -m farsign_jax.runtime.testing.adversarial_client --server localhost:7077 \\
        --worker 1 --certificates certificates --behaviours outliers,stall,garbage --seconds 5
    python -m farsign_jax.runtime.testing.adversarial_client --worker 0 --insecure \\
        --behaviours pipeline

Runs the behaviours one after the other, each for --seconds or until the server excludes it:

    outliers   answers every question at once, with large values
    nonfinite  answers with NaN and infinity
    pipeline   sends thousands of answers with guessed nonces and never reads a reply
    heartbeat  sends thousands of heartbeats
    garbage    sends random bytes, and a pickle that would write a file if it were loaded
    oversize   sends a message of one megabyte
    stall      joins and then sends nothing
    rejoin     joins and leaves repeatedly
"""

import asyncio
import contextlib
import pathlib
import pickle
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from farsign_jax.cli import commands
from farsign_jax.validation import lookup, require

try:
    import grpc

    from farsign_jax.runtime import messages
    from farsign_jax.runtime.grpc_worker import Credentials
    from farsign_jax.runtime.work import define_connection, load_credentials
except ModuleNotFoundError as error:
    commands.missing(error, __name__)


FLAGS = flags.FlagValues()
define_connection(FLAGS)
_define = commands.definer(FLAGS)
_define("list", "behaviours", "outliers", "Behaviours that run one after the other.")
_define("float", "seconds", 5.0, "Maximal duration of each behaviour in seconds.")
_define("bool", "prompted", False, "Begin only after reading a line from standard input.")
_define("integer", "times", None, "Maximal connections of each behaviour.", lower_bound=1)
_define("integer", "directions", 100, "Directions per question of the run.", lower_bound=1)
_define("string", "canary", "/tmp/farsign-canary", "File that the pickle would write.")


class Canary:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (pathlib.Path(self.path), "a worker's code was run")


class Connection:
    """A stream to the server, and the messages of the conversation."""

    def __init__(self, call: Any):
        self.call = call

    async def send(self, data: bytes) -> None:
        await self.call.write(data)

    async def read(self) -> tuple[str, Any]:
        data = await self.call.read()
        return messages.parse(messages.ServerMessage, b"" if data is messages.END else data)

    async def question(self) -> Any:
        """Returns the next question; raises `EOFError` if the stream ends."""
        while True:
            name, content = await self.read()
            if name == "question":
                return content
            if not name:
                raise EOFError

    async def join(self, worker: int) -> Any:
        """Sends a hello and returns the first question."""
        first = messages.ClientMessage()
        first.hello.protocol, first.hello.worker = messages.PROTOCOL, worker
        await self.send(first.SerializeToString())
        return await self.question()


def answer(question: Any, value: np.ndarray, nonce: int | None = None) -> bytes:
    """Encodes an answer to a question, possibly with another nonce."""
    message = messages.ClientMessage()
    message.answer.nonce = question.nonce if nonce is None else nonce
    message.answer.version = question.version
    message.answer.values = value.astype("<f4").tobytes()
    return message.SerializeToString()


async def _answer_all(connection: Connection, size: int, draw: Any) -> None:
    question = await connection.join(FLAGS.worker)
    while True:
        await connection.send(answer(question, draw(size)))
        question = await connection.question()


async def outliers(connection: Connection, size: int, rng: np.random.Generator) -> None:
    await _answer_all(connection, size, lambda k: 1e6 * rng.normal(size=k))


async def nonfinite(connection: Connection, size: int, rng: np.random.Generator) -> None:
    kinds, question = np.array([np.nan, np.inf, -np.inf]), await connection.join(FLAGS.worker)
    await connection.send(answer(question, rng.choice(kinds, size)))
    await connection.question()


async def pipeline(connection: Connection, size: int, rng: np.random.Generator) -> None:
    question = await connection.join(FLAGS.worker)
    while True:
        nonce = int(rng.integers(2**62))
        await connection.send(answer(question, rng.normal(size=size), nonce))


async def heartbeat(connection: Connection, size: int, rng: np.random.Generator) -> None:
    await connection.join(FLAGS.worker)
    message = messages.ClientMessage()
    message.heartbeat.SetInParent()
    while True:
        await connection.send(message.SerializeToString())


async def garbage(connection: Connection, size: int, rng: np.random.Generator) -> None:
    await connection.join(FLAGS.worker)
    kinds = (rng.bytes(200), b"", pickle.dumps(Canary(FLAGS.canary)))
    await connection.send(kinds[int(rng.integers(3))])
    await connection.question()


async def oversize(connection: Connection, size: int, rng: np.random.Generator) -> None:
    question = await connection.join(FLAGS.worker)
    await connection.send(answer(question, rng.normal(size=2**18)))
    await connection.question()


async def stall(connection: Connection, size: int, rng: np.random.Generator) -> None:
    await connection.join(FLAGS.worker)
    await connection.question()


async def rejoin(connection: Connection, size: int, rng: np.random.Generator) -> None:
    await connection.join(FLAGS.worker)


BEHAVIOURS = {
    each.__name__: each
    for each in (outliers, nonfinite, pipeline, heartbeat, garbage, oversize, stall, rejoin)
}


# The errors that a stream raises once it has ended.
_STREAM_ERRORS = (TimeoutError, EOFError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


async def repeat(
    behaviour: str, target: str, credentials: Credentials | None, size: int
) -> None:
    """Repeats a behaviour over new connections until its time is over."""
    rng, end, times = np.random.default_rng(), time.monotonic() + FLAGS.seconds, 0
    while (left := end - time.monotonic()) > 0 and times != FLAGS.times:
        times += 1
        if credentials is None:
            channel = grpc.aio.insecure_channel(target)
        else:
            key, certificate, authority = credentials
            secure = grpc.ssl_channel_credentials(authority, key, certificate)
            channel = grpc.aio.secure_channel(target, secure)
        async with channel:
            call = channel.stream_stream(f"/{messages.SERVICE}/{messages.METHOD}")()
            action = BEHAVIOURS[behaviour](Connection(call), size, rng)
            with contextlib.suppress(*_STREAM_ERRORS):
                await asyncio.wait_for(action, left)
            call.cancel()
        if behaviour not in ("rejoin", "pipeline"):  # these reconnect without a pause
            await asyncio.sleep(min(0.3, max(end - time.monotonic(), 0)))


async def repeat_all(target: str, credentials: Credentials | None, size: int) -> None:
    """Runs all behaviours, one after the other."""
    for behaviour in FLAGS.behaviours:
        await repeat(behaviour, target, credentials, size)


def adversarial_client() -> None:
    """Runs the command."""
    require(FLAGS.worker is not None, "need --worker N, the number of this worker: got none")
    host, _ = commands.address("--server", FLAGS.server)
    rule = f"--behaviours needs at least one of {', '.join(BEHAVIOURS)}: got none"
    require(len(FLAGS.behaviours) > 0, rule)
    for behaviour in FLAGS.behaviours:
        lookup("behaviour", behaviour, BEHAVIOURS)
    require(FLAGS.seconds > 0, f"need --seconds > 0: got {FLAGS.seconds}")
    if FLAGS.prompted:
        sys.stdin.readline()
    credentials = load_credentials(FLAGS, host)
    asyncio.run(repeat_all(FLAGS.server, credentials, FLAGS.directions))


if __name__ == "__main__":
    commands.main(adversarial_client, FLAGS, __doc__)
