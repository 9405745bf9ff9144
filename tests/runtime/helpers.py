"""Cores, servers, clients and workers that several tests of the runtime share."""

import asyncio
import contextlib
import time

import grpc
import numpy as np

from farsign_jax import directions
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.runtime import messages
from farsign_jax.runtime.allow_list import AllowList
from farsign_jax.runtime.connection import Security
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.grpc_server import GrpcServer
from farsign_jax.runtime.grpc_worker import Credentials, GrpcWorker
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.state_machine import CompiledServer
from farsign_jax.runtime.testing import adversarial_client
from farsign_jax.runtime.worker import Responder

STEPS = {"step_size": 0.05, "average_step": 0.3}

# Of the cores without a network.
M, D, K = 3, 24, 4


def state_machine(kind="numpy", m=M, d=D, k=K, x0=None, **steps):
    dictionary, x0 = directions.identity(d, k), np.zeros(d, np.float32) if x0 is None else x0
    steps = STEPS | steps
    if kind == "numpy":
        return NumpyServer(m, dictionary, x0, 0, **steps)
    return CompiledServer(far_sign(m, dictionary, **steps), x0, 0, (k,), True)


def make_core(limits=None, log=None, **options):
    """A core whose nonces are 0, 1, 2, ..., for tests that must know them."""
    log = [].append if log is None else log
    nonce = iter(range(10**6)).__next__
    options = {"nonce": nonce, "by_seed": True} | options
    machine = options.pop("machine", None) or state_machine()
    return ServerCore(machine, limits or Limits(rate=1e6), log=log, **options)


def answer_question(core, session, question, value=None, now=0.0, wrong=None):
    """Answers a question of a core, with some fields replaced by wrong ones."""
    value = (np.ones(K, np.float32) if value is None else value).tobytes()
    fields = {"nonce": question.nonce, "version": question.version, "value": value}
    return core.handle(session, **(fields | (wrong or {})), now=now)


def state_bytes(core):
    return {name: a.tobytes() for name, a in core.state_dict().items()}


# Of the servers over a network.
NET_M, NET_D, NET_K = 6, 400, 16


def read_credentials(folder, name):
    names = (f"{name}.key", f"{name}.crt", "authority.crt")
    return Credentials(*((folder / each).read_bytes() for each in names))


def network_core(limits=None, d=NET_D, **options):
    steps = {"step_size": 0.01, "average_step": 0.3}
    machine = state_machine(m=NET_M, d=d, k=NET_K, **steps)
    limits = limits or Limits(rate=1e5, burst=1e5)
    return ServerCore(machine, limits, by_seed=True, log=lambda a: None, **options)


@contextlib.asynccontextmanager
async def serving(core, certificates, limits=None):
    """A server on a free port, with certificates or, if there are none, without TLS."""
    security = None
    if certificates is not None:
        allowed = AllowList(certificates / "allowed.txt", NET_M)
        security = Security(*read_credentials(certificates, "server"), allowed)
    server = GrpcServer(core, "{}", "f" * 16, security=security, limits=limits)
    port = await server.start("localhost:0")
    try:
        yield server, f"localhost:{port}"
    finally:
        await server.stop()


def _channel(target, credentials):
    if credentials is None:
        return grpc.aio.insecure_channel(target)
    key, certificate, authority = credentials
    secure = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.aio.secure_channel(target, secure)


@contextlib.asynccontextmanager
async def stream(target, credentials=None, method=messages.METHOD):
    """A client whose messages the test determines."""
    async with _channel(target, credentials) as channel:
        call = channel.stream_stream(f"/{messages.SERVICE}/{method}")()
        yield adversarial_client.Connection(call)
        call.cancel()


async def status(connection, seconds=20):
    """Returns the code and the details with which a call ends."""
    code = await asyncio.wait_for(connection.call.code(), seconds)
    return code.name, await connection.call.details()


async def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        await asyncio.sleep(0.02)


async def exchange(connection, question, **wrong):
    """Answers a question, and returns the next one."""
    fields = {"value": np.ones(NET_K)} | wrong
    await connection.send(adversarial_client.answer(question, **fields))
    return await connection.question()


def make_worker(target, number, credentials=None, answer=None, **options):
    answer = answer or (lambda x, question: np.ones(NET_K, np.float32))
    responder = Responder(answer, np.zeros(0, np.int32))
    options = {"threaded": False} | options
    return GrpcWorker(target, number, lambda *_: responder, credentials=credentials, **options)
