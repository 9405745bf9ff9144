"""The conversation over real sockets: workers join, answer, wait, leave and come back."""

import asyncio

import numpy as np
import pytest

from farsign_jax import attacks, directions, simulation
from farsign_jax.runtime import messages
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.grpc_server import GrpcServer
from farsign_jax.runtime.grpc_worker import Rejected
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.worker import LocalWorker, make_attack
from tests import helpers
from tests.runtime.helpers import (
    NET_D,
    NET_K,
    NET_M,
    STEPS,
    exchange,
    make_worker,
    network_core,
    read_credentials,
    serving,
    status,
    stream,
    until,
)


def test_workers_with_certificates_answer_and_have_the_x_of_the_server(certificates):
    core, rng = network_core(last=600), np.random.default_rng(0)
    seen = []

    def answer(x, question):
        seen.append((question.version, x.copy()))
        return rng.normal(size=NET_K).astype(np.float32)

    async def run():
        async with serving(core, certificates) as (server, target):
            workers = [
                make_worker(target, i, read_credentials(certificates, f"worker-{i}"), answer)
                for i in (0, 3)
            ]
            await asyncio.wait_for(asyncio.gather(*(w.run() for w in workers)), 60)
            assert core.statistics[1].joins == 0
            assert (
                core.statistics[0].verdicts["accepted"]
                + core.statistics[3].verdicts["accepted"]
                == 600
            )
            return server.bytes

    history = [core.machine.params.copy()]
    update = core.machine.update

    def recorded_update(*arguments):
        changed = update(*arguments)
        history.append(core.machine.params.copy())
        return changed

    core.machine.update = recorded_update
    bytes_ = asyncio.run(run())
    assert core.events == 600 and len(seen) >= 600
    assert all(same_bits(x, history[version]) for version, x in seen)
    # The server sends the changes of x, not all of x.
    assert bytes_["down"] < 600 * (4 * NET_D + 100) and bytes_["up"] < 600 * (4 * NET_K + 64)


ATTACKS = ("none", "sign_flip:scale=10", "gaussian", "alie:z=1.5", "nonfinite")


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        "sign_flip:scale=10",
        *(pytest.param(name, marks=helpers.LONG) for name in ATTACKS if "flip" not in name),
    ],
)
def test_f15_attacks_have_the_same_effect_over_the_network_as_in_the_simulator(attack):
    """The simulator receives only the recorded schedule and draws its own mini-batches."""
    problem, attack = (
        helpers.quadratic(workers=NET_M, dim=NET_D, noise=1.0),
        make_attack(attack),
    )
    dictionary = directions.identity(NET_D, NET_K)
    system = helpers.far_sign_system(problem, dictionary=dictionary, **STEPS)
    measure, distances, log = helpers.distance(problem), [], []
    machine = NumpyServer(NET_M, dictionary, problem.x0, 0, **STEPS)
    limits = Limits(rate=100, burst=1)  # no worker finishes before all have joined
    core = ServerCore(machine, limits, by_seed=True, log=log.append, last=1200)

    def answering(i):
        answers = LocalWorker(system, problem, 0, i, attack if i < 2 else None)
        answers.answer(np.asarray(problem.x0), 0, 0, None)  # compiles before the server waits
        return lambda x, q: answers.answer(x, q.number, q.step, q.direction)

    async def run():
        async with serving(core, None) as (_, target):
            workers = [make_worker(target, i, None, answering(i)) for i in range(NET_M)]
            tasks = [asyncio.create_task(worker.run()) for worker in workers]
            await until(lambda: core.over, 60)
            for task in tasks:  # excluded workers were rejected
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    schedule = np.array([arrival.worker for arrival in log], np.int32)
    assert (np.bincount(schedule, minlength=NET_M)[2:] > 100).all()
    distance = float(measure(machine.params)["distance"])
    for seed in range(5):
        attacked = system._replace(attack=attack or attacks.none())
        _, (record,) = simulation.run(
            problem,
            attacked,
            schedule,
            seed=seed,
            byzantine=2,
            delivery="outstanding",
            measure=measure,
        )
        distances.append(record["distance"])
    spread = max(distances) - min(distances)
    assert min(distances) - spread <= distance <= max(distances) + spread
    assert distance < 0.8 * float(measure(problem.x0)["distance"])


def test_f13_a_late_worker_receives_all_of_x_and_a_new_session_replaces_the_old_one():
    """x does not fit into one message and changes while it is sent."""
    d = 3 * messages.CHUNK_SIZE + 5
    core = network_core(Limits(rate=1e5, burst=1e5, history=1000), d=d)

    async def run():
        async with serving(core, None) as (_, target):
            async with stream(target) as busy:
                question = await busy.join(0)
                for _ in range(1200):
                    question = await exchange(busy, question)
                late = make_worker(target, 1)
                task = asyncio.create_task(late.run())
                x = None
                while core.statistics[1].verdicts["accepted"] < 5:
                    question = await exchange(busy, question)
                    x = core.machine.params
                task.cancel()
                # Its x differs only where x has changed since its last question.
                assert len(late.x) == d
                behind = np.flatnonzero(late.x != x)
                assert len(behind) <= NET_K * (core.events - late._version)
                assert np.abs(late.x).max() > 0
            async with stream(target) as old, stream(target) as new:
                first = await old.join(2)
                second = await new.join(2)
                assert (await status(old)) == ("ALREADY_EXISTS", "replaced")
                assert first.nonce != second.nonce
                assert (await exchange(new, second)).verdict == "accepted"

    asyncio.run(run())


def test_a_replaced_worker_stops():
    core = network_core()

    async def run():
        async with serving(core, None) as (_, target):
            task = asyncio.create_task(make_worker(target, 0).run())
            await until(lambda: core.events > 3)
            async with stream(target) as other:
                await other.join(0)
                with pytest.raises(Rejected, match="ALREADY_EXISTS: replaced"):
                    await asyncio.wait_for(task, 20)
                assert core.statistics[0].joins == 2 and 0 in core.sessions

    asyncio.run(run())


def test_workers_rejoin_a_restarted_server_and_give_up_without_one():
    core = network_core()

    async def run():
        async with serving(core, None) as (_, target):
            worker = make_worker(target, 0, patience=1.0)
            task = asyncio.create_task(worker.run())
            await until(lambda: core.events > 3)
            await asyncio.sleep(1.2)  # the session lasts longer than the patience of the worker
        server = GrpcServer(core, "{}", "", security=None)
        await server.start(target)
        before = core.events
        await until(lambda: core.events > before + 3)
        await server.stop()
        with pytest.raises(
            Rejected, match=r"no server at localhost:\d+ for [1-9]\d* s: UNAVAIL"
        ):
            await asyncio.wait_for(task, 30)

    asyncio.run(run())
