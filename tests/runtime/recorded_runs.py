"""Runs on disk that several tests share."""

from farsign_jax.config.run_config import RunConfig
from farsign_jax.runtime import run_config
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.store import Store

FREE = Limits(rate=1e9, history=64)
CONFIG = RunConfig(workers=4, byzantine=0, batch_size=16, directions=20, decay_every=100)


def open_run(path, problem, config=CONFIG):
    """The core of a run in a folder, its store, and the number of arrivals applied again."""
    machine = run_config.machine(config, problem)
    store = Store(path, run_config.fingerprint(config), machine.shape, config.workers)
    by_seed = run_config.draws_by_seed(config)
    core = ServerCore(machine, FREE, by_seed=by_seed, log=store.append, strikes=store.strikes)
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
