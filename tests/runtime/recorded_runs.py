"""Runs on disk that several tests share."""

from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.setting import Setting
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.store import Store

FREE = Limits(rate=1e9, history=64)
SETTING = Setting(workers=4, batch_size=16, directions=20, decay_every=100)


def open_run(path, problem, setting=SETTING):
    """The core of a run in a folder, its store, and the number of arrivals applied again."""
    machine = setting.machine(problem)
    store = Store(path, setting.fingerprint, machine.shape, setting.workers)
    core = ServerCore(
        machine, FREE, by_seed=setting.by_seed, log=store.append, strikes=store.strikes
    )
    return core, store, store.resume(core)


def converse(core, schedule, answer):
    """Lets workers answer in this order, where `answer(i, x, question)` returns the values."""
    sessions, copies = {}, {}
    for event, i in enumerate(schedule):
        if i not in sessions:
            sessions[i] = core.join(i, None, 0.0)
            copies[i] = core.machine.params.copy()
        session, reply = sessions[i]
        question = reply.question
        value = answer(i, copies[i], question).tobytes()
        reply = core.handle(session, question.nonce, question.version, value, float(event))
        sessions[i] = session, reply
        indices = slice(None) if reply.delta.indices is None else reply.delta.indices
        copies[i] = copies[i].copy()
        copies[i][indices] = reply.delta.values
        assert reply.verdict == "accepted" and same_bits(copies[i], core.machine.params)
