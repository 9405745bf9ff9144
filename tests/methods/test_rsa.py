"""RSA, AsynRSA-VR and SAGA: against the algorithm written out, and what is promised."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    Lockstep,
    OracleConfig,
    SystemSpec,
    arrivals,
    attacks,
    models,
    oracles,
    own_model,
    problems,
    rsa,
    sgd,
    simulation,
    step_sizes,
    sweeps,
)
from farsign_jax import keys as keys_lib
from farsign_jax.arrivals import delays
from farsign_jax.base import Query, Report, System
from farsign_jax.methods.rsa import NORMS, subgradient
from farsign_jax.oracles.saga import entries_of
from farsign_jax.simulation import runner
from farsign_jax.theory import asyn_rsa_vr
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, Q, J, D = 6, 2, 5, 3


def quadratics(noise=1.0, examples=J):
    return problems.own_quadratics(D, M, jax.random.key(3), noise=noise, examples=examples)


def sets(rounds, gamma, seed=0):
    fleet = [delays.deterministic()] * M
    key = keys_lib.split(seed).schedule
    return arrivals.rounds(key, fleet, rounds, participation=gamma).workers


def system_of(problem, *, attack=None, reduced=True, sees="old", batch_size=1, **settings):
    settings = {"step_size": 0.05, "penalty": 0.4} | settings
    decay = settings.pop("weight_decay", 0.5)
    if reduced:
        gradients = oracles.saga_gradient(problem, batch_size=batch_size)
    else:
        gradients = oracles.stochastic_gradient(problem.losses, batch_size=batch_size)
    server = rsa(problem.num_workers, **settings, weight_decay=decay)
    worker = own_model(gradients, problem.x0, **settings, server_sees=sees)
    return System(server, worker, attack or attacks.none())


@pytest.mark.parametrize("p", NORMS.values())
def test_subgradients(p):
    rng = np.random.default_rng(0)
    u = rng.normal(size=7)
    with helpers.float64():
        got = np.asarray(subgradient(jnp.asarray(u), p))
        norm = lambda x: np.linalg.norm(x, ord=p)  # noqa: E731
        for _ in range(20):  # |u + v| >= |u| + g . v
            v = rng.normal(size=7)
            assert norm(u + v) >= norm(u) + got @ v - 1e-12
        np.testing.assert_array_equal(subgradient(jnp.zeros(7), p), np.zeros(7))
        ties = subgradient(jnp.asarray([2.0, -2.0, 1.0]), float("inf"))
        np.testing.assert_allclose(ties, [0.5, -0.5, 0])


# The norm, the gradients and what the server sees do not know of each other.
@pytest.mark.parametrize(
    ("p", "reduced", "sees"),
    [(1, True, "old"), (np.inf, True, "new")]
    + helpers.slow([(2, False, "old"), (1, False, "new")]),
)
def test_it_is_the_algorithm_of_the_paper(p, reduced, sees):
    """Algorithm 1 line by line in NumPy, with the same examples drawn."""
    alpha, lam, decay, rounds = 0.05, 0.4, 0.5, 40
    with helpers.float64():
        problem = quadratics()
        bend = np.asarray(problem.data[0]).reshape(M, J)
        linear = np.asarray(problem.data[1]).reshape(M, J, D)
        schedule, keys = sets(rounds, 0.4), keys_lib.split(7)
        assert (schedule < 0).all(axis=1).any()  # a round without answers
        pull = lambda u: np.asarray(subgradient(jnp.asarray(u), p))  # noqa: E731
        x0, x = np.zeros(D), np.zeros((M, D))
        table = bend[:, :, None] * x[:, None] - linear
        for k, some in enumerate(schedule):
            after, step = x.copy(), decay * x0
            for i in some[some >= 0]:
                key = keys_lib.message(keys.batches, jnp.int32(i), jnp.int32(k))
                j = int(problem.shard(i).draw(key, 1)[0])
                new = bend[i, j] * x[i] - linear[i, j]
                g = new - table[i, j] + table[i].mean(axis=0) if reduced else new
                table[i, j] = new
                after[i] = x[i] - alpha * (g + lam * pull(x[i] - x0))
                settings = x[i] if sees == "old" else after[i]
                step = step + lam * pull(x0 - (1e4 if i < Q else settings))
            x, x0 = after, x0 - alpha * step
        system = system_of(problem, p=p, reduced=reduced, sees=sees,
                           attack=attacks.constant(1e4))  # fmt: skip
        run, _ = simulation.run(problem, system, schedule, seed=7, byzantine=Q)
        np.testing.assert_allclose(run.server.params, x0, rtol=1e-7, atol=1e-7)
        inner, models_ = run.workers
        np.testing.assert_allclose(models_, x, rtol=1e-7, atol=1e-7)
        assert int(run.server.step) == rounds
        if reduced:
            np.testing.assert_allclose(inner.table.rows, table, rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(inner.mean, table.mean(axis=1), rtol=1e-7, atol=1e-7)


def digits(batch_size, structured):
    module = models.softmax_regression(4)
    problem = helpers.digits(module, workers=3, examples=20)
    problem = dataclasses.replace(problem, sizes=jnp.asarray([20, 11, 20], jnp.int32))
    if not structured:
        problem = dataclasses.replace(problem, structure=None)
    return problem, oracles.saga_gradient(problem, batch_size=batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, pytest.param(6, marks=helpers.LONG)])
def test_residuals_are_gradients_in_a_small_table(batch_size):
    every = np.tile(np.arange(3, dtype=np.int32), (30, 1))
    runs = []
    for structured in (True, False):
        problem, worker = digits(batch_size, structured)
        server = sgd(3, lambda rows, **_: rows.mean(axis=0), step_size=0.3)
        system = System(server, worker, attacks.none())
        run, _ = simulation.run(problem, system, every)
        runs.append(run)
    small, large = runs
    np.testing.assert_allclose(small.server.params, large.server.params, atol=1e-5)
    d = small.server.params.size
    assert small.workers.table.rows.shape == (3, 20, 4)
    assert large.workers.table.rows.shape == (3, 20, d)
    # Also where examples are drawn twice: the mean is that of the table, padding apart.
    for i, size in enumerate((20, 11, 20)):
        mean = np.asarray(large.workers.table.rows)[i, :size].mean(axis=0)
        np.testing.assert_allclose(large.workers.mean[i], mean, atol=2e-6)
        np.testing.assert_allclose(small.workers.mean[i], mean, atol=1e-5)
    assert not np.allclose(large.workers.mean, 0, atol=1e-3)


def test_corrected_gradients_are_unbiased_and_lose_their_noise():
    with helpers.float64():
        problem = quadratics(noise=3.0)
        worker = oracles.saga_gradient(problem)
        shard = problem.shard(2)
        state = worker.init(shard)
        x = jnp.asarray([0.3, -0.2, 0.5])
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(jnp.arange(400))
        query = Query(x, jnp.int32(2), (), jnp.int32(0))

        def answer(state, key):
            j = worker.touched(shard, key)
            rows = jax.tree.map(lambda a: a[j], state.table)
            value = worker.respond(state._replace(table=rows), query, shard, key)[1]
            return value, j[0]

        answers = jax.jit(jax.vmap(answer, in_axes=(None, 0)))
        values, places = answers(state, keys)
        assert set(np.asarray(places).tolist()) == set(range(J))
        each = np.stack([np.asarray(values)[np.asarray(places) == j][0] for j in range(J)])
        everything = shard.take(jnp.arange(J))
        truth = jax.grad(lambda x: problem.losses(x, everything).mean())(x)
        np.testing.assert_allclose(each.mean(axis=0), truth, rtol=1e-9)
        fresh = entries_of(problem).of(x, everything)
        caught_up = state._replace(table=type(state.table)(fresh), mean=truth)
        values, _ = answers(caught_up, keys)
        np.testing.assert_allclose(values, np.tile(truth, (400, 1)), atol=1e-12)


@pytest.mark.slow
def test_the_table_is_not_copied_at_every_event():
    problem, worker = digits(2, structured=True)
    settings = {"step_size": 0.1, "penalty": 0.1}
    system = System(
        rsa(3, **settings), own_model(worker, problem.x0, **settings), attacks.none()
    )
    keys, every = keys_lib.split(0), np.tile(np.arange(3, dtype=np.int32), (5, 1))
    for delivery in simulation.DELIVERIES:
        run = jax.eval_shape(lambda d=delivery: simulation.start(system, problem, keys, d))
        args = (system, problem, jnp.zeros(3, bool), keys, delivery, run, every)
        text = runner._advance.lower(*args).compile().as_text()
        assert "f32[3,20,4]" in text
        assert re.findall(r"= f32\[3,20,4\]\S* copy(?:-start)?\(", text) == []


@pytest.mark.parametrize("p", NORMS.values())
@pytest.mark.parametrize("lie", [np.nan, np.inf, -np.inf, 3e38, -1e30, 5.0])
def test_a_byzantine_worker_moves_the_server_no_further_than_others(p, lie):
    alpha, lam = 0.1, 0.5
    server = rsa(3, step_size=alpha, penalty=lam, p=p)
    state = server.init(jnp.asarray([1.0, -2.0, 0.5, 0.0]))
    value = jnp.full((1, 4), lie, jnp.float32)
    report = Report(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), (), value)
    after, _ = server.update(state, report)
    moved = np.asarray(after.params - state.params)
    assert np.isfinite(moved).all()
    dual = {1: np.inf, 2: 2, np.inf: 1}[p]
    assert np.linalg.norm(moved, ord=dual) <= alpha * lam * (1 + 1e-5)
    assert (moved == 0).all() == (not np.isfinite(lie))


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.long
def test_runs_in_lockstep_equal_single_runs():
    """Workers with models and tables of their own, two penalties, two attacks."""
    problem, byzantine = quadratics(), np.arange(M) < Q
    feedback = OracleConfig(batch_size=2, decay=1.0)
    names, penalties = ("sign_flip", "gaussian"), (0.1, 0.7)
    row = tuple(SystemSpec("asyn_rsa_vr", name, (), feedback) for name in names)
    schedule = sets(30, 0.6)
    hyper = {"step_size": np.full((1, 1, 2), 0.05), "penalty": np.asarray([[penalties]])}
    batch = sweeps.RunBatch(
        problem=dataclasses.replace(
            problem, rows=problem.rows[None], sizes=problem.sizes[None], x0=problem.x0[None]
        ),
        seeds=jnp.zeros(1, jnp.int32),
        hyper={k: v.astype(np.float32) for k, v in hyper.items()},
        byzantine=jnp.asarray(byzantine[None]),
        schedules=schedule[None],
    )
    measure = lambda x: {"norm": jnp.linalg.norm(x, axis=-1)}  # noqa: E731
    columns, final = sweeps.sweep(Lockstep((row,)), batch, every=10, measure=measure)
    assert columns["norm"].shape == (1, 3, 4)
    for h, a in ((0, 1), (1, 0)):
        settings = {"step_size": np.float32(0.05), "penalty": np.float32(penalties[h])}
        alone, _ = simulation.run(
            problem, row[a](problem, settings), schedule, seed=0, byzantine=byzantine
        )
        got = final.params[0, 2 * h + a]
        np.testing.assert_allclose(got, alone.server.params, rtol=1e-6, atol=1e-7)
    twice = batch.take(np.zeros(2, int))  # and seeds side by side on top
    _, both = sweeps.sweep(
        Lockstep((row,)), twice, every=30, measure=measure, max_parallel_runs=2
    )
    for one in both.params:
        np.testing.assert_array_equal(one, final.params[0])


def follow(problem, system, rounds, gamma, seed):
    """The final models: of the server f[d] and of honest workers f[r, d]."""
    run, _ = simulation.run(problem, system, sets(rounds, gamma, seed), seed=seed, byzantine=Q)
    return np.asarray(run.server.params), np.asarray(run.workers[1])[Q:]


def minimiser(problem, decay):
    means = np.asarray(problem.data[1]).reshape(M, J, D)[Q:].mean(axis=1)
    best = means.sum(axis=0) / (M - Q + decay)
    return best, best - means


@pytest.mark.slow
@pytest.mark.parametrize("p", NORMS.values())
def test_lemma_1_enough_penalty_makes_all_models_agree(p):
    problem = quadratics()
    best, gradients = minimiser(problem, 0.5)
    enough, ends = asyn_rsa_vr.enough_penalty(gradients, p), []
    for times in (0.5, 1.2):
        system = system_of(
            problem, p=p, penalty=times * enough, step_size=step_sizes.power(0.3, 0.75)
        )
        # Byzantine workers are silent: the minimiser is that of the honest ones.
        quiet = np.where(sets(4000, 1.0) < Q, -1, sets(4000, 1.0))
        run, _ = simulation.run(problem, system, quiet)
        apart = np.abs(np.asarray(run.workers[1])[Q:] - best).max()
        ends.append(max(apart, np.abs(run.server.params - best).max()))
    assert ends[0] > 0.02 and ends[1] < 0.005


@pytest.mark.slow
def test_variance_reduction_leaves_an_error_without_the_noise():
    errors = {}
    for reduced in (True, False):
        for noise in (0.0, 8.0):
            problem = quadratics(noise)
            best, _ = minimiser(problem, 0.5)
            system = system_of(
                problem, reduced=reduced, step_size=0.005, attack=attacks.constant(1e4)
            )
            server, apart = follow(problem, system, 4000, 1.0, 0)
            errors[reduced, noise] = ((apart - best) ** 2).sum() + ((server - best) ** 2).sum()
    assert errors[True, 8.0] == pytest.approx(errors[True, 0.0], rel=0.02)
    assert errors[False, 8.0] > 1.5 * errors[True, 8.0]


CONSTANTS = asyn_rsa_vr.Constants(1.0, 2.0, 5, 4, 2, 3, 0.5, 0.01, 0.4)


def test_the_constants_of_theorem_1():
    ratio = (1 + 2) / (1 * 2)  # (mu + L) / (mu L)
    by_hand = ratio / 0.4 * 0.01 * 0.25 * 3 * (16 * 0.4 * 4 + 16 * 16 + 2 * 4)
    by_hand += ratio**2 / 0.4 * 0.25 * 3 * (4 + 0.6 * 16)
    assert asyn_rsa_vr.final_error(CONSTANTS) == pytest.approx(by_hand)
    assert asyn_rsa_vr.contraction(CONSTANTS) == pytest.approx(0.4 * 0.01 / ratio)
    assert asyn_rsa_vr.largest_step(1.0, 2.0, 5) == pytest.approx(1 / (12 * 3 * 2))
    assert asyn_rsa_vr.largest_step(1.0, 2.0, 100) == pytest.approx(3 / (2 * 100 * 2))
    assert asyn_rsa_vr.lyapunov(CONSTANTS, 2.0, 3.0) == pytest.approx(
        2 + 2 * 5 * 0.01 * 3 / (3 * ratio)
    )
    limit = asyn_rsa_vr.bound(CONSTANTS, 7.0, [0, 10])
    np.testing.assert_allclose(limit - by_hand, [7, 7 * (1 - 0.4 * 0.01 / ratio) ** 10])
    gradients = [[3.0, -4.0], [1.0, 1.0]]
    got = [asyn_rsa_vr.enough_penalty(gradients, p) for p in NORMS.values()]
    np.testing.assert_allclose(got, [4, 5, 7])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rsa(3, step_size=0.1, penalty=-1.0), "lambda >= 0: got -1"),
        (lambda: rsa(3, step_size=0.1, penalty=1.0, p=3), "p of 1, 2 or inf: got p=3"),
        (lambda: rsa(3, step_size=0.0, penalty=1.0), "finite step_size > 0: got 0"),
        (
            lambda: rsa(3, step_size=0.1, penalty=1.0, weight_decay=-1.0),
            "weight_decay >= 0: got -1",
        ),
        (lambda: rsa(0, step_size=0.1, penalty=1.0), "at least one worker"),
        (lambda: system_of(quadratics(), sees="both"), "sees old or new: got 'both'"),
        (lambda: system_of(quadratics(), batch_size=0), "batch_size >= 1: got 0"),
        (lambda: quadratics(examples=0), "J >= 1 examples: got 0"),
        (lambda: sets(5, 0.0), "0 < participation <= 1: got 0"),
        (lambda: sets(5, 1.5), "0 < participation <= 1: got 1.5"),
        (lambda: sgd(3, None, step_size=0.1, scale=0.0), "scale > 0: got 0"),
        (lambda: sgd(3, None, step_size=0.1, weight_decay=-0.1), "weight_decay >= 0: got -0.1"),
        (lambda: asyn_rsa_vr.enough_penalty([[1.0]], 3), "p of 1, 2 or inf: got p=3"),
        (
            lambda: asyn_rsa_vr.final_error(CONSTANTS._replace(participation=0.0)),
            "0 < participation <= 1: got 0",
        ),
        (
            lambda: asyn_rsa_vr.final_error(CONSTANTS._replace(step_size=1.0)),
            "needs 0 < alpha <= 0.0139: got 1",
        ),
        (
            lambda: asyn_rsa_vr.final_error(CONSTANTS._replace(penalty=-1.0)),
            "lambda >= 0: got -1",
        ),
        (
            lambda: asyn_rsa_vr.final_error(CONSTANTS._replace(convexity=3.0)),
            "0 < mu <= L: got mu=3.0, L=2.0",
        ),
        (
            lambda: SystemSpec("rsa", options=(("norm", "l3"),))(
                quadratics(), {"step_size": 0.1, "penalty": 1.0}
            ),
            "unknown norm 'l3': known: l1, l2, linf",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(InvalidConfig, match=message):
        call()


def test_a_worker_without_examples_is_refused():
    problem = quadratics()
    without_examples = dataclasses.replace(problem, rows=problem.rows[:, :0])
    with pytest.raises(InvalidConfig, match="needs J >= 1 examples per worker: got 0"):
        simulation.run(without_examples, system_of(without_examples), sets(5, 1.0))
