"""A recorded run is repeated by the simulator with the same bits."""

import dataclasses
import json

import numpy as np
import pytest

from farsign_jax import InvalidConfig, simulation
from farsign_jax.runtime import journal, replay, run_config
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.state_machine import CompiledServer, same_bits
from farsign_jax.runtime.worker import LocalWorker
from tests.runtime.recorded_runs import CONFIG, converse, open_run

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def problem():
    return CONFIG.problem()[0]


@pytest.mark.long
@pytest.mark.slow
def test_ten_thousand_arrivals_replay_to_the_same_bits(tmp_path, problem):
    """With random values of all magnitudes, decaying step sizes and very different rates."""
    (tmp_path / "config.json").write_text(run_config.to_json(CONFIG))
    rng = np.random.default_rng(0)
    schedule = rng.choice(4, 10_000, p=[0.7, 0.2, 0.09, 0.01]).tolist()

    def answer(i, x, question):
        with np.errstate(all="ignore"):
            value = rng.normal(size=20) * 10.0 ** rng.uniform(-50, 40 * (i == 1))
            return np.nan_to_num(value.astype(np.float32))

    core, store, _ = open_run(tmp_path, problem)
    assert isinstance(core.machine, NumpyServer)
    converse(core, schedule[:6000], answer)
    store.save(core)
    converse(core, schedule[6000:], answer)
    store.close()
    found = replay.verify(tmp_path)
    assert found.events == 10_000 and found.differing == []
    assert same_bits(found.run.server.params, core.machine.params)
    assert same_bits(found.run.server.averages, core.machine.averages.T)
    assert replay.main(["replay", str(tmp_path)]) == 0
    # The comparison detects a change of one bit of one answer.
    arrivals = journal.read(tmp_path / "arrivals.log").copy()
    arrivals["value"][3, 0] = -arrivals["value"][3, 0]
    run = replay.replay(CONFIG.system(problem).server, (20,), arrivals, problem.x0, CONFIG.seed)
    assert core.machine.differing(run.server) == ["params", "averages"] or (
        core.machine.differing(run.server) == ["averages"]
    )
    arrivals["number"][5] += 1
    with pytest.raises(InvalidConfig, match="arrival 5 must answer question"):
        replay.replay(CONFIG.system(problem).server, (20,), arrivals, problem.x0, 0)


@pytest.mark.slow
def test_f19_what_is_not_replayed_is_reported(tmp_path, problem, capsys):
    (tmp_path / "config.json").write_text(run_config.to_json(CONFIG))
    core, store, _ = open_run(tmp_path, problem)
    converse(core, [0, 1, 2] * 10, lambda i, x, question: np.ones(20, np.float32))
    store.close()
    log = tmp_path / "arrivals.log"
    complete = log.read_bytes()
    damaged = bytearray(complete)
    damaged[-15 * journal.record_dtype(20).itemsize] ^= 1
    for content, count, reason in (
        (complete + b"12345", 30, "the journal ends with 5 bytes of an incomplete record"),
        (bytes(damaged), 15, "record 15, counted from 0, at byte"),
    ):
        log.write_bytes(content)
        assert replay.main(["replay", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert f"{count} arrivals replayed, not all: " in said and reason in said
    log.write_bytes(complete)
    assert replay.main(["replay", str(tmp_path)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(
            CONFIG, model="mlp:hidden=8", subspace="sparse:size=64,block=8", delta=0.1
        ),
    ],
    ids=lambda c: c.subspace,
)
def test_workers_on_digits_replay_and_have_the_bits_of_the_simulator(config, tmp_path):
    """From the recorded answers, and from the recorded schedule alone."""
    (tmp_path / "config.json").write_text(run_config.to_json(config))
    problem = config.problem()[0]
    system = config.system(problem)
    schedule = np.random.default_rng(1).integers(0, 4, 300).astype(np.int32)
    local = [LocalWorker(system, problem, config.seed, i) for i in range(4)]

    def answer(i, x, q):
        return local[i].answer(x, q.number, q.step, q.direction)

    core, store, _ = open_run(tmp_path, problem, config=config)
    # As in the simulator, all workers are asked at the beginning.
    sessions = {i: core.join(i, None, 0.0) for i in range(4)}
    copies = {i: core.machine.params.copy() for i in range(4)}
    for i in schedule.tolist():
        session, reply = sessions[i]
        value = answer(i, copies[i], reply.question).tobytes()
        question = reply.question
        reply = core.handle(session, question.nonce, question.version, value, 0.0)
        sessions[i], copies[i] = (session, reply), core.machine.params.copy()
    store.close()
    found = replay.verify(tmp_path)
    assert found.events == 300 and found.differing == []
    run, _ = simulation.run(problem, system, schedule, seed=config.seed, delivery="outstanding")
    assert core.machine.differing(run.server) == []
    assert np.abs(core.machine.params - np.asarray(problem.x0)).max() > 0.1


SMALL = dataclasses.replace(run_config.BASE, workers=3, batch_size=8, directions=10)
GENERAL = [
    dataclasses.replace(SMALL, method="async_sgd", model="softmax_regression"),
    dataclasses.replace(SMALL, method="fedbuff", model="softmax_regression"),
    dataclasses.replace(SMALL, method="far_sign:vote=nnm:f=1+trimmed_mean:f=1,soft=0.5"),
    dataclasses.replace(SMALL, method="far_sign:vote=trimmed_mean:f=1,max_age=20"),
    dataclasses.replace(SMALL, method="far_sign:sampler=alive"),
    dataclasses.replace(SMALL, method="far_sign:seeded=32,vote=median"),
    dataclasses.replace(SMALL, method="far_sign:rate_cap=2.0"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    GENERAL[:4] + [pytest.param(config, marks=pytest.mark.long) for config in GENERAL[4:]],
    ids=lambda c: c.method,
)
def test_other_servers_replay(config, tmp_path):
    (tmp_path / "config.json").write_text(run_config.to_json(config))
    problem = config.problem()[0]
    core, store, _ = open_run(tmp_path, problem, config=config)
    in_numpy = config.method.endswith("max_age=20")  # without options but those of a vote
    assert isinstance(core.machine, NumpyServer if in_numpy else CompiledServer)
    rng = np.random.default_rng(2)
    schedule = rng.integers(0, 3, 60).tolist()

    def answer(i, x, question):
        assert (question.direction is None) == run_config.draws_by_seed(config)
        return rng.normal(size=core.machine.shape).astype(np.float32)

    converse(core, schedule[:30], answer)
    store.save(core)
    converse(core, schedule[30:], answer)  # all workers join again, so versions jump
    store.close()
    assert replay.verify(tmp_path).differing == []


def served(**settings):
    """Reads the settings of a run, as a worker does."""
    return run_config.from_json(json.dumps(run_config.to_dict(CONFIG) | settings))


@pytest.mark.slow
def test_the_settings_of_a_served_run_are_read_back_and_checked():
    assert served() == CONFIG
    assert run_config.fingerprint(served()) == run_config.fingerprint(CONFIG)
    assert run_config.fingerprint(served(seed=1)) != run_config.fingerprint(CONFIG)
    for settings, message in [
        ({"method": "far_sing"}, "did you mean 'far_sign'"),
        ({"method": "sgd"}, "sgd works in rounds, and this server waits for"),
        ({"method": "kardam"}, "kardam must know how many workers are Byzantine"),
        ({"method": "far_sign:arrival_rates=known"}, "nobody knows the rates of real workers"),
        ({"method": "basgd:momentum=0.9"}, "keep nothing between answers: got momentum=0.9"),
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
