"""The worker's side without I/O: it answers as in the simulator."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    InvalidConfig,
    arrivals,
    attacks,
    directions,
    keys,
    simulation,
)
from farsign_jax.base import System
from farsign_jax.runtime import work
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.state_machine import same_bits
from farsign_jax.runtime.worker import LocalWorker
from tests import helpers
from tests.runtime.helpers import (
    STEPS,
    M,
    answer_question,
    make_core,
)


@pytest.mark.slow
def test_the_answers_of_workers_lead_to_the_bits_of_the_simulator():
    """For every worker, in a run of 40 events."""
    problem = helpers.digits(workers=M)
    dictionary = directions.identity(problem.x0.size, 10)
    system = helpers.far_sign_system(problem, dictionary=dictionary, **STEPS)
    schedule = arrivals.uniform(jax.random.key(3), M, 40)
    run, _ = simulation.run(problem, system, schedule, seed=5, delivery="outstanding")
    machine = NumpyServer(M, dictionary, problem.x0, 5, **STEPS)
    core = make_core(machine=machine)
    open_questions = {i: core.join(i, None, 0.0) for i in range(M)}
    read = {i: machine.params.copy() for i in range(M)}
    workers = [LocalWorker(system, problem, 5, i) for i in range(M)]
    for i in schedule.tolist():
        session, reply = open_questions[i]
        q = reply.question
        value = workers[i].answer(read[i], q.number, q.step, None)
        open_questions[i] = session, answer_question(core, session, q, value)
        read[i] = machine.params.copy()
    assert same_bits(machine.params, run.server.params)
    assert same_bits(machine.averages.T, run.server.averages)


@pytest.mark.slow
def test_an_attack_changes_the_answer_to_the_same_question():
    problem = helpers.digits(workers=M)
    system = helpers.far_sign_system(problem, k=10)
    x = np.asarray(problem.x0)
    honest = LocalWorker(system, problem, 0, 1).answer(x, 7, 7, None)
    flipped = LocalWorker(system, problem, 0, 1, attacks.sign_flip(3.0)).answer(x, 7, 7, None)
    np.testing.assert_allclose(flipped, -3 * honest, rtol=1e-6)
    indices = directions.sample_distinct(
        keys.message(keys.split(0).queries, 1, 7), problem.x0.size, 10
    )
    same = [LocalWorker(system, problem, 0, i).answer(x, 7, 7, indices) for i in range(M)]
    np.testing.assert_array_equal(same[1], honest)
    mean = np.mean([same[0], same[2]], axis=0)
    colluding = LocalWorker(system, problem, 0, 1, attacks.ipm(0.5)).answer(x, 7, 7, None)
    np.testing.assert_allclose(colluding, -0.5 * mean, rtol=1e-3, atol=1e-7)
    oracle = LocalWorker(system, problem, 0, 1, attacks.oracle_flip(2.0)).answer(x, 7, 7, None)
    np.testing.assert_allclose(oracle, -2 * mean, rtol=1e-3, atol=1e-7)
    later = LocalWorker(system, problem, 0, 1, attacks.make("sign_flip:after=8"))
    np.testing.assert_array_equal(later.answer(x, 7, 7, None), honest)
    assert (later.answer(x, 8, 8, None) != honest).any()


def test_a_worker_that_keeps_a_state_is_rejected():
    problem = helpers.quadratic()
    worker = helpers.far_sign_system(problem).worker._replace(init=lambda shard: jnp.zeros(3))
    system = System(helpers.far_sign_system(problem).server, worker, attacks.none())
    with pytest.raises(InvalidConfig, match="keeps a state"):
        LocalWorker(system, problem, 0, 0)
    with pytest.raises(InvalidConfig, match=r"workers are 0\.\.6: got 7"):
        LocalWorker(helpers.far_sign_system(problem), problem, 0, 7)


def test_a_paced_worker_waits_and_gives_the_same_answers(monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    monkeypatch.setattr(work, "time", clock)
    answer = work.paced(lambda x, question: x + question, 4.0)
    assert [answer(1, n) for n in range(9)] == list(range(1, 10))
    assert now[0] == 102.0  # the first at once, then four per second
    now[0] += 60.0
    for n in range(9):
        answer(1, n)
    assert now[0] == pytest.approx(162 + 4 / 4)  # of nine, a second's worth came at once
