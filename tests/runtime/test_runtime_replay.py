"""A run on disk: killed anywhere it goes on, and the simulator ends with the same bits."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from farsign_jax import InvalidConfig, simulation
from farsign_jax.config.run_config import RunConfig
from farsign_jax.io import files
from farsign_jax.runtime import journal, replay, run_config
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.journal import Arrival, Log
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.numpy_server import OnHost
from farsign_jax.runtime.state_machine import Compiled, same_bits
from farsign_jax.runtime.store import Store
from farsign_jax.runtime.worker import Answers
from tests import helpers

RUN = "0123456789abcdef"
FREE = Limits(rate=1e9, history=64)


def arrival(number, value=(1.0, 2.0)):
    return Arrival(number % 3, number, number, float(number), np.asarray(value, np.float32))


def written(path, count=5):
    log = Log(path, 2, RUN)
    for number in range(count):
        log.append(arrival(number))
    log.close()
    return path.read_bytes()


def test_what_was_appended_is_read(tmp_path):
    written(tmp_path / "log")
    told = journal.read(tmp_path / "log")
    assert told["number"].tolist() == [0, 1, 2, 3, 4] and told["worker"].tolist() == [
        0,
        1,
        2,
        0,
        1,
    ]
    np.testing.assert_array_equal(told["value"], [[1, 2]] * 5)
    again = Log(tmp_path / "log", 2, RUN, durable=3)
    assert again.tail["number"].tolist() == [3, 4] and again.cut == 0
    again.append(arrival(5))
    again.close()
    assert len(journal.read(tmp_path / "log")) == 6


def test_a_torn_tail_is_cut_wherever_it_is_torn(tmp_path):
    path = tmp_path / "log"
    whole = written(path)
    size = journal.record(2).itemsize
    for cut in range(1, 2 * size + 1):
        path.write_bytes(whole[:-cut])
        log = Log(path, 2, RUN)
        assert len(log.tail) == 5 - -(-cut // size) and log.cut == -cut % size
        log.append(arrival(7))
        log.close()
        told = journal.read(path)
        assert told["number"].tolist()[-1] == 7 and len(told) == 6 - -(-cut // size)


def test_no_record_can_be_changed_moved_or_missing(tmp_path):
    path = tmp_path / "log"
    whole = written(path)
    size, begin = journal.record(2).itemsize, len(whole) - 5 * journal.record(2).itemsize
    records = [whole[begin + i * size : begin + (i + 1) * size] for i in range(5)]
    for at in range(begin, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert len(journal.read(path)) == (at - begin) // size
    for order in ((0, 1, 3, 4), (0, 2, 1, 3, 4), (0, 0, 1, 2, 3)):
        path.write_bytes(whole[:begin] + b"".join(records[i] for i in order))
        assert len(journal.read(path)) == [n == i for n, i in enumerate(order)].index(False)


def test_logs_of_other_runs_and_of_nothing_are_refused(tmp_path):
    path = tmp_path / "log"
    whole = written(path)
    for fingerprint, k in (("f" * 16, 2), (RUN, 3)):
        with pytest.raises(InvalidConfig, match="is a log of another run"):
            Log(path, k, fingerprint)
    with pytest.raises(InvalidConfig, match="counts on 6 arrivals, and there are fewer"):
        Log(path, 2, RUN, durable=6)
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(InvalidConfig, match="no log of arrivals"):
        journal.read(path)
    with pytest.raises(InvalidConfig, match="no log of arrivals"):
        journal.read(tmp_path / "nothing")


CONFIG = RunConfig(workers=4, byzantine=0, batch_size=16, directions=20, decay_every=100)


@pytest.fixture(scope="module")
def problem():
    return CONFIG.problem()[0]


def started(path, problem, limits=FREE, config=CONFIG):
    machine = run_config.machine(config, problem)
    store = Store(path, run_config.fingerprint(config), machine.shape, config.workers)
    by_seed = run_config.draws_by_seed(config)
    core = ServerCore(machine, limits, by_seed=by_seed, log=store.append, strikes=store.strikes)
    return core, store, store.resume(core)


def converse(core, schedule, speak):
    """Workers are heard in this order; `speak(i, x, question)` is what they answer."""
    asked, read = {}, {}
    for event, i in enumerate(schedule):
        if i not in asked:
            asked[i] = core.join(i, None, 0.0)
            read[i] = core.machine.params.copy()
        session, reply = asked[i]
        q = reply.question
        value = speak(i, read[i], q).tobytes()
        reply = core.handle(session, q.nonce, q.version, value, float(event))
        asked[i] = session, reply
        at = slice(None) if reply.delta.at is None else reply.delta.at
        read[i] = read[i].copy()
        read[i][at] = reply.delta.values
        assert reply.verdict == "accepted" and same_bits(read[i], core.machine.params)


def test_ten_thousand_arrivals_of_liars_replay_to_the_same_bits(tmp_path, problem):
    """Random numbers of all sizes, steps that shrink, workers at very different rates."""
    (tmp_path / "config.json").write_text(run_config.to_json(CONFIG))
    rng = np.random.default_rng(0)
    schedule = rng.choice(4, 10_000, p=[0.7, 0.2, 0.09, 0.01]).tolist()

    def speak(i, x, question):
        with np.errstate(all="ignore"):
            value = rng.normal(size=20) * 10.0 ** rng.uniform(-50, 40 * (i == 1))
            return np.nan_to_num(value.astype(np.float32))

    core, store, _ = started(tmp_path, problem)
    assert isinstance(core.machine, OnHost)
    converse(core, schedule[:6000], speak)
    store.save(core)
    converse(core, schedule[6000:], speak)
    store.close()
    found = replay.verify(tmp_path)
    assert found.events == 10_000 and found.differing == []
    assert same_bits(found.run.server.params, core.machine.params)
    assert same_bits(found.run.server.averages, core.machine.averages.T)
    assert replay.main(["replay", str(tmp_path)]) == 0
    # It can fail: one bit of one answer.
    log = tmp_path / "arrivals.log"
    told = journal.read(log).copy()
    told["value"][3, 0] = -told["value"][3, 0]
    run = replay.replay(CONFIG.system(problem).server, (20,), told, problem.x0, CONFIG.seed)
    assert core.machine.differing(run.server) == ["params", "averages"] or (
        core.machine.differing(run.server) == ["averages"]
    )
    told["number"][5] += 1
    with pytest.raises(InvalidConfig, match="arrival 5 answers question"):
        replay.replay(CONFIG.system(problem).server, (20,), told, problem.x0, 0)


def test_real_workers_on_digits_replay_and_are_what_the_simulator_says(tmp_path, problem):
    """From the recorded answers, and computed again by `simulate` from the schedule alone."""
    (tmp_path / "config.json").write_text(run_config.to_json(CONFIG))
    system = CONFIG.system(problem)
    schedule = np.random.default_rng(1).integers(0, 4, 300).astype(np.int32)
    workers = [Answers(system, problem, CONFIG.seed, i) for i in range(4)]

    def speak(i, x, q):
        return workers[i].answer(x, q.number, q.step, q.direction)

    core, store, _ = started(tmp_path, problem)
    asked = {i: core.join(i, None, 0.0) for i in range(4)}  # as in the simulator
    read = {i: core.machine.params.copy() for i in range(4)}
    for i in schedule.tolist():
        session, reply = asked[i]
        value = speak(i, read[i], reply.question).tobytes()
        question = reply.question
        reply = core.handle(session, question.nonce, question.version, value, 0.0)
        asked[i], read[i] = (session, reply), core.machine.params.copy()
    store.close()
    found = replay.verify(tmp_path)
    assert found.events == 300 and found.differing == []
    run, _ = simulation.run(problem, system, schedule, seed=CONFIG.seed, delivery="outstanding")
    assert core.machine.differing(run.server) == []
    assert np.abs(core.machine.params - np.asarray(problem.x0)).max() > 0.1


SMALL = dataclasses.replace(run_config.BASE, workers=3, batch_size=8, directions=10)
GENERAL = [
    dataclasses.replace(SMALL, method="async_sgd", model="softmax_regression"),
    dataclasses.replace(SMALL, method="fedbuff", model="softmax_regression"),
    dataclasses.replace(SMALL, method="far_sign:sampler=alive"),
    dataclasses.replace(SMALL, method="far_sign:rate_cap=2.0"),
]


@pytest.mark.parametrize("config", GENERAL, ids=lambda c: c.method)
def test_other_servers_go_through_their_compiled_update_and_replay(config, tmp_path):
    (tmp_path / "config.json").write_text(run_config.to_json(config))
    problem = config.problem()[0]
    core, store, _ = started(tmp_path, problem, config=config)
    assert isinstance(core.machine, Compiled)
    rng = np.random.default_rng(2)
    schedule = rng.integers(0, 3, 60).tolist()

    def speak(i, x, question):
        assert (question.direction is None) == run_config.draws_by_seed(config)
        return rng.normal(size=core.machine.shape).astype(np.float32)

    converse(core, schedule[:30], speak)
    store.save(core)
    converse(core, schedule[30:], speak)  # everybody joins again: versions jump
    store.close()
    assert replay.verify(tmp_path).differing == []


def served(**settings):
    """Reads the settings of a run, as a worker does."""
    return run_config.from_json(json.dumps(run_config.to_dict(CONFIG) | settings))


def test_the_settings_of_a_served_run_are_read_back_and_checked():
    assert served() == CONFIG
    assert run_config.fingerprint(served()) == run_config.fingerprint(CONFIG)
    assert run_config.fingerprint(served(seed=1)) != run_config.fingerprint(CONFIG)
    for settings, message in [
        ({"method": "far_sing"}, "did you mean 'far_sign'"),
        ({"method": "sgd"}, "sgd works in rounds, and this server waits for"),
        ({"method": "kardam"}, "kardam must know how many workers are Byzantine"),
        ({"method": "far_sign:arrival_rates=known"}, "nobody knows the rates of real workers"),
        ({"method": "far_sign:colour=1"}, "unknown option of far_sign 'colour'"),
        ({"workers": 0}, "need workers > 0: got 0"),
        ({"workers": 2**16}, "workers < 65536: got 65536"),
        ({"delta": 0}, "0 < delta"),
    ]:
        with pytest.raises(InvalidConfig, match=message):
            served(**settings)
    for text in ("", "[]", "{}", '{"options": 3, "hyper": []}', '{"surprise": 1}'):
        with pytest.raises(InvalidConfig, match="no configuration of a served run"):
            run_config.from_json(text)


def test_a_killed_server_goes_on_from_checkpoint_and_log_and_counts_nothing_twice(
    tmp_path, problem
):
    rng = np.random.default_rng(4)
    values = rng.normal(size=(90, 20)).astype(np.float32)
    schedule = rng.integers(0, 4, 90).tolist()

    def go(core, part):
        told = iter(values[part])
        converse(core, schedule[part], lambda i, x, q: next(told))

    whole, store, _ = started(tmp_path / "whole", problem)
    go(whole, slice(0, 90))
    store.close()
    for begin, end in ((0, 30), (30, 60), (60, 90)):  # each ends as if it were killed
        core, store, heard = started(tmp_path / "parts", problem)
        assert core.events == begin and heard == (0 if begin == 0 else 15)
        go(core, slice(begin, begin + 15))
        store.save(core)
        go(core, slice(begin + 15, end))
        store.close()
    core, store, _ = started(tmp_path / "parts", problem)
    store.close()
    for name, array in whole.state_dict().items():
        assert same_bits(core.state_dict()[name], array), name


def test_strikes_are_on_disk_before_the_next_message(tmp_path, problem):
    core, store, _ = started(tmp_path, problem)
    with pytest.raises(InvalidConfig, match="is being served: one server to a folder"):
        started(tmp_path, problem)
    core.strikes[2] = 3
    store.save_strikes(core.strikes)
    store.close()
    again, store, _ = started(tmp_path, problem)
    store.close()
    assert again.strikes.tolist() == [0, 0, 3, 0]
    (tmp_path / "strikes.json").write_text("{")
    with pytest.raises(InvalidConfig, match=r"strikes\.json is damaged"):
        started(tmp_path, problem)


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path, problem):
    core, store, _ = started(tmp_path, problem)
    converse(core, [0, 1, 2], lambda i, x, q: np.ones(20, np.float32))
    store.save(core)
    store.close()
    with pytest.raises(InvalidConfig, match="of another run"):
        Store(tmp_path, "f" * 16, (20,), 4)
    path = tmp_path / "checkpoint.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidConfig, match="is damaged"):
        started(tmp_path, problem)
    path.write_bytes(whole)
    (tmp_path / "arrivals.log").unlink()
    with pytest.raises(InvalidConfig, match="counts on 3 arrivals, and there are fewer"):
        started(tmp_path, problem)


SAVING = """
import sys, numpy as np
from farsign_jax import results
for n in range(10**6):
    arrays = {"a": np.full(300_000, n), "b": np.full(300_000, n)}
    results.save_arrays(sys.argv[1], arrays)
    print(n, flush=True)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=helpers.LONG)])
def test_f12_a_checkpoint_is_the_old_or_the_new_one_whenever_its_writer_is_killed(
    kills, tmp_path
):
    path, rng = tmp_path / "checkpoint.npz", np.random.default_rng(0)
    for _ in range(kills):
        command = [sys.executable, "-c", SAVING, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(3):
                writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split()
        told = files.load_arrays(path)
        assert (told["a"] == told["b"]).all() and len(set(told["a"].tolist())) == 1
        last = int(rest[-1]) if rest else 2
        assert told["a"][0] in (last, last + 1)
