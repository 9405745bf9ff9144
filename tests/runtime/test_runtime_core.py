"""The server's side without I/O: what is heard, what is refused, and nothing else happens."""

from fractions import Fraction

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
    step_sizes,
)
from farsign_jax.base import Report, System
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.runtime import core as core_lib
from farsign_jax.runtime import numpy_server
from farsign_jax.runtime.core import Out, ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.state_machine import Compiled, same_bits
from farsign_jax.runtime.worker import Answers
from tests import helpers

M, D, K = 3, 24, 4
STEPS = {"step_size": 0.05, "average_step": 0.3}


def machine(kind="host", m=M, d=D, k=K, x0=None, **steps):
    dictionary, x0 = directions.identity(d, k), np.zeros(d, np.float32) if x0 is None else x0
    steps = STEPS | steps
    if kind == "host":
        return numpy_server.OnHost(m, dictionary, x0, 0, **steps)
    return Compiled(far_sign(m, dictionary, **steps), x0, 0, (k,), True)


def numbered():
    """Nonces 0, 1, 2, ... for tests that must know them."""
    return iter(range(10**6)).__next__


def server(limits=None, log=None, **options):
    log = [].append if log is None else log
    options = {"nonce": numbered(), "by_seed": True} | options
    built = options.pop("machine", None) or machine()
    return ServerCore(built, limits or Limits(rate=1e6), log=log, **options)


def speak(core, session, question, value=None, now=0.0, wrong=None):
    """Answers a question, or says something wrong."""
    value = (np.ones(K, np.float32) if value is None else value).tobytes()
    told = {"nonce": question.nonce, "version": question.version, "value": value}
    return core.handle(session, **(told | (wrong or {})), now=now)


def bits(core):
    return {name: a.tobytes() for name, a in core.state_dict().items()}


def test_an_answer_moves_x_as_the_simulator_would():
    log = []
    core = server(log=log.append)
    session, reply = core.join(1, None, 0.0)
    value = np.array([1, -2, 0, 3], np.float32)
    after = speak(core, session, reply.question, value, now=2.5)
    assert after.verdict == "accepted" and core.events == 1
    j = core.machine.ask(1, 0)
    want = np.zeros(D, np.float32)
    want[j] -= np.float32(0.05) * np.sign(value)
    np.testing.assert_array_equal(core.machine.params, want)
    np.testing.assert_array_equal(after.delta.values, want[after.delta.at])
    (arrival,) = log
    assert arrival[:4] == (1, 0, 0, 2.5)
    np.testing.assert_array_equal(arrival.value, value)
    assert after.question.number == 1 and after.question.version == 1


NONFINITE = [np.float32(x) for x in (np.nan, np.inf, -np.inf)]


@pytest.mark.parametrize(
    ("verdict", "wrong"),
    [
        ("nonce", {"nonce": 77}),
        ("nonce", {"nonce": -1}),
        ("version", {"version": 5}),
        ("version", {"version": -1}),
        ("size", {"value": b""}),
        ("size", {"value": np.ones(K - 1, np.float32).tobytes()}),
        ("size", {"value": np.ones(K + 1, np.float32).tobytes()}),
        ("size", {"value": np.ones(K, np.float32).tobytes()[:-1]}),
        *[("nonfinite", {"value": np.full(K, bad).tobytes()}) for bad in NONFINITE],
        ("nonfinite", {"value": np.array([1, 2, np.nan, 3], np.float32).tobytes()}),
    ],
)
def test_what_is_no_answer_changes_nothing_but_the_strikes(verdict, wrong):
    log = []
    core = server(log=log.append)
    session, reply = core.join(0, None, 0.0)
    speak(core, session, reply.question)
    session, reply = core.join(0, 1, 0.0)
    before = bits(core)
    answer = speak(core, session, reply.question, wrong=wrong)
    assert answer.verdict == verdict and bits(core) == before and len(log) == 1
    assert core.strikes.tolist() == [1, 0, 0]
    # The question stays open.
    assert answer.question == reply.question
    assert speak(core, session, reply.question).verdict == "accepted"


def test_an_answer_cannot_come_twice_and_an_old_one_not_at_all():
    core = server()
    session, first = core.join(0, None, 0.0)
    speak(core, session, first.question)
    before = bits(core)
    assert speak(core, session, first.question).verdict == "nonce"
    again, reply = core.join(0, None, 0.0)
    assert speak(core, again, first.question).verdict == "nonce"
    assert bits(core) == before
    assert speak(core, again, reply.question).verdict == "accepted"


def test_nonces_cannot_be_guessed():
    drawn = {core_lib.ServerCore.__init__.__kwdefaults__["nonce"]() for _ in range(100)}
    assert len(drawn) == 100 and max(drawn) > 2**56 and min(drawn) >= 0


def test_strikes_outlive_the_session_and_the_last_one_is_the_end():
    core = server(Limits(strikes=3, rate=1e6))
    for count in (1, 2):
        session, reply = core.join(1, None, 0.0)
        assert speak(core, session, reply.question, wrong={"nonce": 99}).verdict == "nonce"
        assert core.strikes[1] == count
        core.leave(session, "gone")
    session, reply = core.join(1, None, 0.0)
    with pytest.raises(Out, match="worker 1 has 3 strikes"):
        speak(core, session, reply.question, wrong={"nonce": 99})
    assert session.over == "strikes" and 1 not in core.sessions
    with pytest.raises(Out, match="3 strikes"):
        core.join(1, None, 0.0)
    other, reply = core.join(2, None, 0.0)  # nobody else is struck
    assert speak(core, other, reply.question).verdict == "accepted"
    again = server(core.limits, strikes=core.strikes)
    with pytest.raises(Out):
        again.join(1, None, 0.0)


def test_the_newer_of_two_sessions_is_the_one():
    core = server()
    old, question = core.join(0, None, 0.0)
    new, reply = core.join(0, None, 0.0)
    assert old.over == "replaced" and core.sessions == {0: new}
    with pytest.raises(Out, match="replaced"):
        speak(core, old, question.question)
    assert speak(core, new, reply.question).verdict == "accepted"
    core.leave(old, "late")
    assert core.sessions == {0: new}


def test_who_answers_often_waits_and_joining_again_does_not_help():
    core = server(Limits(rate=10, burst=3))
    session, reply = core.join(0, None, 0.0)
    waits = []
    for _ in range(5):
        reply = speak(core, session, reply.question, now=0.0)
        waits.append(reply.wait)
    np.testing.assert_allclose(waits, [0, 0, 0.1, 0.2, 0.3])
    session, reply = core.join(0, None, 0.0)
    assert reply.wait == pytest.approx(0.3)
    session, reply = core.join(0, None, 10.0)
    assert reply.wait == 0
    total = 0
    now = 10.0
    while now < 20.0:
        reply = speak(core, session, reply.question, now=now)
        now, total = now + reply.wait, total + 1
    assert total <= 10 * 10 + 3


def test_answers_about_an_x_of_long_ago_are_asked_for_again_where_there_is_a_bound():
    core = server(Limits(rate=1e6, staleness=2))
    slow, late = core.join(0, None, 0.0)
    session, reply = core.join(1, None, 0.0)
    for _ in range(3):
        reply = speak(core, session, reply.question)
    before = bits(core)
    again = speak(core, slow, late.question)
    assert again.verdict == "stale" and bits(core) == before and core.strikes[0] == 0
    assert again.question.number == late.question.number == 0
    assert again.question.version == 3
    assert speak(core, slow, again.question).verdict == "accepted"


@pytest.mark.parametrize("d", [D, 1000])
def test_changes_since_any_version_give_x_as_it_is(d):
    core = server(Limits(rate=1e6, history=5), machine=machine(d=d))
    rng = np.random.default_rng(0)
    session, reply = core.join(0, None, 0.0)
    seen = {0: core.machine.params.copy()}
    for version in range(1, 12):
        reply = speak(core, session, reply.question, rng.normal(size=K).astype(np.float32))
        seen[version] = core.machine.params.copy()
        for have, x in seen.items():
            delta = core._history.since(have)
            if version - have > 5:
                assert delta.at is None
            x = x.copy()
            x[slice(None) if delta.at is None else delta.at] = delta.values
            np.testing.assert_array_equal(x, core.machine.params)


def test_a_worker_that_claims_a_version_there_never_was_gets_all_of_x():
    core = server()
    for have in (None, 10**9, -5):
        _, reply = core.join(0, have, 0.0)
        assert reply.delta.at is None
        np.testing.assert_array_equal(reply.delta.values, core.machine.params)


@pytest.mark.parametrize("kind", ["host", "compiled"])
def test_what_is_restored_goes_on_to_the_same_bits(kind):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, K)).astype(np.float32)

    def go(core, values):
        for value, worker in zip(values, rng_workers, strict=False):
            session, reply = core.join(worker, None, 0.0)
            speak(core, session, reply.question, value)

    rng_workers = np.random.default_rng(2).integers(0, M, 20).tolist()
    whole = server(machine=machine(kind))
    go(whole, values[:20])
    kept = {name: a.copy() for name, a in whole.state_dict().items()}
    go(whole, values[20:])
    again = server(machine=machine(kind))
    again.restore(kept)
    go(again, values[20:])
    assert bits(again) == bits(whole)
    with pytest.raises(ValueError, match="averages"):
        server(machine=machine(kind, d=30)).restore(kept)


def test_limits_name_value_and_rule():
    for wrong in ({"strikes": 0}, {"rate": 0}, {"burst": 0.5}, {"history": 0}):
        (name, value), *_ = wrong.items()
        with pytest.raises(InvalidConfig, match=f"need {name} >= 1: got {value}"):
            Limits(**wrong)


SCHEDULES = {
    "constant": (0.07, 0.3),
    "one": (0.01, 1.0),
    "staircase": (step_sizes.staircase(0.07, 0.9, 50), step_sizes.staircase(0.5, 0.9, 50)),
    "theory": tuple(step_sizes.theory(order="first", pairs=9)[:2]),  # beta begins above 1
}


@pytest.mark.parametrize("steps", SCHEDULES)
def test_numpy_has_the_bits_of_the_compiled_update(steps):
    """Random answers of all sizes, denormal ones and overflowing ones among them."""
    alpha, beta = SCHEDULES[steps]
    told = {"step_size": alpha, "average_step": beta}
    m, d, k, events = 2, 40, 16, 3000
    rng = np.random.default_rng(len(steps))
    sizes = 10.0 ** rng.uniform(-45, 38, (events, k))
    values = (rng.normal(size=sizes.shape) * np.minimum(sizes, 3e37)).astype(np.float32)
    values[: 2 * events // 3] = rng.normal(size=(2 * events // 3, k))
    values[::7] = np.round(values[::7].clip(-99, 99))  # ties, zeros, cancellation
    x0 = rng.normal(size=d).astype(np.float32)
    x0[:4] = [1e-40, -1e-45, 0.0, -0.0]
    workers = rng.integers(0, m, events).astype(np.int32)
    dictionary = directions.identity(d, k)
    here = numpy_server.OnHost(m, dictionary, x0, 0, **told)
    chosen = np.stack([here.ask(w, n) for n, w in enumerate(workers.tolist())])
    for worker, j, value in zip(workers.tolist(), chosen, values, strict=True):
        here.hear(worker, 0, j, value)
    update = far_sign(m, dictionary, **told)

    def hear(state, told):
        worker, j, value = told
        report = Report(worker[None], jnp.zeros(1, jnp.int32), j[None], value[None])
        return update.update(state, report)[0], None

    want, _ = jax.jit(lambda s, told: jax.lax.scan(hear, s, told))(
        update.init(jnp.asarray(x0)), (workers, chosen, values)
    )
    assert same_bits(here.params, want.params)
    assert same_bits(here.averages.T, want.averages)
    np.testing.assert_array_equal(here.counts, want.counts)


def test_multiply_add_is_rounded_once_even_where_f64_ends_in_the_middle():
    """a b + c just beside the middle of two f32: by less than f64 can say."""
    one = np.float32(1)
    c = np.array([one, one, one, one], np.float32)
    # 1 + 2^-24 is the middle of 1 and its successor; 2^-60 more or less decides.
    b = np.array([2.0**-24 * (1 + 2**-23), 2.0**-24, 2.0**-24 * (1 - 2**-24), 0], np.float32)
    got = numpy_server.multiply_add(one, b, c)
    up = np.nextafter(one, np.float32(2))
    np.testing.assert_array_equal(got, [up, one, one, one])
    # A product of 48 bits whose last ones f64 cannot keep beside 2^30.
    a, b = np.float32(1 + 2**-23), np.array([2.0**6 * (1 + 2**-23)] * 2, np.float32)
    c = np.array([2.0**30, -(2.0**30)], np.float32)
    for x, y, z in zip([a, a], b, c, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [np.float32(float(exact))]
        near += [np.nextafter(near[0], np.float32(s)) for s in (-np.inf, np.inf)]
        best = min(near, key=lambda f: abs(Fraction(float(f)) - exact))
        got = numpy_server.multiply_add(x, np.array([y]), np.array([z]))[0]
        assert abs(Fraction(float(got)) - exact) == abs(Fraction(float(best)) - exact)


def test_two_roundings_is_what_a_processor_without_multiply_add_does():
    rng = np.random.default_rng(0)
    a, b, c = np.float32(0.3), *rng.normal(size=(2, 999)).astype(np.float32)
    once, twice = numpy_server.multiply_add(a, b, c), numpy_server.two_roundings(a, b, c)
    np.testing.assert_array_equal(twice, a * b + c)
    assert 0 < (once != twice).mean() < 0.5
    assert numpy_server.contracts() in (True, False)


def test_a_worker_alone_answers_what_it_answers_in_the_simulator():
    """To the bit, for every worker, in a run of 40 events."""
    problem = helpers.digits(workers=M)
    dictionary = directions.identity(problem.x0.size, 10)
    system = helpers.far_sign_system(problem, dictionary=dictionary, **STEPS)
    schedule = arrivals.uniform(jax.random.key(3), M, 40)
    run, _ = simulation.run(problem, system, schedule, seed=5, delivery="outstanding")
    host = numpy_server.OnHost(M, dictionary, problem.x0, 5, **STEPS)
    core = server(machine=host)
    asked = {i: core.join(i, None, 0.0) for i in range(M)}
    read = {i: host.params.copy() for i in range(M)}
    workers = [Answers(system, problem, 5, i) for i in range(M)]
    for i in schedule.tolist():
        session, reply = asked[i]
        q = reply.question
        value = workers[i].answer(read[i], q.number, q.step, None)
        asked[i] = session, speak(core, session, q, value)
        read[i] = host.params.copy()
    assert same_bits(host.params, run.server.params)
    assert same_bits(host.averages.T, run.server.averages)


def test_liars_lie_about_the_same_question():
    problem = helpers.digits(workers=M)
    system = helpers.far_sign_system(problem, k=10)
    x = np.asarray(problem.x0)
    told = [None, Answers(system, problem, 0, 1).answer(x, 7, 7, None)]
    flipped = Answers(system, problem, 0, 1, attacks.sign_flip(3.0)).answer(x, 7, 7, None)
    np.testing.assert_allclose(flipped, -3 * told[1], rtol=1e-6)
    j = directions.sample_distinct(
        keys.message(keys.split(0).queries, 1, 7), problem.x0.size, 10
    )
    same = [Answers(system, problem, 0, i).answer(x, 7, 7, j) for i in range(M)]
    np.testing.assert_array_equal(same[1], told[1])
    mean = np.mean([same[0], same[2]], axis=0)
    colluding = Answers(system, problem, 0, 1, attacks.ipm(0.5)).answer(x, 7, 7, None)
    np.testing.assert_allclose(colluding, -0.5 * mean, rtol=1e-3, atol=1e-7)


def test_whole_gradients_go_through_the_compiled_update():
    sgd = async_sgd(M, step_size=0.5)
    core = server(machine=Compiled(sgd, np.zeros(D, np.float32), 0, (D,), False), by_seed=False)
    session, reply = core.join(0, None, 0.0)
    assert reply.question.direction.shape == (0,)
    gradient = np.arange(D, dtype=np.float32)
    after = speak(core, session, reply.question, gradient)
    assert after.verdict == "accepted" and after.delta.at is None
    np.testing.assert_array_equal(after.delta.values, -0.5 * gradient)
    assert speak(core, session, after.question, gradient[:-1]).verdict == "size"


def test_a_worker_that_keeps_a_state_is_refused():
    problem = helpers.quadratic()
    worker = helpers.far_sign_system(problem).worker._replace(init=lambda shard: jnp.zeros(3))
    system = System(helpers.far_sign_system(problem).server, worker, attacks.none())
    with pytest.raises(InvalidConfig, match="keeps a state"):
        Answers(system, problem, 0, 0)
    with pytest.raises(InvalidConfig, match=r"workers are 0\.\.6: got 7"):
        Answers(helpers.far_sign_system(problem), problem, 0, 7)
