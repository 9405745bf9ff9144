"""Who may join over the network: certificates, the allow list and the rate of joining."""

import asyncio
import contextlib

import grpc
import pytest
from cryptography import x509

from farsign_jax import InvalidConfig
from farsign_jax.runtime import tls
from farsign_jax.runtime.connection import ConnectionLimits, Security
from farsign_jax.runtime.grpc_server import GrpcServer
from farsign_jax.runtime.grpc_worker import Credentials
from farsign_jax.runtime.tls import AllowList
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


def test_changes_of_the_allow_list_take_effect_at_once(tmp_path):
    out = tmp_path / "all"
    tls.make(out, NET_M, ("localhost",))
    listed = (out / "allowed.txt").read_text()
    without = "\n".join(x for x in listed.splitlines() if not x.startswith("1 "))

    async def run():
        core = network_core()
        async with serving(core, out, ConnectionLimits(silence=2)) as (_, target):
            async with stream(target, read_credentials(out, "worker-1")) as connection:
                await connection.join(1)
                (out / "allowed.txt").write_text(without)
                assert await status(connection) == ("PERMISSION_DENIED", "revoked")
            (out / "allowed.txt").write_text("not a list")
            async with stream(target, read_credentials(out, "worker-0")) as connection:
                with contextlib.suppress(EOFError, grpc.aio.AioRpcError):
                    await connection.join(0)
                assert (await status(connection))[0] == "PERMISSION_DENIED"
            (out / "allowed.txt").write_text(listed)
            async with stream(target, read_credentials(out, "worker-1")) as connection:
                await connection.join(1)

    asyncio.run(run())


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
    assert AllowList(path, NET_M)._workers_by_fingerprint == {good: 2}
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
