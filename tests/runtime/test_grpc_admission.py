"""Who may join over the network: certificates, the allow list and the rate of joining."""

import asyncio
import contextlib

import grpc
import numpy as np
import pytest
from cryptography import x509

from farsign_jax import InvalidConfig
from farsign_jax.runtime import messages, tls
from farsign_jax.runtime.allow_list import AllowList
from farsign_jax.runtime.connection import ConnectionLimits, Security
from farsign_jax.runtime.grpc_server import GrpcServer
from farsign_jax.runtime.grpc_worker import Credentials
from farsign_jax.runtime.store import Store
from farsign_jax.runtime.testing import adversarial_client
from tests.runtime.helpers import (
    NET_M,
    network_core,
    read_credentials,
    serving,
    status,
    stream,
    until,
)


def test_f5_a_certificate_that_is_not_on_the_list_is_rejected(certificates, tmp_path):
    other, public = tls.authority(), "authority.crt"
    own = (certificates / public).read_bytes()
    self_signed = Credentials(*tls.issue(other, "worker-0"), own)

    async def run():
        core = network_core()
        limits = ConnectionLimits(silence=5, handshake=1)
        async with serving(core, certificates, limits) as (server, target):
            for credentials in (self_signed, None):
                async with stream(target, credentials) as connection:
                    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
                        await asyncio.wait_for(connection.join(0), 20)
            assert core.sessions == {} and not server.rejected  # the TLS handshake failed
            async with stream(target, read_credentials(certificates, "worker-2")) as connection:
                await connection.join(
                    5
                )  # the certificate counts, not the number in the message
                assert list(core.sessions) == [2]

    asyncio.run(run())


def test_f5_expired_certificates_and_servers_with_another_name_are_rejected(tmp_path):
    signer = tls.authority()
    public = signer.certificate.public_bytes(tls.serialization.Encoding.PEM)
    old = tls.issue(signer, "worker-0", days=-1)
    good = tls.issue(signer, "worker-0")
    unlisted = tls.issue(signer, "worker-0")
    lines = [f"0 {tls.fingerprint(c)}" for _, c in (old, good)]
    (tmp_path / "allowed.txt").write_text("\n".join(lines))
    allowed = AllowList(tmp_path / "allowed.txt", NET_M)

    async def join(hosts, credentials):
        key, certificate = tls.issue(signer, "server", hosts)
        security = Security(key, certificate, public, allowed)
        server = GrpcServer(network_core(), "{}", "", security=security)
        target = f"localhost:{await server.start('localhost:0')}"
        try:
            async with stream(target, Credentials(*credentials, public)) as connection:
                await asyncio.wait_for(connection.join(0), 20)
        finally:
            await server.stop()
            reasons.update(server.rejected)

    reasons = {}
    failures = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
    with pytest.raises(failures):
        asyncio.run(join(("localhost",), old))
    with pytest.raises(failures):
        asyncio.run(join(("elsewhere.example",), good))
    assert not reasons
    with pytest.raises(failures):
        asyncio.run(join(("localhost",), unlisted))
    assert reasons == {"not on the allow list": 1}
    asyncio.run(join(("localhost",), good))


async def reason_of(target, credentials, worker):
    """How an attempt to join ends: "joined", or the code and the details of its rejection."""
    async with stream(target, credentials) as connection:
        try:
            await connection.join(worker)
        except (EOFError, grpc.aio.AioRpcError):
            return await status(connection)
        return "joined"


@pytest.mark.slow  # it waits ten seconds
def test_f24_the_allow_list_is_replaced_by_whole_lists_only(tmp_path, capsys):
    out = tmp_path / "all"
    tls.make(out, NET_M, ("localhost",))
    path = out / "allowed.txt"
    listed = path.read_text()
    without = "\n".join(x for x in listed.splitlines() if not x.startswith("1 "))
    own = [read_credentials(out, f"worker-{i}") for i in range(2)]

    async def run():
        core = network_core()
        async with serving(core, out, ConnectionLimits(silence=60)) as (_, target):
            async with stream(target, own[1]) as connection, stream(target, own[0]) as other:
                await connection.join(1)
                await other.join(0)
                for wrong in ("", "not a list", listed + "9" * 5000 + " " + "0" * 64):
                    path.write_text(wrong)
                    await asyncio.sleep(2.2)  # it is refused, and nobody is disconnected
                    assert sorted(core.sessions) == [0, 1]
                path.unlink()
                await asyncio.sleep(2.2)
                assert sorted(core.sessions) == [0, 1]
                path.write_text(without)
                assert await status(connection) == ("PERMISSION_DENIED", "revoked")
                assert list(core.sessions) == [0]
            rejected = ("PERMISSION_DENIED", "not on the allow list")
            assert await reason_of(target, own[1], 1) == rejected
            path.write_text(listed)  # in place, so that it is read a little later
            reason = await reason_of(target, own[1], 1)
            assert reason == ("UNAVAILABLE", "the allow list is being changed")
            await asyncio.sleep(0.6)
            assert await reason_of(target, own[1], 1) == "joined"

    asyncio.run(run())
    said = capsys.readouterr().err
    for reason in (
        "lists no worker",
        "lines are WORKER FINGERPRINT",
        "got 99999",
        "cannot read",
    ):
        assert said.count(reason) == 1
    assert "the workers of the list before may still join" in said and len(said) < 2000


@pytest.mark.parametrize("replaced", [True, False])
def test_f24_a_thousand_edits_of_the_allow_list_disconnect_nobody(tmp_path, replaced):
    certificate = tls.issue(tls.authority(), "worker-1")[1]
    path, new = tmp_path / "allowed.txt", tmp_path / "new"
    own, rng = f"1 {tls.fingerprint(certificate)}\n", np.random.default_rng(0)
    path.write_text(own)
    allowed = AllowList(path, NET_M)
    for _ in range(1000):
        others = "".join(f"{rng.integers(NET_M)} {rng.bytes(32).hex()}\n" for _ in range(5))
        if replaced:
            new.write_text(others + own)
            new.replace(path)
        else:
            path.write_text(others)  # the other half is not written yet
            assert allowed.worker(certificate) == 1
            path.write_text(others + own)
        assert allowed.worker(certificate) == 1
    assert allowed.changing is not replaced


def test_f25_a_certificate_that_expires_ends_its_session_and_any_resumed_one(tmp_path):
    signer = tls.authority()
    public = signer.certificate.public_bytes(tls.serialization.Encoding.PEM)
    short = tls.issue(signer, "worker-0", days=3 / 86400)
    (tmp_path / "allowed.txt").write_text(f"0 {tls.fingerprint(short[1])}")
    key, certificate = tls.issue(signer, "server", ("localhost",))
    allowed = AllowList(tmp_path / "allowed.txt", NET_M)
    security = Security(key, certificate, public, allowed)

    async def run():
        limits = ConnectionLimits(silence=20)
        server = GrpcServer(network_core(), "{}", "", security=security, limits=limits)
        target = f"localhost:{await server.start('localhost:0')}"
        credentials = grpc.ssl_channel_credentials(public, *short)
        try:
            async with grpc.aio.secure_channel(target, credentials) as channel:
                name = f"/{messages.SERVICE}/{messages.METHOD}"
                first = adversarial_client.Connection(channel.stream_stream(name)())
                await first.join(0)
                assert await status(first) == ("PERMISSION_DENIED", "expired")
                second = adversarial_client.Connection(channel.stream_stream(name)())
                with pytest.raises((EOFError, grpc.aio.AioRpcError)):
                    await second.join(0)
                assert await status(second) == ("PERMISSION_DENIED", "expired")
        finally:
            await server.stop()

    asyncio.run(run())


@pytest.mark.parametrize("content", ['{"-1": 9}', '{"0": -9}', '{"0": 1.5}', "[]", '{"9": 1}'])
def test_wrong_strikes_are_refused(tmp_path, content):
    (tmp_path / "strikes.json").write_text(content)
    with pytest.raises(InvalidConfig, match=r"strikes\.json is damaged"):
        Store(tmp_path, "f" * 16, (2,), 2)


def test_certificates_need_ascii_names_and_a_folder_without_keys(tmp_path):
    with pytest.raises(InvalidConfig, match=r"--hosts takes ASCII names: got 'höst'"):
        tls.make(tmp_path / "a", 1, ("höst",))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "server.key").write_text("left over")
    with pytest.raises(
        InvalidConfig, match=r"server\.key already exists: choose another --out"
    ):
        tls.make(tmp_path / "b", 1, ("localhost",))
    assert (tmp_path / "b" / "server.key").read_text() == "left over"


def test_one_worker_cannot_occupy_every_stream(certificates):
    core = network_core()

    async def run():
        own, limits = read_credentials(certificates, "worker-0"), ConnectionLimits(handshake=30)
        async with contextlib.AsyncExitStack() as stack:
            server, target = await stack.enter_async_context(
                serving(core, certificates, limits)
            )
            for _ in range(40):  # streams without a hello
                await stack.enter_async_context(stream(target, own))
            await until(lambda: server.rejected["joins too often"] >= 39)
            other = await stack.enter_async_context(
                stream(target, read_credentials(certificates, "worker-1"))
            )
            await asyncio.wait_for(other.join(1), 20)

    asyncio.run(run())


def test_joining_too_often_is_rejected():
    core = network_core()

    async def run():
        async with serving(core, None, ConnectionLimits(joins=3)) as (server, target):
            for _ in range(3):
                async with stream(target) as connection:
                    await connection.join(0)
            async with stream(target) as connection:
                with contextlib.suppress(EOFError, grpc.aio.AioRpcError):
                    await connection.join(0)
                assert (await status(connection)) == ("UNAVAILABLE", "joins too often")
            async with stream(target) as connection:  # another worker is not affected
                await connection.join(1)
            assert server.rejected == {"joins too often": 1}

    asyncio.run(run())


def test_errors_in_the_allow_list_name_the_line(tmp_path):
    path, good = tmp_path / "allowed.txt", "ab" * 32
    path.write_text(f"# all\n\n2 {good.upper()} # one\n")
    assert AllowList(path, NET_M)._known == {good: 2}
    for text, message in [
        (f"9 {good}", r"line 1: workers are 0..5: got 9"),
        ("1", "lines are WORKER FINGERPRINT: got '1'"),
        ("1 abc", "lines are WORKER FINGERPRINT"),
        (f"x {good}", "lines are WORKER FINGERPRINT"),
        (f"1 {good}\n2 {good}", "line 2: listed twice"),
    ]:
        path.write_text(text)
        with pytest.raises(InvalidConfig, match=message):
            AllowList(path, NET_M)
    with pytest.raises(InvalidConfig, match="cannot read the list of allowed workers"):
        AllowList(tmp_path / "none", NET_M)


def test_certificates_are_not_overwritten_and_keys_are_private(certificates):
    assert {path.stat().st_mode & 0o777 for path in certificates.glob("*.key")} == {0o600}
    assert not list(certificates.glob("authority.key"))
    with pytest.raises(InvalidConfig, match="already contains certificates"):
        tls.make(certificates, 1, ("localhost",))
    certificate = x509.load_pem_x509_certificate((certificates / "worker-1.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=worker-1"


def test_an_occupied_port_is_an_error_with_its_address():
    async def run():
        async with serving(network_core(), None) as (_, target):
            server = GrpcServer(network_core(), "{}", "", security=None)
            with pytest.raises(InvalidConfig, match=f"cannot listen at {target}"):
                await server.start(target)

    asyncio.run(run())
