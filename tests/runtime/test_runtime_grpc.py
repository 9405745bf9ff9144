"""The server over a network: real sockets, real certificates, and peers that mean harm."""

import asyncio
import contextlib
import os
import pathlib
import pickle
import re
import time

import grpc
import numpy as np
import pytest
from cryptography import x509

from farsign_jax import InvalidConfig, attacks, directions, simulation
from farsign_jax.runtime import messages, tls
from farsign_jax.runtime.connection import Security, Terms
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.grpc_server import GrpcServer
from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker, Refused
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import OnHost
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.testing import adversarial_client
from farsign_jax.runtime.tls import Allowed
from farsign_jax.runtime.worker import Answers, Kind, attack_of
from tests import helpers

M, D, K = 6, 400, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("certificates") / "all"
    tls.make(out, M, ("localhost", "127.0.0.1"))
    return out


def read(folder, name):
    names = (f"{name}.key", f"{name}.crt", "authority.crt")
    return Credentials(*((folder / each).read_bytes() for each in names))


def core_of(limits=None, d=D, **options):
    machine = OnHost(
        M,
        directions.identity(d, K),
        np.zeros(d, np.float32),
        0,
        step_size=0.01,
        average_step=0.3,
    )
    limits = limits or Limits(rate=1e5, burst=1e5)
    return ServerCore(machine, limits, by_seed=True, log=lambda a: None, **options)


@contextlib.asynccontextmanager
async def serving(core, folder, terms=None):
    security = None
    if folder is not None:
        security = Security(*read(folder, "server"), Allowed(folder / "allowed.txt", M))
    server = GrpcServer(core, "{}", "f" * 16, security=security, terms=terms)
    port = await server.start("localhost:0")
    try:
        yield server, f"localhost:{port}"
    finally:
        await server.stop()


def channel_to(target, credentials):
    if credentials is None:
        return grpc.aio.insecure_channel(target)
    key, certificate, authority = credentials
    return grpc.aio.secure_channel(
        target, grpc.ssl_channel_credentials(authority, key, certificate)
    )


@contextlib.asynccontextmanager
async def stream(target, credentials=None, method=messages.METHOD):
    async with channel_to(target, credentials) as channel:
        call = channel.stream_stream(f"/{messages.SERVICE}/{method}")()
        yield adversarial_client.Connection(call)
        call.cancel()


async def ended(connection, seconds=20):
    """How a call ended."""
    code = await asyncio.wait_for(connection.call.code(), seconds)
    return code.name, await connection.call.details()


async def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.02)


def value(rng=None):
    return np.ones(K) if rng is None else rng.normal(size=K)


async def speak(connection, question, **wrong):
    await connection.send(adversarial_client.answer(question, **({"value": value()} | wrong)))
    return await connection.question()


def worker_of(target, number, credentials=None, answer=None, **options):
    answer = answer or (lambda x, question: np.ones(K, np.float32))
    kind = Kind(answer, np.zeros(0, np.int32))
    return GrpcWorker(
        target, number, lambda *_: kind, credentials=credentials, threaded=False, **options
    )


def test_workers_join_with_certificates_answer_and_have_x_as_the_server_has_it(folder):
    core, rng = core_of(last=600), np.random.default_rng(0)
    seen = []

    def answer(x, question):
        seen.append((question.version, x.copy()))
        return rng.normal(size=K).astype(np.float32)

    async def run():
        async with serving(core, folder) as (server, target):
            workers = [
                worker_of(target, i, read(folder, f"worker-{i}"), answer) for i in (0, 3)
            ]
            await asyncio.wait_for(asyncio.gather(*(w.run() for w in workers)), 60)
            assert core.tallies[1].joins == 0
            assert (
                core.tallies[0].verdicts["accepted"] + core.tallies[3].verdicts["accepted"]
                == 600
            )
            return server.bytes

    history = [core.machine.params.copy()]
    heard = core.machine.hear

    def watched(*told):
        changed = heard(*told)
        history.append(core.machine.params.copy())
        return changed

    core.machine.hear = watched
    bytes_ = asyncio.run(run())
    assert core.events == 600 and len(seen) >= 600
    assert all(same_bits(x, history[version]) for version, x in seen)
    # Pulls are what has changed, not x.
    assert bytes_["down"] < 600 * (4 * D + 100) and bytes_["up"] < 600 * (4 * K + 64)


ATTACKS = ("none", "sign_flip:scale=10", "gaussian", "alie:z=1.5", "nonfinite")


@pytest.mark.parametrize(
    "attack",
    [
        "sign_flip:scale=10",
        *(pytest.param(name, marks=helpers.LONG) for name in ATTACKS if "flip" not in name),
    ],
)
def test_f15_liars_do_over_the_network_what_they_do_in_the_simulator(attack):
    """The simulator is told the recorded schedule alone, and draws its own data order."""
    problem, attack = helpers.quadratic(workers=M, dim=D, noise=1.0), attack_of(attack)
    dictionary = directions.identity(D, K)
    told = {"step_size": 0.05, "average_step": 0.3}
    system = helpers.far_sign_system(problem, dictionary=dictionary, **told)
    measure, ends, log = helpers.distance(problem), [], []
    machine = OnHost(M, dictionary, problem.x0, 0, **told)
    limits = Limits(rate=100, burst=1)  # nobody is through before all are there
    core = ServerCore(machine, limits, by_seed=True, log=log.append, last=1200)

    def answering(i):
        answers = Answers(system, problem, 0, i, attack if i < 2 else None)
        answers.answer(np.asarray(problem.x0), 0, 0, None)  # compiled before anybody waits
        return lambda x, q: answers.answer(x, q.number, q.step, q.direction)

    async def run():
        async with serving(core, None) as (_, target):
            workers = [worker_of(target, i, None, answering(i)) for i in range(M)]
            tasks = [asyncio.create_task(worker.run()) for worker in workers]
            await until(lambda: core.over, 60)
            for task in tasks:  # who was struck out was refused
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    schedule = np.array([arrival.worker for arrival in log], np.int32)
    assert (np.bincount(schedule, minlength=M)[2:] > 100).all()
    mine = float(measure(machine.params)["distance"])
    for seed in range(5):
        lying = system._replace(attack=attack or attacks.none())
        _, (record,) = simulation.run(
            problem,
            lying,
            schedule,
            seed=seed,
            byzantine=2,
            delivery="outstanding",
            measure=measure,
        )
        ends.append(record["distance"])
    spread = max(ends) - min(ends)
    assert min(ends) - spread <= mine <= max(ends) + spread
    assert mine < 0.8 * float(measure(problem.x0)["distance"])


def test_f5_who_is_not_on_the_list_does_not_join_whatever_it_shows(folder, tmp_path):
    other, public = tls.authority(), "authority.crt"
    mine = (folder / public).read_bytes()
    self_signed = Credentials(*tls.issue(other, "worker-0"), mine)

    async def run():
        core = core_of()
        terms = Terms(silence=5, handshake=1)
        async with serving(core, folder, terms) as (server, target):
            for credentials in (self_signed, None):
                async with stream(target, credentials) as connection:
                    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
                        await asyncio.wait_for(connection.join(0), 20)
            assert core.sessions == {} and not server.turned_away  # it has heard of nobody
            async with stream(target, read(folder, "worker-2")) as connection:
                await connection.join(5)  # whoever it says it is
                assert list(core.sessions) == [2]

    asyncio.run(run())


def test_f5_expired_certificates_and_servers_of_another_name_are_refused(tmp_path):
    signer = tls.authority()
    public = signer.certificate.public_bytes(tls.serialization.Encoding.PEM)
    old = tls.issue(signer, "worker-0", days=-1)
    good = tls.issue(signer, "worker-0")
    unlisted = tls.issue(signer, "worker-0")
    lines = [f"0 {tls.fingerprint(c)}" for _, c in (old, good)]
    (tmp_path / "allowed.txt").write_text("\n".join(lines))
    allowed = Allowed(tmp_path / "allowed.txt", M)

    async def join(hosts, credentials):
        key, certificate = tls.issue(signer, "server", hosts)
        security = Security(key, certificate, public, allowed)
        server = GrpcServer(core_of(), "{}", "", security=security)
        target = f"localhost:{await server.start('localhost:0')}"
        try:
            async with stream(target, Credentials(*credentials, public)) as connection:
                await asyncio.wait_for(connection.join(0), 20)
        finally:
            await server.stop()
            turned_away.update(server.turned_away)

    turned_away = {}
    refused = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
    with pytest.raises(refused):
        asyncio.run(join(("localhost",), old))
    with pytest.raises(refused):
        asyncio.run(join(("elsewhere.example",), good))
    assert not turned_away
    with pytest.raises(refused):
        asyncio.run(join(("localhost",), unlisted))
    assert turned_away == {"not on the list": 1}
    asyncio.run(join(("localhost",), good))


def test_a_worker_that_is_taken_off_the_list_is_gone_and_one_that_is_put_on_it_comes(tmp_path):
    out = tmp_path / "all"
    tls.make(out, M, ("localhost",))
    listed = (out / "allowed.txt").read_text()
    without = "\n".join(x for x in listed.splitlines() if not x.startswith("1 "))

    async def run():
        core = core_of()
        async with serving(core, out, Terms(silence=2)) as (_, target):
            async with stream(target, read(out, "worker-1")) as connection:
                await connection.join(1)
                (out / "allowed.txt").write_text(without)
                assert await ended(connection) == ("PERMISSION_DENIED", "revoked")
            (out / "allowed.txt").write_text("not a list")
            async with stream(target, read(out, "worker-0")) as connection:
                with contextlib.suppress(EOFError, grpc.aio.AioRpcError):
                    await connection.join(0)
                assert (await ended(connection))[0] == "PERMISSION_DENIED"
            (out / "allowed.txt").write_text(listed)
            async with stream(target, read(out, "worker-1")) as connection:
                await connection.join(1)

    asyncio.run(run())


def test_f6_wrong_answers_leave_x_as_it_is_and_strikes_survive_the_connection():
    core = core_of()

    async def run():
        async with serving(core, None) as (_, target):
            async with stream(target) as honest:
                await speak(honest, await honest.join(1))
            before = core.machine.params.copy(), core.machine.averages.copy()
            nan, inf = np.full(K, np.nan), np.full(K, np.inf)
            wrongs = [{"value": nan}, {"value": inf}, {"value": np.ones(K + 1)}]
            for count, wrong in enumerate(wrongs, 1):
                async with stream(target) as liar:
                    question = await liar.join(0)
                    told = await speak(liar, question, **wrong)
                    assert told.verdict in ("nonfinite", "size")
                    assert (told.nonce, told.number) == (question.nonce, question.number)
                    assert core.strikes[0] == count
            async with stream(target) as liar:
                await liar.send(adversarial_client.answer(await liar.join(0), value(), nonce=7))
                assert (await ended(liar))[0] == "PERMISSION_DENIED"
            async with stream(target) as liar:
                with contextlib.suppress(EOFError, grpc.aio.AioRpcError):
                    await liar.join(0)
                code, details = await ended(liar)
                assert code == "PERMISSION_DENIED" and "4 strikes" in details
            assert same_bits(core.machine.params, before[0])
            assert same_bits(core.machine.averages, before[1]) and core.events == 1

    asyncio.run(run())


def test_f8_garbage_is_a_status_and_a_strike_and_no_pickle_is_ever_loaded(tmp_path):
    canary = tmp_path / "canary"
    rng = np.random.default_rng(0)
    pickled = pickle.dumps(adversarial_client.Canary(str(canary)))
    up = messages.Up()
    up.answer.values = pickled  # inside a message that parses
    both = messages.Up()
    both.alive.SetInParent()
    both.answer.nonce = 1

    async def run():
        core = core_of()
        async with serving(core, None, Terms(handshake=1)) as (server, target):
            for data in (rng.bytes(300), pickled, b"\x00", both.SerializeToString()):
                for greeted in (False, True):
                    core.strikes[:] = 0
                    async with stream(target) as connection:
                        if greeted:
                            await connection.join(0)
                        await connection.send(data)
                        code, details = await ended(connection)
                        assert code == "INVALID_ARGUMENT"
                        assert details == ("garbage" if greeted else "no hello")
                        assert core.strikes[0] == greeted
                    server._joins[0].level = 10
            async with stream(target) as connection:
                question = await connection.join(0)
                await connection.send(up.SerializeToString())
                assert (await connection.question()).verdict == "nonce"
                assert (await speak(connection, question)).verdict == "accepted"
            async with stream(target, method="Unknown") as connection:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await connection.send(b"")
                assert (await ended(connection))[0] == "UNIMPLEMENTED"
            async with stream(target) as connection:  # says nothing at all
                assert await ended(connection) == ("DEADLINE_EXCEEDED", "said nothing")
            assert core.events == 1

    asyncio.run(run())
    assert not canary.exists()
    with contextlib.suppress(TypeError):
        pickle.loads(pickled)  # it would have been written
    assert canary.exists()


def test_nothing_here_can_load_a_pickle():
    import farsign_jax.runtime as package

    for path in package.__path__:
        for name in os.listdir(path):
            if name.endswith(".py"):
                with open(os.path.join(path, name)) as file:
                    text = file.read()
                assert not re.search(r"\b(pickle|marshal|eval|exec|shelve)\b[.(]", text), name
                assert "np.load" not in text, name


def test_f13_a_late_joiner_gets_all_of_x_and_the_newer_session_of_two_is_the_one():
    """x is larger than a message, and changes while it is sent."""
    d = 3 * messages.CHUNK + 5
    core = core_of(Limits(rate=1e5, burst=1e5, history=1000), d=d)

    async def run():
        async with serving(core, None) as (_, target):
            async with stream(target) as busy:
                question = await busy.join(0)
                for _ in range(1200):
                    question = await speak(busy, question)
                late = worker_of(target, 1)
                task = asyncio.create_task(late.run())
                x = None
                while core.tallies[1].verdicts["accepted"] < 5:
                    question = await speak(busy, question)
                    x = core.machine.params
                task.cancel()
                # What it has is x, but for what was changed since its last question.
                assert len(late.x) == d
                behind = np.flatnonzero(late.x != x)
                assert len(behind) <= K * (core.events - late._version)
                assert np.abs(late.x).max() > 0
            async with stream(target) as old, stream(target) as new:
                first = await old.join(2)
                second = await new.join(2)
                assert (await ended(old)) == ("ALREADY_EXISTS", "replaced")
                assert first.nonce != second.nonce
                assert (await speak(new, second)).verdict == "accepted"

    asyncio.run(run())


def test_a_replaced_worker_does_not_fight_for_its_place():
    core = core_of()

    async def run():
        async with serving(core, None) as (_, target):
            task = asyncio.create_task(worker_of(target, 0).run())
            await until(lambda: core.events > 3)
            async with stream(target) as other:
                await other.join(0)
                with pytest.raises(Refused, match="ALREADY_EXISTS: replaced"):
                    await asyncio.wait_for(task, 20)
                assert core.tallies[0].joins == 2 and 0 in core.sessions

    asyncio.run(run())


def test_silence_ends_a_session_and_saying_that_one_is_alive_keeps_it():
    core = core_of()
    released = []

    async def run():
        terms = Terms(silence=0.8)
        async with serving(core, None, terms) as (_, target):
            loop = asyncio.get_running_loop()
            gate = asyncio.Event()

            def slow(x, question):  # thinks for longer than the limit
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
                released.append(question.number)
                return np.ones(K, np.float32)

            worker = worker_of(target, 1, answer=slow)
            worker._threaded = True
            task = asyncio.create_task(worker.run())
            await until(lambda: 1 in core.sessions)
            async with stream(target) as silent:
                begin = time.monotonic()
                await silent.join(0)
                assert await ended(silent) == ("DEADLINE_EXCEEDED", "silent")
                assert time.monotonic() - begin >= 0.8
            await asyncio.sleep(1.0)
            assert core.tallies[1].joins == 1 and 1 in core.sessions
            gate.set()
            await until(lambda: core.tallies[1].verdicts["accepted"] > 0)
            task.cancel()

    asyncio.run(run())
    assert released


def test_nobody_is_heard_before_enough_have_answered():
    core = core_of()

    async def run():
        async with (
            serving(core, None, Terms(silence=0.6, wait_for=3)) as (server, target),
            contextlib.AsyncExitStack() as stack,
        ):
            said, peers = [], [await stack.enter_async_context(stream(target)) for _ in "abc"]
            for worker, peer in enumerate(peers[:2]):
                said.append(asyncio.create_task(speak(peer, await peer.join(worker))))
            await asyncio.sleep(1.5)  # twice the silence limit
            assert len(core.sessions) == 2 and server.missing == 1
            assert core.events == 0 and not any(task.done() for task in said)
            peers[0].call.cancel()  # has been ready; its answer goes with it
            await until(lambda: 0 not in core.sessions)
            await speak(peers[2], await peers[2].join(2))
            await said[1]
            assert core.events == 2 and server.missing == 0
            said[0].cancel()
        async with serving(core, None, Terms(wait_for=3)) as (server, target):
            assert server.missing == 0  # a run that goes on
            async with stream(target) as alone:
                await speak(alone, await alone.join(2))

    asyncio.run(run())
    assert core.events == 3 and not core.strikes.any()


def test_who_loads_data_while_others_wait_is_heard_with_them():
    core = core_of()

    async def run():
        terms = Terms(silence=0.3, wait_for=2)
        async with serving(core, None, terms) as (_, target), stream(target) as other:
            worker = worker_of(target, 0)
            quick = worker._make
            worker._make = lambda *told: (time.sleep(2), quick(*told))[
                1
            ]  # 20 times silence / 3
            task = asyncio.create_task(worker.run())
            said = asyncio.create_task(speak(other, await other.join(1)))
            await until(lambda: core.tallies[0].verdicts["accepted"] > 3)
            await said
            assert core.tallies[0].joins == 1 and not core.strikes.any()
            task.cancel()

    asyncio.run(run())


def test_a_worker_may_not_say_all_the_time_that_it_is_alive():
    core = core_of()

    async def run():
        async with serving(core, None) as (_, target), stream(target) as connection:
            await connection.join(0)
            up = messages.Up()
            up.alive.SetInParent()
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                for _ in range(1000):
                    await connection.send(up.SerializeToString())
            await ended(connection)
            assert core.strikes[0] == 1 and core.events == 0 and not core.sessions

    asyncio.run(run())


def test_workers_come_back_when_the_server_does_and_give_up_when_it_does_not():
    core = core_of()

    async def run():
        async with serving(core, None) as (_, target):
            worker = worker_of(target, 0, patience=1.0)
            task = asyncio.create_task(worker.run())
            await until(lambda: core.events > 3)
            await asyncio.sleep(1.2)  # a conversation longer than its patience
        server = GrpcServer(core, "{}", "", security=None)
        await server.start(target)
        before = core.events
        await until(lambda: core.events > before + 3)
        await server.stop()
        with pytest.raises(
            Refused, match=r"no server at localhost:\d+ for [1-9]\d* s: UNAVAIL"
        ):
            await asyncio.wait_for(task, 30)

    asyncio.run(run())


@pytest.mark.parametrize("count", [8, pytest.param(1000, marks=helpers.LONG)])
def test_f7_messages_of_a_megabyte_are_refused_by_their_length(folder, count):
    core = core_of(strikes=np.array([0, 3, 0, 0, 0, 0]))

    async def run():
        terms = Terms(joins=count + 1)
        async with serving(core, folder, terms) as (server, target):
            for number in range(count):
                if number == min(count // 2, 100):
                    memory = helpers.memory_of(os.getpid())
                async with stream(target, read(folder, "worker-0")) as connection:
                    question = await connection.join(0)
                    await connection.send(adversarial_client.answer(question, np.ones(2**18)))
                    assert (await ended(connection))[0] == "RESOURCE_EXHAUSTED"
            await until(lambda: not core.sessions)
            assert core.events == 0 and server.bytes["up"] == 0
            kept = helpers.memory_of(os.getpid()) - memory  # of both ends, of the gigabyte sent
            assert kept < 32 * 2**20
            async with stream(target, read(folder, "worker-0")) as connection:
                question = await connection.join(0)  # whatever is below the limit is judged
                told = await speak(connection, question, value=np.ones(4000))
                assert told.verdict == "size"

    asyncio.run(run())


def test_one_worker_cannot_take_the_places_of_all(folder):
    core = core_of()

    async def run():
        mine, terms = read(folder, "worker-0"), Terms(handshake=30)
        async with contextlib.AsyncExitStack() as stack:
            server, target = await stack.enter_async_context(serving(core, folder, terms))
            for _ in range(40):  # streams that never say hello
                await stack.enter_async_context(stream(target, mine))
            await until(lambda: server.turned_away["joins too often"] >= 39)
            other = await stack.enter_async_context(stream(target, read(folder, "worker-1")))
            await asyncio.wait_for(other.join(1), 20)

    asyncio.run(run())


def test_joining_again_and_again_is_held_up():
    core = core_of()

    async def run():
        async with serving(core, None, Terms(joins=3)) as (server, target):
            for _ in range(3):
                async with stream(target) as connection:
                    await connection.join(0)
            async with stream(target) as connection:
                with contextlib.suppress(EOFError, grpc.aio.AioRpcError):
                    await connection.join(0)
                assert (await ended(connection)) == ("UNAVAILABLE", "joins too often")
            async with stream(target) as connection:  # nobody else is
                await connection.join(1)
            assert server.turned_away == {"joins too often": 1}

    asyncio.run(run())


def test_the_schema_is_what_protoc_makes_of_it(tmp_path):
    path = pathlib.Path(messages.__file__).with_name("messages.proto")
    file = messages.schema(path.read_text())
    assert [m.name for m in file.message_type][-1] == "Down" and len(file.message_type) == 8
    with pytest.raises(ValueError, match="cannot read 'repeated int32 x = 1;'"):
        messages.schema("message A {\n repeated int32 x = 1;\n}")
    protoc = pytest.importorskip("grpc_tools.protoc")
    from google.protobuf import descriptor_pb2

    out = tmp_path / "made"
    command = ["", f"-I{path.parent}", f"--descriptor_set_out={out}", path.name]
    assert protoc.main(command) == 0
    want = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    want.name = file.name
    assert want == file


def test_the_list_of_who_may_join_names_its_mistakes(tmp_path):
    path, good = tmp_path / "allowed.txt", "ab" * 32
    path.write_text(f"# all\n\n2 {good.upper()} # one\n")
    assert Allowed(path, M)._known == {good: 2}
    for text, message in [
        (f"9 {good}", r"line 1: workers are 0..5: got 9"),
        ("1", "a line is WORKER FINGERPRINT: got '1'"),
        ("1 abc", "a line is WORKER FINGERPRINT"),
        (f"x {good}", "a line is WORKER FINGERPRINT"),
        (f"1 {good}\n2 {good}", "line 2: listed twice"),
    ]:
        path.write_text(text)
        with pytest.raises(InvalidConfig, match=message):
            Allowed(path, M)
    with pytest.raises(InvalidConfig, match="no list of who may join"):
        Allowed(tmp_path / "none", M)


def test_certificates_are_made_once_with_keys_that_only_their_owner_reads(folder):
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    assert not list(folder.glob("authority.key"))
    with pytest.raises(InvalidConfig, match="holds certificates already"):
        tls.make(folder, 1, ("localhost",))
    certificate = x509.load_pem_x509_certificate((folder / "worker-1.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=worker-1"


def test_a_port_that_is_taken_is_one_line():
    async def run():
        async with serving(core_of(), None) as (_, target):
            server = GrpcServer(core_of(), "{}", "", security=None)
            with pytest.raises(InvalidConfig, match=f"cannot listen at {target}"):
                await server.start(target)

    asyncio.run(run())
