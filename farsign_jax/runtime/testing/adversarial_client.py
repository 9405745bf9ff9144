"""A worker that means harm, to see what comes of it: see `experiments.cluster`.

    python -m farsign_jax.runtime.testing.adversarial_client --server localhost:7077 \
        --worker 1 --certificates certificates --behaviours lies,stall,garbage --seconds 5
    python -m farsign_jax.runtime.testing.adversarial_client --worker 0 --insecure \
        --behaviours pipeline

One deed after the other, each for --seconds, or until the server will have no more of it:

    lies       answers at once, as often as it is asked, with large numbers
    nonfinite  answers NaN and infinity
    pipeline   thousands of answers with guessed nonces, replies never read
    alive      says that it is alive, thousands of times
    garbage    random bytes, and a pickle that would write a file where it is loaded
    oversize   a message of a megabyte
    stall      joins and says nothing
    rejoin     joins and leaves, again and again
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
    from farsign_jax.runtime.work import credentials_of
except ModuleNotFoundError as error:
    commands.missing(error, __name__)


FLAGS = flags.FlagValues()


_define = commands.definer(FLAGS)


_define("string", "server", "localhost:7077", "HOST:PORT.")


_define("integer", "worker", None, "Its number, from 0 on.", lower_bound=0)


_define("string", "certificates", None, "As of an honest worker.")


_define("bool", "insecure", False, "As of an honest worker.")


_define("list", "behaviours", "lies", "One after the other.")


_define("float", "seconds", 5.0, "For each, at most.")


_define("bool", "prompted", False, "Begins when it reads a line.")


_define("integer", "times", None, "Connections for each, at most.", lower_bound=1)


_define("integer", "directions", 100, "k of the run.", lower_bound=1)


_define("string", "canary", "/tmp/farsign-canary", "The file that the pickle would write.")


class Canary:
    """Who loads this pickle writes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (pathlib.Path(self.path), "code of a worker was run")


class Connection:
    """A stream, and what may be said over it."""

    def __init__(self, call: Any):
        self.call = call

    async def send(self, data: bytes) -> None:
        await self.call.write(data)

    async def read(self) -> tuple[str, Any]:
        data = await self.call.read()
        return messages.parse(messages.Down, b"" if data is messages.END else data)

    async def question(self) -> Any:
        """The next question; raises `EOFError` where there is none."""
        while True:
            name, told = await self.read()
            if name == "question":
                return told
            if not name:
                raise EOFError

    async def join(self, worker: int) -> Any:
        up = messages.Up()
        up.hello.protocol, up.hello.worker = messages.PROTOCOL, worker
        await self.send(up.SerializeToString())
        return await self.question()


def answer(question: Any, value: np.ndarray, nonce: int | None = None) -> bytes:
    up = messages.Up()
    up.answer.nonce = question.nonce if nonce is None else nonce
    up.answer.version, up.answer.values = question.version, value.astype("<f4").tobytes()
    return up.SerializeToString()


async def _answering(to: Connection, size: int, draw: Any) -> None:
    question = await to.join(FLAGS.worker)
    while True:
        await to.send(answer(question, draw(size)))
        question = await to.question()


async def lies(to: Connection, size: int, rng: np.random.Generator) -> None:
    await _answering(to, size, lambda k: 1e6 * rng.normal(size=k))


async def nonfinite(to: Connection, size: int, rng: np.random.Generator) -> None:
    kinds, question = np.array([np.nan, np.inf, -np.inf]), await to.join(FLAGS.worker)
    await to.send(answer(question, rng.choice(kinds, size)))
    await to.question()


async def pipeline(to: Connection, size: int, rng: np.random.Generator) -> None:
    question = await to.join(FLAGS.worker)
    while True:
        nonce = int(rng.integers(2**62))
        await to.send(answer(question, rng.normal(size=size), nonce))


async def alive(to: Connection, size: int, rng: np.random.Generator) -> None:
    await to.join(FLAGS.worker)
    up = messages.Up()
    up.alive.SetInParent()
    while True:
        await to.send(up.SerializeToString())


async def garbage(to: Connection, size: int, rng: np.random.Generator) -> None:
    await to.join(FLAGS.worker)
    kinds = (rng.bytes(200), b"", pickle.dumps(Canary(FLAGS.canary)))
    await to.send(kinds[int(rng.integers(3))])
    await to.question()


async def oversize(to: Connection, size: int, rng: np.random.Generator) -> None:
    question = await to.join(FLAGS.worker)
    await to.send(answer(question, rng.normal(size=2**18)))
    await to.question()


async def stall(to: Connection, size: int, rng: np.random.Generator) -> None:
    await to.join(FLAGS.worker)
    await to.question()


async def rejoin(to: Connection, size: int, rng: np.random.Generator) -> None:
    await to.join(FLAGS.worker)


BEHAVIOURS = {
    each.__name__: each
    for each in (lies, nonfinite, pipeline, alive, garbage, oversize, stall, rejoin)
}


# How a stream that is no more makes itself felt.
_ENDS = (TimeoutError, EOFError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


async def commit(deed: str, target: str, credentials: Credentials | None, size: int) -> None:
    """A deed, over and over."""
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
            with contextlib.suppress(*_ENDS):
                await asyncio.wait_for(BEHAVIOURS[deed](Connection(call), size, rng), left)
            call.cancel()
        if deed not in ("rejoin", "pipeline"):  # these are in a hurry
            await asyncio.sleep(min(0.3, max(end - time.monotonic(), 0)))


async def all_of(target: str, credentials: Credentials | None, size: int) -> None:
    for deed in FLAGS.behaviours:
        await commit(deed, target, credentials, size)


def hostile() -> None:
    require(FLAGS.worker is not None, "--worker N says which worker this is: got none")
    host, _ = commands.address("--server", FLAGS.server)
    require(
        len(FLAGS.behaviours) > 0, f"--behaviours names none: known: {', '.join(BEHAVIOURS)}"
    )
    for deed in FLAGS.behaviours:
        lookup("deed", deed, BEHAVIOURS)
    require(FLAGS.seconds > 0, f"need --seconds > 0: got {FLAGS.seconds}")
    if FLAGS.prompted:
        sys.stdin.readline()
    asyncio.run(all_of(FLAGS.server, credentials_of(FLAGS, host), FLAGS.directions))


if __name__ == "__main__":
    commands.main(hostile, FLAGS, __doc__)
