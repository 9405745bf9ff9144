"""Adversaries that have their own question answered, wait before they lie, or split roles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import SystemSpec, arrivals, attacks, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.base import Report, View
from farsign_jax.methods import OracleConfig
from farsign_jax.validation import InvalidConfig
from tests import helpers

ORACLE = OracleConfig(batch_size=8, directions=5, decay=1.0)
HYPER = {"step_size": 0.05, "average_step": 0.5}
PROBLEM = helpers.quadratic()
LIARS = jnp.arange(helpers.M) < 2


def system(method="far_sign", attack="oracle_flip", **hyper):
    names = ("step_size",) if method != "far_sign" else HYPER
    return SystemSpec(method, attack, (), ORACLE)(PROBLEM, {n: HYPER[n] for n in names} | hyper)


def forged(of, event=0, worker=0):
    """The message of a Byzantine worker at the start of a run, and what was honest."""
    keys = keys_lib.split(0)
    run = simulation.start(of, PROBLEM, keys, "fresh", LIARS)
    run = run._replace(events=jnp.asarray(event, jnp.int32))
    queries = simulation.ask(of, run.server, jnp.asarray([worker]), run.events, keys)
    _, reports = simulation.answer(of, PROBLEM, run.workers, queries, run.events, keys)
    sent = []
    server = of.server._replace(update=lambda s, r: (sent.append(r.value) or s, {}))
    simulation.deliver(of._replace(server=server), PROBLEM, run, reports, LIARS, keys)
    return np.asarray(sent[-1][0]), jax.tree.map(lambda a: np.asarray(a[0]), reports)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["far_sign", "async_sgd", "async_zo_sgd"])
def test_the_true_answer_is_that_of_all_honest_workers_at_the_present_iterate(method):
    value, report = forged(system(method, "oracle_flip:scale=2,samples=400"))
    curvature, center, _ = PROBLEM.data
    gradient = np.asarray(curvature[0] * (PROBLEM.x0 - center[0]))
    truth = gradient if method == "async_sgd" else gradient[report.direction]
    np.testing.assert_allclose(value, -2 * truth, atol=0.02)  # 16,000 examples of noise 0.3
    assert np.abs(value + 2 * report.value).max() > 0.1  # its own answer is no such truth


@pytest.mark.slow
def test_a_question_of_its_own_is_answered_in_rounds_too_and_changes_no_worker():
    of = SystemSpec("byrd_saga", "alie:z=1.5,asks=1", (), ORACLE)(PROBLEM, {"step_size": 0.05})
    rounds = np.tile(np.arange(helpers.M, dtype=np.int32), (20, 1))
    run, _ = simulation.run(PROBLEM, of, rounds, byzantine=2)
    honest = SystemSpec("byrd_saga", "none", (), ORACLE)(PROBLEM, {"step_size": 0.05})
    without, _ = simulation.run(PROBLEM, honest, rounds[:1], byzantine=2)
    asked, _ = simulation.run(PROBLEM, of, rounds[:1], byzantine=2)
    helpers.assert_same(asked.workers, without.workers)
    assert np.isfinite(run.server.params).all()


def test_an_adversary_that_asks_needs_no_memory_of_what_was_reported():
    keys = keys_lib.split(0)
    with pytest.raises(InvalidConfig, match="a server that can recall"):
        simulation.start(system("async_zo_sgd", "alie"), PROBLEM, keys, "fresh")
    run = simulation.start(system("async_zo_sgd", "alie:asks=2"), PROBLEM, keys, "fresh")
    assert run.memory == ()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["sign_flip:scale=7,after=40", "alie:z=4,asks=1,after=40"])
def test_byzantine_workers_are_honest_until_they_lie(attack):
    schedule = arrivals.uniform(jax.random.key(1), helpers.M, 60)
    found = []
    for text in (attack, "none"):
        options = {"byzantine": 2, "every": 20, "measure": lambda x: {"x": x @ x}}
        _, records = simulation.run(PROBLEM, system(attack=text), schedule, **options)
        found.append([record["x"] for record in records])
    late, never = found
    assert late[:2] == never[:2] and late[2] != never[2]


def test_roles_alternate_among_byzantine_workers():
    of = system(attack="split_roles:first=constant:value=1,second=constant:value=2")
    assert [forged(of, worker=i)[0][0] for i in (0, 1)] == [1, 2]
    mask = jnp.asarray([False, True, True, True, False, False, False])
    forge = jax.jit(
        attacks.make("split_roles:first=constant:value=1,second=constant:value=9").forge
    )
    zero = jnp.zeros((), jnp.int32)
    values = []
    for i in (1, 2, 3):
        report = Report(jnp.int32(i), zero, jnp.arange(2), jnp.full(2, 9.0))
        _, value = forge(((), ()), report, View(None, mask), jax.random.key(0))
        values.append(float(value[0]))
    assert values == [1, 9, 1]


def test_each_role_is_honest_for_as_long_as_it_says():
    of = system(attack="split_roles:first=constant:after=3,second=constant:value=2")
    value, report = forged(of, event=2, worker=0)
    np.testing.assert_array_equal(value, report.value)
    assert forged(of, event=3, worker=0)[0][0] == 100
    assert forged(of, event=2, worker=1)[0][0] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gaussian:asks=1", "gaussian uses no answers of honest workers"),
        ("alie:asks=-1", "alie needs a whole number asks >= 0: got -1"),
        ("alie:after=-5", "alie needs a whole number after >= 0: got -5"),
        ("oracle_flip:samples=0", "oracle_flip needs a whole number samples >= 1: got 0"),
        ("split_roles:first=label_flip", "split_roles is for attacks on messages"),
        (
            "split_roles:first=constant,second=alie",
            "needs attacks with the same space and asks",
        ),
        ("hybrid_sparse:share=1.5", "hybrid_sparse needs 0 <= share <= 1: got 1.5"),
        ("min_max:direction=up", "unknown direction 'up'"),
        ("inner_max:aggregator=kruum", "unknown aggregator 'kruum'"),
        ("targeted:source=3,target=3", "targeted needs two classes: got source=3, target=3"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text, message):
    with pytest.raises(InvalidConfig, match=message) as error:
        attacks.make(text)
    assert "\n" not in str(error.value)
