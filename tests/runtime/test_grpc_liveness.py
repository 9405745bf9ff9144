"""Which workers the server waits for over the network, and which it disconnects."""

import asyncio
import contextlib
import time

import grpc
import numpy as np
import pytest

from farsign_jax.runtime import messages
from farsign_jax.runtime.connection import ConnectionLimits
from farsign_jax.runtime.state_machine import same_bits
from tests.runtime.helpers import (
    NET_K,
    exchange,
    make_worker,
    network_core,
    read_credentials,
    serving,
    status,
    stream,
    until,
)


def test_silence_ends_a_session_and_heartbeats_keep_it():
    core = network_core()
    released = []

    async def run():
        limits = ConnectionLimits(silence=0.8)
        async with serving(core, None, limits) as (_, target):
            loop = asyncio.get_running_loop()
            gate = asyncio.Event()

            def slow(x, question):  # takes longer than the limit
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
                released.append(question.number)
                return np.ones(NET_K, np.float32)

            worker = make_worker(target, 1, answer=slow, threaded=True)
            task = asyncio.create_task(worker.run())
            await until(lambda: 1 in core.sessions)
            async with stream(target) as silent:
                begin = time.monotonic()
                await silent.join(0)
                assert await status(silent) == ("DEADLINE_EXCEEDED", "silent")
                assert time.monotonic() - begin >= 0.8
            await asyncio.sleep(1.0)
            assert core.statistics[1].joins == 1 and 1 in core.sessions
            gate.set()
            await until(lambda: core.statistics[1].verdicts["accepted"] > 0)
            task.cancel()

    asyncio.run(run())
    assert released


def test_no_answer_is_applied_before_enough_workers_have_answered():
    core = network_core()

    async def run():
        async with (
            serving(core, None, ConnectionLimits(silence=0.6, wait_for=3)) as (server, target),
            contextlib.AsyncExitStack() as stack,
        ):
            answers, peers = (
                [],
                [await stack.enter_async_context(stream(target)) for _ in "abc"],
            )
            for worker, peer in enumerate(peers[:2]):
                answers.append(asyncio.create_task(exchange(peer, await peer.join(worker))))
            await asyncio.sleep(1.5)  # twice the silence limit
            assert len(core.sessions) == 2 and server.missing == 1
            assert core.events == 0 and not any(task.done() for task in answers)
            peers[0].call.cancel()  # it counts as ready, but its answer is lost
            await until(lambda: 0 not in core.sessions)
            await exchange(peers[2], await peers[2].join(2))
            await answers[1]
            assert core.events == 2 and server.missing == 0
            answers[0].cancel()
        async with serving(core, None, ConnectionLimits(wait_for=3)) as (server, target):
            assert server.missing == 0  # a resumed run does not wait
            async with stream(target) as alone:
                await exchange(alone, await alone.join(2))

    asyncio.run(run())
    assert core.events == 3 and not core.strikes.any()


def test_a_worker_that_loads_data_while_others_wait_keeps_its_session():
    core = network_core()

    async def run():
        limits = ConnectionLimits(silence=0.3, wait_for=2)
        async with serving(core, None, limits) as (_, target), stream(target) as other:
            worker = make_worker(target, 0)
            quick = worker._make_responder

            def slow(*arguments):
                time.sleep(2)  # 20 times silence / 3
                return quick(*arguments)

            worker._make_responder = slow
            task = asyncio.create_task(worker.run())
            answer = asyncio.create_task(exchange(other, await other.join(1)))
            await until(lambda: core.statistics[0].verdicts["accepted"] > 3)
            await answer
            assert core.statistics[0].joins == 1 and not core.strikes.any()
            task.cancel()

    asyncio.run(run())


def test_too_many_heartbeats_are_a_strike():
    core = network_core()

    async def run():
        async with serving(core, None) as (_, target), stream(target) as connection:
            await connection.join(0)
            up = messages.ClientMessage()
            up.heartbeat.SetInParent()
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                for _ in range(1000):
                    await connection.send(up.SerializeToString())
            await status(connection)
            assert core.strikes[0] == 1 and core.events == 0 and not core.sessions

    asyncio.run(run())


def test_f1_f2_a_lost_worker_is_noticed_and_its_successor_gets_its_question():
    core = network_core()

    async def run():
        async with serving(core, None) as (_, target):
            async with stream(target) as lost, stream(target) as other:
                question = await exchange(lost, await lost.join(0))
                averages = core.machine.averages[:, 0].copy()
                lost.call.cancel()
                await until(lambda: 0 not in core.sessions)
                await exchange(other, await other.join(1))  # without waiting
            assert same_bits(core.machine.averages[:, 0], averages)
            async with stream(target) as successor:
                repeated = await successor.join(0)
                assert repeated.number == question.number
                assert repeated.nonce != question.nonce and repeated.version == core.events

    asyncio.run(run())


@contextlib.asynccontextmanager
async def proxy(target, frozen):
    """Forwards connections to a server until the event `frozen` is set; then it hangs."""
    host, port = target.split(":")
    tasks, writers = [], []

    async def forward(reader, writer):
        while data := await reader.read(2**16):
            if frozen.is_set():
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()

    async def connect(reader, writer):
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        writers.extend([writer, server_writer])
        tasks.append(asyncio.create_task(forward(reader, server_writer)))
        tasks.append(asyncio.create_task(forward(server_reader, writer)))

    server = await asyncio.start_server(connect, "localhost", 0)
    try:
        yield f"localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await close(writers)


async def close(writers):
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_f3_pings_detect_a_frozen_host():
    """The connection goes through a proxy that stops forwarding."""
    core = network_core()

    async def run():
        frozen, limits = asyncio.Event(), ConnectionLimits(silence=90, ping=1)
        async with (
            serving(core, None, limits) as (_, target),
            proxy(target, frozen) as address,
            stream(address) as worker,
        ):
            await exchange(worker, await worker.join(0))
            frozen.set()
            begin = time.monotonic()
            await until(lambda: not core.sessions)
            assert time.monotonic() - begin < 20  # 1 s + 0.75 s on an idle machine

    asyncio.run(run())


async def slow_line(target, rng):
    """A port that leads to `target` over a line of 200 ms there and back, which stalls for
    another second after one message in a hundred, as where a packet is lost."""
    host, port = target.split(":")
    tasks = set()

    async def carry(reader, writer):
        arrivals = asyncio.Queue()

        async def deliver():
            while True:
                at, data = await arrivals.get()
                await asyncio.sleep(max(at - time.monotonic(), 0))
                writer.write(data)

        delivery = asyncio.create_task(deliver())
        try:
            while data := await reader.read(1 << 16):
                stall = 1.0 if rng.random() < 0.01 else 0.0
                arrivals.put_nowait((time.monotonic() + 0.1 + stall, data))
        finally:
            delivery.cancel()
            writer.close()

    async def connect(*near):
        far = await asyncio.open_connection(host, int(port))
        tasks.update(
            asyncio.create_task(carry(a[0], b[1])) for a, b in ((near, far), (far, near))
        )

    server = await asyncio.start_server(connect, "localhost", 0)
    return server, tasks, f"localhost:{server.sockets[0].getsockname()[1]}"


@pytest.mark.slow
def test_f27_a_slow_line_that_stalls_costs_time_only(certificates):
    core = network_core()

    async def run():
        async with serving(core, certificates, ConnectionLimits(ping=2)) as (_, target):
            line, tasks, far = await slow_line(target, np.random.default_rng(0))
            near = asyncio.create_task(
                make_worker(target, 0, read_credentials(certificates, "worker-0")).run()
            )
            distant = asyncio.create_task(
                make_worker(far, 1, read_credentials(certificates, "worker-1")).run()
            )
            await until(lambda: core.statistics[1].verdicts["accepted"] >= 1)
            before = core.statistics[0].verdicts["accepted"]
            await asyncio.sleep(8)
            count = core.statistics[1].verdicts["accepted"]
            assert 8 <= count <= 45  # five a second, less what stalls
            assert core.statistics[0].verdicts["accepted"] > before + 20 * count
            assert core.statistics[1].joins == 1 and not core.strikes.any()
            for task in (near, distant, *tasks):
                task.cancel()
            await asyncio.gather(near, distant, *tasks, return_exceptions=True)
            line.close()
            await asyncio.sleep(0.1)

    asyncio.run(run())


def test_f10_connections_without_a_handshake_are_closed():
    core = network_core()

    async def run():
        async with serving(core, None, ConnectionLimits(handshake=0.5)) as (_, target):
            host, port = target.split(":")
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
            for reader, _ in idle:
                await asyncio.wait_for(reader.read(), 20)  # to the end of the stream
            await close([writer for _, writer in idle])

    asyncio.run(run())
