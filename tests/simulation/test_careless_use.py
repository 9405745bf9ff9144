"""The library refuses in one line what the command lines refuse, and reads names as they do."""

import dataclasses
import functools

import numpy as np
import pytest

from farsign_jax import (
    METHODS,
    OracleConfig,
    SystemSpec,
    aggregators,
    arrivals,
    attacks,
    keys,
    methods,
    models,
    simulation,
    sweeps,
)
from farsign_jax.arrivals import delays
from farsign_jax.attacks.timing import apply_timing_attack
from farsign_jax.data.partitions import partition
from farsign_jax.methods.sgd import sgd
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, KEY = helpers.M, helpers.KEY
SMALL = OracleConfig(batch_size=4, directions=3)
IN_ROUNDS = [name for name, entry in METHODS.items() if entry.works_in_rounds]


NEEDED = {"cyber0": {"buffers": 3}, "basgd": {"buffers": 3}}
NEEDED |= {name: {"byzantine": 1} for name in ("kardam", "draco")}


def system_of(name, **options):
    options |= NEEDED.get(name, {})
    return SystemSpec(name, oracle=SMALL, options=options)(
        helpers.quadratic(), methods.hyper_of(name, "paper")
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_server_in_rounds_is_known_as_such_whoever_built_it(name, monkeypatch):
    entry = METHODS[name]
    hyper = methods.hyper_of(name, "paper")
    server, _ = entry.build(helpers.quadratic(), SMALL, hyper, **NEEDED.get(name, {}))
    assert server.in_rounds == entry.works_in_rounds

    @functools.wraps(entry.build)
    def without(*args, **options):  # as a user's own method might be
        return server._replace(in_rounds=False), None

    monkeypatch.setitem(METHODS, name, entry._replace(build=without))
    assert system_of(name).server.in_rounds == entry.works_in_rounds


@pytest.mark.parametrize("debug", [False, True])
def test_methods_in_rounds_refuse_answers_one_by_one(debug):
    problem, order = helpers.quadratic(), arrivals.uniform(KEY, M, 20)
    message = r"needs a schedule of rounds, .* as of arrivals.rounds: got i32\[20\]"
    with helpers.compilations() as compiled:
        for name in IN_ROUNDS:
            system = system_of(name)
            compiled.clear()
            with pytest.raises(InvalidConfig, match=message):
                simulation.run(problem, system, order, debug=debug)
            assert compiled == []
    server = sgd(M, aggregators.make("median"), step_size=0.1)  # without the registry
    with pytest.raises(InvalidConfig, match=message):
        simulation.run(problem, system._replace(server=server), order)


def test_sweeps_refuse_it_too():
    problem, order = helpers.quadratic(), arrivals.uniform(KEY, M, 20)
    batch = sweeps.RunBatch(
        sweeps.RunBatch.repeated(problem, 1),
        np.zeros(1, np.int32),
        {"step_size": np.ones(1, np.float32)},
        np.zeros((1, M), bool),
        order[None],
    )
    build = SystemSpec("sgd", "sign_flip", oracle=SMALL)
    lockstep = sweeps.Lockstep(((build,),))
    alone = {"step_size": np.ones((1, 1, 1), np.float32)}
    for program, hyper in ((build, batch.hyper), (lockstep, alone)):
        with pytest.raises(InvalidConfig, match="needs a schedule of rounds"):
            changed = dataclasses.replace(batch, hyper=hyper)
            sweeps.sweep(program, changed, every=10, measure=lambda x: {})


@pytest.mark.parametrize(
    "draw",
    [
        lambda m: arrivals.uniform(KEY, m, 30),
        lambda m: arrivals.weighted(KEY, [1.0] * m, 30),
        lambda m: arrivals.sets(KEY, m, 30, 2),
        lambda m: arrivals.uniform(KEY, m, 30)[:10],
        lambda m: arrivals.by_time(KEY, [delays.exponential()] * m, 30),
        lambda m: arrivals.by_heap(KEY, [delays.exponential()] * m, 30),
        lambda m: arrivals.rounds(KEY, [delays.exponential()] * m, 30),
        lambda m: arrivals.rounds(KEY, [delays.exponential()] * m, 30, wait=2),
    ],
)
def test_a_schedule_for_fewer_workers_is_refused(draw):
    with pytest.raises(InvalidConfig, match=f"is for {M - 2} workers, the problem has {M}"):
        arrivals.check_schedule(draw(M - 2), M)
    arrivals.check_schedule(draw(M), M)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: system_of("sgd", agregator="median"), "unknown option of sgd 'agregator'"),
        (lambda p: SystemSpec("sdg"), "unknown method 'sdg': did you mean 'sgd'"),
        (lambda p: SystemSpec("sgd", "flip"), "unknown attack 'flip'"),
        (lambda p: SystemSpec("sgd:scale=2", options={"scale": 3.0}), "given twice: scale"),
        (lambda p: SystemSpec("sgd", options=[("scale", 1), ("scale", 2)]), "given twice"),
        (lambda p: SystemSpec("sgd", options=3), "a dictionary or pairs .*: got 3"),
        (lambda p: SystemSpec("sgd")(p, {}), "sgd needs hyper-parameters step_size: got none"),
        (lambda p: SystemSpec("sgd")(p, 0.1), "a dictionary of step_size: got 0.1"),
        (
            lambda p: SystemSpec("sgd")(p, {"step_size": 0.1, "step": 1}),
            "unknown hyper-parameter of sgd 'step': did you mean 'step_size'",
        ),
        (lambda p: attacks.make("sign_flip:scale=1", scale=2.0), "given twice"),
        (lambda p: attacks.make("sign_flip:size=1"), "unknown option of sign_flip 'size'"),
        (lambda p: arrivals.uniform(0, M, 5), r"a key is .*jax.random.key\(seed\).*: got int"),
        (lambda p: arrivals.by_time(0, [delays.exponential()], 5), "a key is .*: got int"),
        (lambda p: arrivals.uniform(keys.split(0), M, 5), "a key is .*: got RunKeys"),
        (lambda p: partition(np.arange(9), 3, "iid", 0), "a key is .*: got int"),
        (lambda p: partition(np.arange(9), 3, "iid:a=1", KEY), "unknown option of iid 'a'"),
    ],
)
def test_a_careless_call_ends_in_one_line(call, message):
    with pytest.raises(InvalidConfig, match=message) as error:
        call(helpers.quadratic())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None])
def test_a_seed_is_a_whole_number(seed):
    system = helpers.far_sign_system(helpers.quadratic())
    with pytest.raises(InvalidConfig, match="needs a whole number seed >= 0"):
        simulation.run(helpers.quadratic(), system, [0], seed=seed)


def test_options_may_stand_in_the_text_in_a_dictionary_or_in_pairs():
    usual = SystemSpec(
        "cyber0",
        "sign_flip",
        (("scale", 10),),
        SMALL,
        (("buffers", 7), ("aggregator", "median")),
    )
    options = {"aggregator": "median"}
    assert SystemSpec("cyber0:buffers=7", "sign_flip:scale=10", (), SMALL, options) == usual
    in_text = SystemSpec("sgd:step_size=0.25", oracle=SMALL)(helpers.quadratic(), {})
    beside = SystemSpec("sgd", oracle=SMALL)(helpers.quadratic(), {"step_size": 0.25})
    schedule = arrivals.rounds(KEY, [delays.exponential()] * M, 5)
    ends = [simulation.run(helpers.quadratic(), s, schedule)[0] for s in (in_text, beside)]
    helpers.assert_same(*ends)


def test_every_maker_reads_the_grammar_of_the_command_lines():
    scaled = attacks.make("sign_flip:scale=10")
    report = simulation.start(
        helpers.far_sign_system(helpers.quadratic()), helpers.quadratic(), keys.split(0),
        "outstanding",
    ).inbox  # fmt: skip
    forged = scaled.forge((), report, None, KEY)[1]
    helpers.assert_same(
        forged, attacks.make("sign_flip", scale=10).forge((), report, None, KEY)[1]
    )
    assert attacks.make("alie:space=measured").space == "measured"
    rng = lambda: np.random.default_rng(0)  # noqa: E731
    text, options = delays.make("pareto:shape=3"), delays.make("pareto", shape=3)
    np.testing.assert_array_equal(text.draw(rng(), 0, 5), options.draw(rng(), 0, 5))
    assert models.make("mlp:hidden=8").features == (8, 10)
    assert apply_timing_attack(text, "flood:rate=2").typical != text.typical
    labels = np.arange(40) % 4
    text = partition(labels, 4, "label_skew:heterogeneity=1", KEY)
    helpers.assert_same(text, partition(labels, 4, "label_skew", KEY, 1))
