"""DRACO: who computes what, the majority of a group, and what it costs, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import METHODS, OracleConfig, SystemSpec, simulation
from farsign_jax.base import Query, Report
from farsign_jax.methods.draco import assigned_gradient, draco, group_size
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, R, D, B = 6, 3, 4, 5
GROUPS = [[0, 2, 4], [1, 3, 5]]
ROWS = jnp.arange(M * 8, dtype=jnp.int32).reshape(M, 8)
SIZES = jnp.asarray([8, 8, 2, 8, 8, 8], jnp.int32)  # worker 2 has rows 16 and 17 alone
OPTIONS = {"group": R, "batch_size": B, "step_size": 0.5}


def server_of(**options):
    return draco(M, ROWS, SIZES, **OPTIONS | options)


def majority(answers):
    """Per coordinate: the number that more than half have sent, else the one in the middle."""
    result = np.empty(answers.shape[1])
    for j, column in enumerate(answers.T):
        numbers, counts = np.unique(column, return_counts=True)
        often = numbers[counts > len(column) / 2]
        result[j] = often[0] if len(often) else np.median(column)
    return result


def test_an_update_is_the_mean_of_the_majorities():
    rng, server = np.random.default_rng(0), server_of()
    state, update = server.init(jnp.ones(D), jax.random.key(3)), jax.jit(server.update)
    x, step, num_answers, lacking = np.ones(D), 0, 0, 0
    for _ in range(40):
        workers = rng.permutation(M).astype(np.int32)
        workers[rng.random(M) < 0.4] = M
        version = (step - (rng.random(M) < 0.2)).astype(np.int32)
        honest = rng.normal(size=(2, D)).astype(np.float32)
        values = honest[workers % 2]
        values[workers < 2] *= -3  # one liar in each group
        reports = Report(*map(jnp.asarray, (workers, version)), (), jnp.asarray(values))
        state, _ = update(state, reports)
        counted = [
            np.flatnonzero(np.isin(workers, group) & (version == step)) for group in GROUPS
        ]
        decoded = [majority(values[slots]) for slots in counted if len(slots)]
        lacking += len(decoded) == 1
        if decoded:
            x = x - 0.5 * np.mean(decoded, axis=0)
        step, num_answers = step + bool(decoded), num_answers + (workers < M).sum()
        np.testing.assert_allclose(state.params, x, rtol=1e-4, atol=1e-5)
        assert (int(state.step), int(state.num_answers)) == (step, num_answers)
    assert lacking > 3 and step > 20


def test_members_of_a_group_get_the_same_examples_of_all_of_them():
    server = server_of(batch_size=400)
    state = server.init(jnp.ones(D), jax.random.key(3))

    asked = jax.jit(server.query)

    def ids(worker, state=state):
        key = jax.random.key(worker)  # differs between workers
        return np.asarray(asked(state, jnp.int32(worker), key).direction)

    for group in GROUPS:
        first = ids(group[0])
        assert all((ids(worker) == first).all() for worker in group[1:])
        union = [row for i in group for row in np.asarray(ROWS)[i, : int(SIZES[i])]]
        assert set(first.tolist()) == set(union)
    # Two of the 18 examples of its group are those of worker 2.
    assert abs((np.isin(ids(0), [16, 17])).mean() - 2 / 18) < 0.06
    assert (ids(0) != ids(1)).any()
    assert (ids(0) != ids(0, state._replace(step=jnp.int32(1)))).any()
    assert (ids(0) != ids(0, server.init(jnp.ones(D), jax.random.key(4)))).any()


def test_a_worker_answers_about_the_examples_that_it_is_given():
    problem = helpers.quadratic()
    worker = assigned_gradient(problem.losses, batch_size=3)
    ids = np.array([2, 300, 2])
    query = Query(problem.x0, jnp.int32(1), jnp.asarray(ids), jnp.int32(0))
    respond = jax.jit(lambda query: worker.respond((), query, problem.shard(1), None)[1])
    value = respond(query)
    curvature, center, noise = (np.asarray(a, np.float64)[ids] for a in problem.data)
    want = (curvature * (np.asarray(problem.x0) - center) + noise).mean(axis=0)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidConfig, match="needs the numbers of 3 examples: got \\(\\)"):
        worker.respond((), query._replace(direction=()), None, None)


@pytest.mark.slow
def test_as_many_liars_as_a_group_outvotes_change_no_bit_and_one_more_does():
    problem = helpers.quadratic(workers=M)
    oracle = OracleConfig(batch_size=8)
    options = {"group": 3, "byzantine": 1}
    schedule = jnp.tile(jnp.arange(M, dtype=jnp.int32), (80, 1))
    system = SystemSpec("draco", "sign_flip", (), oracle, options)(problem, {"step_size": 0.2})

    def end(*byzantine):
        mask = np.isin(np.arange(M), byzantine)
        run, _ = simulation.run(problem, system, schedule, byzantine=mask)
        return np.asarray(run.server.params)

    honest = end()
    for liars in ((0, 1), (4, 3), (5,)):
        np.testing.assert_array_equal(end(*liars), honest)
    assert np.linalg.norm(honest - problem.data[1][0]) < 0.2
    assert np.linalg.norm(end(0, 2) - honest) > 0.1


def test_the_default_group_is_the_smallest_that_tolerates_the_byzantine_workers():
    assert [group_size(m, q) for m, q in ((25, 2), (25, 3), (10, 2), (7, 2), (6, 0))] == [
        *(5, 25, 5, 7, 1)
    ]
    system = SystemSpec("draco", options={"byzantine": 2})(
        helpers.quadratic(), {"step_size": 0.1}
    )
    assert system.worker.evaluations == 1  # of each of the r members of a group


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: server_of(group=4), "draco needs a group that divides m: got m=6, group=4"),
        (lambda: server_of(byzantine=2), r"draco needs group >= 2q \+ 1: got group=3, q=2"),
        (lambda: server_of(batch_size=0), "whole number batch_size >= 1: got 0"),
        (lambda: server_of(step_size=0.0), "needs a finite step_size > 0: got 0"),
        (lambda: group_size(7, 5), r"draco needs m >= 2q \+ 1: got m=7, q=5"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(InvalidConfig, match=message):
        call()


def test_groups_may_have_shards_of_any_length_in_a_sweep():
    """`rows` and `sizes` are those of the problem, tracers where runs are batched."""
    problem = helpers.quadratic(workers=M)

    def direction(sizes):
        traced = dataclasses.replace(problem, sizes=sizes)
        oracle = OracleConfig(batch_size=50)
        server, _ = METHODS["draco"].build(
            traced, oracle, {"step_size": 0.1}, group=3, byzantine=1
        )
        state = server.init(problem.x0, jax.random.key(0))
        return server.query(state, jnp.int32(0), jax.random.key(0)).direction

    sizes = jnp.asarray([[64] * M, [3, 64, 0, 64, 0, 64]], jnp.int32)
    many, few = jax.jit(jax.vmap(direction))(sizes)
    assert set(few.tolist()) == {0, 1, 2} and len(set(many.tolist())) > 20
