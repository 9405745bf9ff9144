"""Runs in lock-step, with many servers and attacks, equal the same runs alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import OracleConfig, SystemSpec, arrivals, simulation, sweeps
from farsign_jax import attacks as attacks_lib
from farsign_jax import keys as keys_lib
from farsign_jax.sweeps.lockstep import Lockstep
from farsign_jax.validation import InvalidConfig
from tests import helpers

pytestmark = pytest.mark.optimized

FEEDBACK = OracleConfig(batch_size=8, directions=5, decay_every=40)
RULES = ("mean", "krum:f=1", "centered_clipping:tau=1")
MEASURED = (("z", 1.5), ("space", "measured"))
ATTACKS = (("none", ()), ("alie", MEASURED), ("mimic", ()), ("constant", ()))
STEPS = (0.1, 0.02)
EVENTS = 60


def build(method, rule, attack):
    options = (("aggregator", rule), ("buffers", 5))
    return SystemSpec(method, *attack, FEEDBACK, options)


def everything(method, rules=RULES, attacks=ATTACKS):
    return Lockstep(tuple(tuple(build(method, r, a) for a in attacks) for r in rules))


def batch_of(problem, seeds=(0, 1), rules=RULES):
    many = len(seeds)
    spread = lambda a: jnp.broadcast_to(a, (many, *a.shape))  # noqa: E731
    batched = dataclasses.replace(
        problem,
        rows=spread(problem.rows),
        sizes=spread(problem.sizes),
        x0=spread(problem.x0),
    )
    steps = np.tile(np.float32(STEPS), (many, len(rules), 1))
    orders = [arrivals.uniform(jax.random.key(s), helpers.M, EVENTS) for s in seeds]
    byzantine = np.tile(np.arange(helpers.M) < 2, (many, 1))
    return sweeps.RunBatch(
        batched, np.asarray(seeds, np.int32), {"step_size": steps}, byzantine, np.stack(orders)
    )


def first(params):
    return {"first": params[..., 0]}


# Between them every rule and every attack but `none` is run alone.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "delivery", "some"),
    [
        ("cyber0", "outstanding", [(0, 1, 1, 1), (1, 2, 0, 2)]),
        ("basgd:reassign_after=9", "fresh", [(0, 2, 1, 1), (1, 0, 0, 3)]),
    ],
)
def test_every_run_in_lockstep_equals_the_run_alone(method, delivery, some):
    problem = helpers.digits(workers=helpers.M)
    batch = batch_of(problem)
    columns, ends = sweeps.sweep(
        everything(method),
        batch,
        every=30,
        measure=first,
        delivery=delivery,
        max_parallel_runs=1,
    )
    shape = (2, len(RULES), len(STEPS), len(ATTACKS))
    assert columns["first"].shape == (2, 2, np.prod(shape[1:]))
    np.testing.assert_array_equal(columns["first"][:, -1], ends.params[..., 0])
    ends = ends.params.reshape(*shape, -1)
    moved = np.abs(ends - np.asarray(problem.x0)).max(axis=-1)
    assert (moved > 0).all()
    for seed, g, h, a in some:
        system = build(method, RULES[g], ATTACKS[a])(problem, {"step_size": STEPS[h]})
        alone, _ = simulation.run(
            problem, system, batch.schedules[seed], seed=seed, byzantine=2, delivery=delivery
        )
        # Matrix products of another size add in another order: equal up to rounding.
        end, size = ends[seed, g, h, a], moved[seed, g, h, a]
        np.testing.assert_allclose(alone.server.params, end, rtol=0, atol=1e-3 * size)


@pytest.mark.slow
def test_attacks_that_ask_or_know_the_aggregator_are_those_of_each_run():
    problem, rules = helpers.quadratic(), ("mean", "krum:f=1")
    asking = (("z", 1.5), ("asks", 2), ("after", 20))
    attacks = (("inner_max", ()), ("alie", asking))
    batch = batch_of(problem, seeds=(0,), rules=rules)
    options = {"every": EVENTS, "measure": first, "max_parallel_runs": 1}
    _, ends = sweeps.sweep(everything("basgd", rules, attacks), batch, **options)
    ends = ends.params.reshape(len(rules), len(STEPS), len(attacks), -1)
    for g, a in ((0, 1), (1, 0)):
        system = build("basgd", rules[g], attacks[a])(problem, {"step_size": STEPS[0]})
        alone, _ = simulation.run(problem, system, batch.schedules[0], byzantine=2)
        np.testing.assert_allclose(alone.server.params, ends[g, 0, a], rtol=0, atol=1e-4)
    assert (ends[0, 0, 0] != ends[1, 0, 0]).any()


@pytest.mark.slow
def test_runs_differ_and_an_interrupted_panel_resumes_with_the_same_bits(tmp_path):
    problem = helpers.quadratic()
    batch = batch_of(problem)
    program = everything("basgd")
    _, complete = sweeps.sweep(program, batch, every=30, measure=first, max_parallel_runs=1)
    for runs in complete.params.reshape(2, -1, complete.params.shape[-1]):
        assert len(np.unique(runs, axis=0)) == len(runs)

    class Stop(Exception):
        pass

    calls = []

    def interrupt(events):
        calls.append(events)
        if len(calls) == 3:
            raise Stop

    options = {"every": 30, "measure": first, "max_parallel_runs": 1, "checkpoint_every": 30}
    path = tmp_path / "panel.npz"
    with pytest.raises(Stop):
        sweeps.sweep(program, batch, checkpoint=path, progress=interrupt, **options)
    columns, resumed = sweeps.sweep(program, batch, checkpoint=path, **options)
    helpers.assert_same(complete, resumed)
    assert not np.isnan(columns["first"]).any()


def test_aggregation_stays_conditional():
    """Side by side, it is computed when a set of buffers is full, and not at every event."""
    problem = helpers.quadratic()
    batch = batch_of(problem, seeds=(0,))
    program = everything("basgd")
    args = (program, "fresh", batch.problem, jnp.asarray(batch.seeds), batch.hyper)
    run = jax.eval_shape(lambda *a: sweeps.start(*args[:2], *a), *args[2:])
    text = sweeps.advance.lower(*args, jnp.asarray(batch.byzantine), run, batch.schedules)
    # One for each rule, and one for the omniscient attacks.
    assert text.as_text().count("stablehlo.case") >= len(RULES) + 1


def test_invalid_rules_and_hyperparameters_raise():
    problem = helpers.quadratic()
    program = everything("basgd", rules=("mean", "krum:f=2"))
    hyper = {"step_size": np.full((2, 1), 0.1, np.float32)}
    with pytest.raises(InvalidConfig, match=r"krum needs n >= 2f \+ 3: got n=5, f=2"):
        program(problem, hyper)
    with pytest.raises(InvalidConfig, match="hyper-parameters in lock-step are"):
        program(problem, {"step_size": np.full((3, 1), 0.1, np.float32)})


@pytest.mark.slow
def test_the_state_of_an_attack_is_kept_for_each_run():
    problem = helpers.quadratic()
    program = everything("basgd", attacks=(("mimic", ()), ("none", ())))
    hyper = {"step_size": np.tile(np.float32(STEPS), (3, 1))}
    system = program(problem, hyper)
    byzantine = jnp.asarray(attacks_lib.byzantine_mask(helpers.M, 2))
    keys = keys_lib.split(0)
    run = simulation.start(system, problem, keys, "fresh")
    order = jnp.asarray([0, 1, 0, 3], jnp.int32)
    run, _ = simulation.advance(system, problem, byzantine, keys, "fresh", run, order)
    weights, count = run.attack[0]
    assert weights.shape == (3, 2, helpers.M)
    np.testing.assert_array_equal(count, np.full((3, 2), 3))  # three of four were forged
