"""A recorded run is repeated by the simulator with the same bits."""

import numpy as np
import pytest

from farsign_jax import InvalidConfig, simulation
from farsign_jax.runtime import journal, replay
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.setting import Setting
from farsign_jax.runtime.state_machine import CompiledServer, same_bits
from farsign_jax.runtime.worker import LocalWorker
from tests.runtime.recorded_runs import SETTING, converse, open_run


@pytest.fixture(scope="module")
def problem():
    return SETTING.problem()[0]


def test_ten_thousand_arrivals_replay_to_the_same_bits(tmp_path, problem):
    """With random values of all magnitudes, decaying step sizes and very different rates."""
    (tmp_path / "config.json").write_text(SETTING.to_json())
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
    run = replay.replay(
        SETTING.system(problem).server, (20,), arrivals, problem.x0, SETTING.seed
    )
    assert core.machine.differing(run.server) == ["params", "averages"] or (
        core.machine.differing(run.server) == ["averages"]
    )
    arrivals["number"][5] += 1
    with pytest.raises(InvalidConfig, match="arrival 5 must answer question"):
        replay.replay(SETTING.system(problem).server, (20,), arrivals, problem.x0, 0)


def test_workers_on_digits_replay_and_have_the_bits_of_the_simulator(tmp_path, problem):
    """From the recorded answers, and from the recorded schedule alone."""
    (tmp_path / "config.json").write_text(SETTING.to_json())
    system = SETTING.system(problem)
    schedule = np.random.default_rng(1).integers(0, 4, 300).astype(np.int32)
    local = [LocalWorker(system, problem, SETTING.seed, i) for i in range(4)]

    def answer(i, x, q):
        return local[i].answer(x, q.number, q.step, q.direction)

    core, store, _ = open_run(tmp_path, problem)
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
    run, _ = simulation.run(
        problem, system, schedule, seed=SETTING.seed, delivery="outstanding"
    )
    assert core.machine.differing(run.server) == []
    assert np.abs(core.machine.params - np.asarray(problem.x0)).max() > 0.1


GENERAL = [
    Setting("async_sgd", workers=3, batch_size=8, model="softmax_regression"),
    Setting("fedbuff", workers=3, batch_size=8, model="softmax_regression"),
    Setting("far_sign", (("sampler", "alive"),), workers=3, batch_size=8, directions=10),
    Setting("far_sign", (("rate_cap", 2.0),), workers=3, batch_size=8, directions=10),
]


@pytest.mark.parametrize("setting", GENERAL, ids=lambda s: f"{s.method}{s.options}")
def test_other_servers_use_their_compiled_update_and_replay(setting, tmp_path):
    (tmp_path / "config.json").write_text(setting.to_json())
    problem = setting.problem()[0]
    core, store, _ = open_run(tmp_path, problem, setting=setting)
    assert isinstance(core.machine, CompiledServer)
    rng = np.random.default_rng(2)
    schedule = rng.integers(0, 3, 60).tolist()

    def answer(i, x, question):
        assert (question.direction is None) == setting.by_seed
        return rng.normal(size=core.machine.shape).astype(np.float32)

    converse(core, schedule[:30], answer)
    store.save(core)
    converse(core, schedule[30:], answer)  # all workers join again, so versions jump
    store.close()
    assert replay.verify(tmp_path).differing == []


def test_methods_with_rounds_are_rejected():
    with pytest.raises(InvalidConfig, match="sgd works in rounds, and this server waits for"):
        Setting("sgd")


def test_a_setting_survives_json_and_its_errors_name_the_problem():
    assert Setting.from_json(SETTING.to_json()) == SETTING
    assert Setting.from_json(SETTING.to_json()).fingerprint == SETTING.fingerprint
    assert Setting(seed=1).fingerprint != Setting().fingerprint
    for fields, message in [
        ({"method": "far_sing"}, "did you mean 'far_sign'"),
        ({"workers": 0}, "0 < workers < 65536: got 0"),
        ({"options": (("colour", 1),)}, "has no option 'colour'"),
        ({"hyper": (("step_size", 1.0),)}, "takes the numbers"),
        ({"delta": 0}, "0 < delta"),
    ]:
        with pytest.raises(InvalidConfig, match=message):
            Setting(**fields)
    for text in ("", "[]", "{}", '{"options": 3, "hyper": []}', '{"surprise": 1}'):
        with pytest.raises(InvalidConfig, match="no setting of a run"):
            Setting.from_json(text)
