"""Invalid, malicious and oversized messages over the network have no effect but strikes."""

import asyncio
import contextlib
import os
import pickle
import re

import grpc
import numpy as np
import pytest

from farsign_jax.runtime import messages
from farsign_jax.runtime.connection import ConnectionLimits
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.testing import adversarial_client
from tests import helpers
from tests.runtime.helpers import (
    NET_K,
    exchange,
    network_core,
    read_credentials,
    serving,
    status,
    stream,
    until,
)


def test_f6_invalid_answers_do_not_change_x_and_strikes_survive_the_connection():
    core = network_core()

    async def run():
        async with serving(core, None) as (_, target):
            async with stream(target) as honest:
                await exchange(honest, await honest.join(1))
            before = core.machine.params.copy(), core.machine.averages.copy()
            nan, inf = np.full(NET_K, np.nan), np.full(NET_K, np.inf)
            wrongs = [{"value": nan}, {"value": inf}, {"value": np.ones(NET_K + 1)}]
            for count, wrong in enumerate(wrongs, 1):
                async with stream(target) as byzantine:
                    question = await byzantine.join(0)
                    reply = await exchange(byzantine, question, **wrong)
                    assert reply.verdict in ("nonfinite", "size")
                    assert (reply.nonce, reply.number) == (question.nonce, question.number)
                    assert core.strikes[0] == count
            async with stream(target) as byzantine:
                await byzantine.send(
                    adversarial_client.answer(await byzantine.join(0), np.ones(NET_K), nonce=7)
                )
                assert (await status(byzantine))[0] == "PERMISSION_DENIED"
            async with stream(target) as byzantine:
                with contextlib.suppress(EOFError, grpc.aio.AioRpcError):
                    await byzantine.join(0)
                code, details = await status(byzantine)
                assert code == "PERMISSION_DENIED" and "4 strikes" in details
            assert same_bits(core.machine.params, before[0])
            assert same_bits(core.machine.averages, before[1]) and core.events == 1

    asyncio.run(run())


def test_f8_garbage_is_a_strike_and_no_pickle_is_loaded(tmp_path):
    canary = tmp_path / "canary"
    rng = np.random.default_rng(0)
    pickled = pickle.dumps(adversarial_client.Canary(str(canary)))
    up = messages.ClientMessage()
    up.answer.values = pickled  # inside a valid message
    both = messages.ClientMessage()
    both.heartbeat.SetInParent()
    both.answer.nonce = 1

    async def run():
        core = network_core()
        async with serving(core, None, ConnectionLimits(handshake=1)) as (server, target):
            for data in (rng.bytes(300), pickled, b"\x00", both.SerializeToString()):
                for greeted in (False, True):
                    core.strikes[:] = 0
                    async with stream(target) as connection:
                        if greeted:
                            await connection.join(0)
                        await connection.send(data)
                        code, details = await status(connection)
                        assert code == "INVALID_ARGUMENT"
                        assert details == ("garbage" if greeted else "no hello")
                        assert core.strikes[0] == greeted
                    server._admission._joins[0].level = 10
            async with stream(target) as connection:
                question = await connection.join(0)
                await connection.send(up.SerializeToString())
                assert (await connection.question()).verdict == "nonce"
                assert (await exchange(connection, question)).verdict == "accepted"
            async with stream(target, method="Unknown") as connection:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await connection.send(b"")
                assert (await status(connection))[0] == "UNIMPLEMENTED"
            async with stream(target) as connection:  # sends nothing at all
                assert await status(connection) == ("DEADLINE_EXCEEDED", "no message received")
            assert core.events == 1

    asyncio.run(run())
    assert not canary.exists()
    with contextlib.suppress(TypeError):
        pickle.loads(pickled)  # this shows that the pickle would have written it
    assert canary.exists()


def test_no_module_can_load_a_pickle():
    import farsign_jax.runtime as package

    for path in package.__path__:
        for name in os.listdir(path):
            if name.endswith(".py"):
                with open(os.path.join(path, name)) as file:
                    text = file.read()
                assert not re.search(r"\b(pickle|marshal|eval|exec|shelve)\b[.(]", text), name
                assert "np.load" not in text, name


@pytest.mark.parametrize("count", [8, pytest.param(1000, marks=helpers.LONG)])
def test_f7_messages_of_a_megabyte_are_rejected_by_their_length(certificates, count):
    core = network_core(strikes=np.array([0, 3, 0, 0, 0, 0]))

    async def run():
        limits = ConnectionLimits(joins=count + 1)
        async with serving(core, certificates, limits) as (server, target):
            for number in range(count):
                if number == min(count // 2, 100):
                    memory = helpers.memory_of(os.getpid())
                async with stream(
                    target, read_credentials(certificates, "worker-0")
                ) as connection:
                    question = await connection.join(0)
                    await connection.send(adversarial_client.answer(question, np.ones(2**18)))
                    assert (await status(connection))[0] == "RESOURCE_EXHAUSTED"
            await until(lambda: not core.sessions)
            assert core.events == 0 and server.bytes["up"] == 0
            kept = helpers.memory_of(os.getpid()) - memory  # in both peers together
            assert kept < 32 * 2**20
            async with stream(target, read_credentials(certificates, "worker-0")) as connection:
                question = await connection.join(0)  # a message below the limit is checked
                reply = await exchange(connection, question, value=np.ones(4000))
                assert reply.verdict == "size"

    asyncio.run(run())


# The verdict on the messages of a behaviour, or the reason for which its session ends.
EXPECTED = {
    "outliers": "accepted",
    "nonfinite": "nonfinite",
    "pipeline": "nonce",
    "heartbeat": "flood",
    "garbage": "garbage",
    "oversize": "left",
    "stall": "silent",
    "rejoin": "left",
}


@pytest.mark.parametrize("behaviour", adversarial_client.BEHAVIOURS)
def test_each_behaviour_of_the_adversarial_client_has_its_effect(behaviour, tmp_path):
    core = network_core()
    flags = ["", "--worker=1", "--seconds=2", "--times=1", f"--directions={NET_K}"]
    adversarial_client.FLAGS([*flags, f"--canary={tmp_path / 'canary'}"])

    async def run():
        async with serving(core, None, ConnectionLimits(silence=0.4)) as (_, target):
            task = asyncio.create_task(
                adversarial_client.repeat(behaviour, target, None, NET_K)
            )
            counts = core.statistics[1]
            await until(lambda: (counts.verdicts + counts.leaves)[EXPECTED[behaviour]])
            task.cancel()

    asyncio.run(run())
    assert not (tmp_path / "canary").exists()
    assert (core.events > 0) == (behaviour == "outliers")
    assert list(core.statistics[0].verdicts) == []
