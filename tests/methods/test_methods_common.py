"""The gauntlet: what every method must do, whatever its rule. New methods are found here."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    METHODS,
    OracleConfig,
    SystemSpec,
    arrivals,
    attacks,
    models,
    simulation,
    sweeps,
)
from farsign_jax import keys as keys_lib
from farsign_jax.methods import options_of
from farsign_jax.simulation import runner
from farsign_jax.sweeps import AttackChoice, Family
from farsign_jax.validation import InvalidConfig
from tests import helpers

# One answer per event, also of methods that usually wait for all.
FEEDBACK = OracleConfig(batch_size=8, directions=5, decay_every=200, per_round=1)
NAMES = sorted(METHODS)
# To compile a program for every method is slow: quick tests do so for these, or for one.
QUICK = ("basgd", "far_sign")
# Without XLA's optimisations, runs of these have other last bits alone than side by side.
OPTIMIZED = ("basgd", "byrd_saga", "cyber0", "rsgf")
GAUNTLET = [
    pytest.param(
        name,
        marks=[pytest.mark.slow] * (name != "far_sign")
        + [pytest.mark.optimized] * (name in ("far_sign", *OPTIMIZED)),
    )
    for name in NAMES
]


# Steps that suit the small quadratic rather than MNIST; 0.1 is for all others.
STEPS = {"mezo": 0.02, "feed_sign": 0.05, "async_feed_sign": 0.05, "fed_kseed": 0.3}


def step_of(name):
    return np.float32(STEPS.get(name, 0.1))


def hyper_of(name):
    return dict(METHODS[name].presets["paper"]) | {"step_size": float(step_of(name))}


# Options for 7 workers, 2 of them Byzantine. A reference of many examples is summed in another
# order where runs are batched.
OPTIONS = {"buffers": 5, "byzantine": 2, "trusted": 8}


def build_of(name, attack="none"):
    options = tuple((o, OPTIONS[o]) for o in options_of(name) if o in OPTIONS)
    return SystemSpec(name, attack, (), FEEDBACK, options)


PROBLEM = helpers.quadratic()
# Programs are compiled for so many events of these systems, and tests that can share them do:
# most of the time here goes into compiling.
EVENTS = 60


@functools.cache
def system_of(name, attack="sign_flip"):
    """One object for all tests, in the number format of the hyper-parameters of a run."""
    hyper = hyper_of(name)
    return build_of(name, attack)(PROBLEM, hyper | {"step_size": step_of(name)})


def schedule(name, events, seed=1):
    """One answer per event, which for a method in rounds is a round of one."""
    one = arrivals.uniform(jax.random.key(seed), helpers.M, events)
    return one[:, None] if METHODS[name].works_in_rounds else one


def outstanding(name):
    # With two open, what is kept of answers has a shape of its own.
    return "outstanding" if METHODS[name].works_in_rounds else "outstanding:2"


@pytest.mark.parametrize(
    ("name", "delivery"),
    [(name, outstanding(name)) for name in QUICK]
    + helpers.slow((name, outstanding(name)) for name in NAMES if name not in QUICK)
    + [pytest.param(name, "fresh", marks=helpers.LONG) for name in NAMES],
)
def test_converges_on_a_quadratic_without_attack(name, delivery):
    measure = helpers.distance(PROBLEM)
    options = {"delivery": delivery, "measure": measure, "every": EVENTS}
    _, records = simulation.run(PROBLEM, system_of(name), schedule(name, 1500), **options)
    assert records[-1]["distance"] < 0.15 * float(measure(PROBLEM.x0)["distance"])


@pytest.mark.parametrize(
    "name",
    ["far_sign"]
    + helpers.slow(n for n in NAMES if n != "far_sign" and not METHODS[n].works_in_rounds),
)
def test_answers_under_way_are_not_copied_at_every_event(name):
    system, delivery = system_of(name), outstanding(name)
    keys, byzantine = keys_lib.split(0), jnp.arange(helpers.M) < 2
    run = jax.eval_shape(lambda: simulation.start(system, PROBLEM, keys, delivery))
    inbox = [leaf.shape for leaf in jax.tree.leaves(run.inbox.value) if leaf.shape[-1] > 1]
    args = (system, PROBLEM, byzantine, keys, delivery, run, schedule(name, EVENTS))
    text = runner._advance.lower(*args).compile().as_text()
    assert all(f"f32[{','.join(map(str, shape))}]" in text for shape in inbox)
    copies = re.findall(r"= f32\[([\d,]+)\]\S* copy(?:-start)?\(", text)
    assert [c for c in copies if tuple(map(int, c.split(","))) in inbox] == []


@pytest.mark.parametrize("name", NAMES)
def test_state_has_params_and_step_and_keeps_its_shape(name):
    system = system_of(name, "none")
    keys = keys_lib.split(0)
    run = jax.eval_shape(lambda: simulation.start(system, PROBLEM, keys, "outstanding"))
    assert run.server.params.shape == PROBLEM.x0.shape
    assert run.server.step.dtype == jnp.int32 and run.server.step.shape == ()
    byzantine = jnp.zeros(helpers.M, bool)
    after, info = jax.eval_shape(
        lambda r: simulation.event(
            system, PROBLEM, byzantine, keys, "outstanding", r, jnp.zeros((), jnp.int32)
        ),
        run,
    )
    assert jax.tree.structure(after) == jax.tree.structure(run)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(run), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert not getattr(a, "weak_type", False)
    assert info["staleness"].shape == (1,)


ALIKE = ("drift", "fall_of_empires", "hybrid_sparse", "min_max", "min_sum")


def attacks_on(name):
    """The attacks on messages; those on data need examples with labels."""
    every = sorted(set(attacks.ATTACKS) - {"same_value"})
    every = [attack for attack in every if attacks.make(attack).poison is None]
    if name not in QUICK:  # these differ from others in a formula alone
        every = [attack for attack in every if attack not in ALIKE]
    if name in ("async_zo_sgd", "mezo", "async_feed_sign", "fed_kseed"):
        # Nobody knows what others would report about a worker's own directions.
        every = [attack for attack in every if not attacks.make(attack).omniscient]
    return every


def types_after_events(name, attack, problem):
    """The types of the state of a run and of what its events tell."""
    system, keys = build_of(name, attack)(problem, hyper_of(name)), keys_lib.split(0)
    sets = jnp.zeros((2, 2 if METHODS[name].works_in_rounds else 1), jnp.int32)
    byzantine = jnp.arange(helpers.M) < 2

    def run():
        first = simulation.start(system, problem, keys, "outstanding")
        return simulation.advance(system, problem, byzantine, keys, "outstanding", first, sets)

    return jax.tree.map(lambda leaf: leaf.dtype, jax.eval_shape(run))


# All attacks, and runs of every method, take ten minutes: they are long.
WIDTHS = [("far_sign", 1, False)]
RETYPED = ("asyn_rsa_vr", "byrd_saga", "ef_sign_sgd", "sign_sgd_mv")  # own arrays
WIDTHS += helpers.slow((name, 1, False) for name in RETYPED)
WIDTHS += [pytest.param(name, None, True, marks=helpers.LONG) for name in NAMES]


@pytest.mark.parametrize(("name", "attacks_traced", "runs"), WIDTHS)
def test_a_run_has_the_types_of_its_problem_whatever_the_default_width(
    name, attacks_traced, runs
):
    names = attacks_on(name)[:attacks_traced]
    narrow = [types_after_events(name, attack, PROBLEM) for attack in names]
    system, options = system_of(name, names[0]), {"byzantine": 2, "delivery": outstanding(name)}
    if runs:
        end, _ = simulation.run(PROBLEM, system, schedule(name, EVENTS), **options)
    with helpers.float64():
        assert [types_after_events(name, attack, PROBLEM) for attack in names] == narrow
        if runs:
            same, _ = simulation.run(PROBLEM, system, schedule(name, EVENTS), **options)
            helpers.assert_same(same, end)

        def widened(leaf):
            return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf

        wide = jax.tree.map(widened, PROBLEM)
        for attack in names:
            run, _ = types_after_events(name, attack, wide)
            assert run.server.params == run.inbox.value == np.float64
        if not runs:
            return
        system = build_of(name, names[0])(wide, hyper_of(name))
        end, _ = simulation.run(wide, system, schedule(name, EVENTS), **options)
        assert end.server.params.dtype == np.float64 and np.isfinite(end.server.params).all()


def test_an_option_that_numpy_computed_changes_no_type():
    with helpers.float64():
        hyper = {n: np.float64(v) for n, v in hyper_of("rsa").items()}
        options = (("weight_decay", np.float64(0.1)),)
        attack = (("z", np.float64(1.5)),)
        build = SystemSpec("rsa", "alie", attack, FEEDBACK, options)
        end, _ = simulation.run(PROBLEM, build(PROBLEM, hyper), schedule("rsa", 5), byzantine=2)
    assert end.server.params.dtype == np.float32


def test_a_state_that_changes_its_type_is_refused_by_name():
    system = system_of("far_sign", "none")
    server = system.server

    def update(state, reports):
        state, info = server.update(state, reports)
        return state._replace(averages=state.averages.astype(jnp.bfloat16)), info

    system = system._replace(server=server._replace(update=update))
    rule = r"server.averages was float32\[7, 20\], and is bfloat16\[7, 20\] after an event"
    with pytest.raises(InvalidConfig, match=rule):
        simulation.run(PROBLEM, system, schedule("far_sign", 5))


def test_a_server_that_recalls_nothing_refuses_what_an_omniscient_attack_needs():
    system, sets = system_of("async_zo_sgd", "alie"), schedule("async_zo_sgd", 5)
    with pytest.raises(InvalidConfig, match="a server that can recall"):
        simulation.run(PROBLEM, system, sets)


def batch_of(name, attack, seeds, steps):
    """Runs that have in their row the number of an attack, a seed and a step size."""
    hyper = {k: np.full(len(seeds), v, np.float32) for k, v in hyper_of(name).items()}
    hyper |= {"attack": np.asarray(attack, np.int32), "step_size": np.float32(steps)}
    hyper |= {"strength": np.ones(len(seeds), np.float32)}
    hyper |= {"after": np.zeros(len(seeds), np.int32)}
    byzantine = np.tile(np.arange(helpers.M) < 2, (len(seeds), 1))
    schedules = np.stack([schedule(name, EVENTS, seed) for seed in seeds])
    problem = sweeps.RunBatch.repeated(PROBLEM, len(seeds))
    return sweeps.RunBatch(problem, np.asarray(seeds, np.int32), hyper, byzantine, schedules)


def largest(params):
    return {"largest": jnp.abs(params).max(axis=-1)}


@pytest.mark.parametrize("name", GAUNTLET)
def test_runs_under_every_attack_stay_finite_and_are_each_run_alone(name):
    """Attacks, seeds and step sizes are numbers of one program; each row of it is its run."""
    names, delivery = attacks_on(name), outstanding(name)
    build = AttackChoice(build_of(name), tuple(Family(attack) for attack in names))
    options = {"every": 30, "measure": largest, "delivery": delivery}
    numbers, count = np.arange(len(names)), len(names)
    alike = batch_of(name, numbers, [1] * count, [step_of(name)] * count)
    columns, ends = sweeps.sweep(build, alike, **options)
    assert np.isfinite(columns["largest"]).all()
    wild = (columns["nonfinite"] > 0).all(axis=1)
    assert [attack for attack, is_wild in zip(names, wild, strict=True) if is_wild] == [
        "nonfinite"
    ]
    differs = (ends.params != ends.params[names.index("none")]).any(axis=1)
    # A little noise hardly ever changes one bit.
    same = {"none"} | ({"random_disturbance"} if "feed_sign" in name else set())
    assert {attack for attack, does in zip(names, differs, strict=True) if not does} == same

    row = names.index("sign_flip")
    steps = np.where(numbers == row, step_of(name), step_of(name) / 3)
    batch = batch_of(name, numbers, numbers, steps)
    turned = np.roll(numbers, 1)
    with helpers.compilations() as compiled:
        columns, ends = sweeps.sweep(build, batch, **options)
        again, same = sweeps.sweep(build, batch.take(turned), **options)
    assert set(compiled) <= {"jit(conditions)"}  # values that are new are checked
    helpers.assert_same(jax.tree.map(lambda a: a[turned], ends), same)
    np.testing.assert_array_equal(columns["largest"][turned], again["largest"])
    # As places do not matter, one run will do: neither its seed nor its step is another's.
    alone = {"seed": int(batch.seeds[row]), "byzantine": 2, "delivery": delivery}
    single, _ = simulation.run(PROBLEM, system_of(name), batch.schedules[row], **alone)
    np.testing.assert_array_equal(single.server.params, ends.params[row])
    helpers.assert_same(single.staleness, jax.tree.map(lambda a: a[row], ends.staleness))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.sum(),
        *helpers.slow([lambda v: v[: min(1, len(v) - 1)], lambda v: v[:, None]]),
    ],
)
def test_a_message_of_another_shape_is_refused_before_the_loop(name, change):
    """Not broadcast: a scalar where k numbers belong is a mistake, not an answer."""
    system = system_of(name, "none")
    honest = system.worker

    def respond(state, query, shard, key):
        state, value = honest.respond(state, query, shard, key)
        return state, change(value)

    system = system._replace(worker=honest._replace(respond=respond))
    with pytest.raises(InvalidConfig, match="an answer is"):
        simulation.run(PROBLEM, system, schedule(name, 5))


def poisoned_batch(name):
    """Three runs on data with labels, which differ in their seed and in who is Byzantine."""
    seeds, byzantine = np.asarray([3, 3, 4], np.int32), np.asarray([2, 0, 2])
    return sweeps.RunBatch(
        sweeps.RunBatch.repeated(helpers.digits(models.MLP((4,)), helpers.M), 3),
        seeds,
        {k: np.full(3, v, np.float32) for k, v in hyper_of(name).items()},
        np.arange(helpers.M) < byzantine[:, None],
        np.stack([schedule(name, 20, seed) for seed in seeds]),
    )


def after_sweep(name, batch):
    options = {"every": 20, "measure": largest, "delivery": outstanding(name)}
    return sweeps.sweep(build_of(name, "label_flip"), batch, **options)[1].params


# One method for each way to read examples; the others are long.
READERS = ("cyber0", "sgd", "byrd_saga", "draco", "zeno_pp")
POISONED = ["far_sign", *helpers.slow(READERS)]
POISONED += [
    pytest.param(name, marks=helpers.LONG)
    for name in NAMES
    if name not in ("far_sign", *READERS)
]


@pytest.mark.parametrize("name", POISONED)
def test_an_attack_on_data_reaches_every_method(name):
    batch, turned = poisoned_batch(name), np.asarray([2, 0, 1])
    ends = after_sweep(name, batch)
    assert np.isfinite(ends).all()
    assert (ends[0] != ends[1]).any() and (ends[0] != ends[2]).any()
    np.testing.assert_array_equal(after_sweep(name, batch.take(turned)), ends[turned])


@pytest.mark.optimized
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in READERS[::2] else helpers.LONG)
        for name in NAMES
    ],
)
def test_a_run_on_poisoned_data_is_the_same_alone(name):
    batch = poisoned_batch(name)
    alone = after_sweep(name, batch.take(np.asarray([0])))
    np.testing.assert_array_equal(alone[0], after_sweep(name, batch)[0])
