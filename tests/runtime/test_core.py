"""The server's side without I/O: which answers are accepted, and what a rejected one does."""

import numpy as np
import pytest

from farsign_jax import InvalidConfig
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.session import SessionClosed
from tests.runtime.helpers import (
    D,
    K,
    M,
    answer_question,
    make_core,
    state_bytes,
    state_machine,
)


def test_an_answer_changes_x_as_in_the_simulator():
    log = []
    core = make_core(log=log.append)
    session, reply = core.join(1, None, 0.0)
    value = np.array([1, -2, 0, 3], np.float32)
    after = answer_question(core, session, reply.question, value, now=2.5)
    assert after.verdict == "accepted" and core.events == 1
    indices = core.machine.query(1, 0)
    expected = np.zeros(D, np.float32)
    expected[indices] -= np.float32(0.05) * np.sign(value)
    np.testing.assert_array_equal(core.machine.params, expected)
    np.testing.assert_array_equal(after.delta.values, expected[after.delta.indices])
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
def test_an_invalid_answer_changes_only_the_strikes(verdict, wrong):
    log = []
    core = make_core(log=log.append)
    session, reply = core.join(0, None, 0.0)
    answer_question(core, session, reply.question)
    session, reply = core.join(0, 1, 0.0)
    before = state_bytes(core)
    answer = answer_question(core, session, reply.question, wrong=wrong)
    assert answer.verdict == verdict and state_bytes(core) == before and len(log) == 1
    assert core.strikes.tolist() == [1, 0, 0]
    # The question stays open.
    assert answer.question == reply.question
    assert answer_question(core, session, reply.question).verdict == "accepted"


def test_an_answer_can_be_neither_repeated_nor_sent_in_a_later_session():
    core = make_core()
    session, first = core.join(0, None, 0.0)
    answer_question(core, session, first.question)
    before = state_bytes(core)
    assert answer_question(core, session, first.question).verdict == "nonce"
    rejoined, reply = core.join(0, None, 0.0)
    assert answer_question(core, rejoined, first.question).verdict == "nonce"
    assert state_bytes(core) == before
    assert answer_question(core, rejoined, reply.question).verdict == "accepted"


def test_nonces_are_unpredictable():
    drawn = {ServerCore.__init__.__kwdefaults__["nonce"]() for _ in range(100)}
    assert len(drawn) == 100 and max(drawn) > 2**56 and min(drawn) >= 0


def test_strikes_survive_the_session_and_the_last_one_excludes_the_worker():
    core = make_core(Limits(strikes=3, rate=1e6))
    for count in (1, 2):
        session, reply = core.join(1, None, 0.0)
        assert (
            answer_question(core, session, reply.question, wrong={"nonce": 99}).verdict
            == "nonce"
        )
        assert core.strikes[1] == count
        core.leave(session, "gone")
    session, reply = core.join(1, None, 0.0)
    with pytest.raises(SessionClosed, match="worker 1 has 3 strikes"):
        answer_question(core, session, reply.question, wrong={"nonce": 99})
    assert session.reason == "strikes" and 1 not in core.sessions
    with pytest.raises(SessionClosed, match="3 strikes"):
        core.join(1, None, 0.0)
    other, reply = core.join(2, None, 0.0)  # no other worker is affected
    assert answer_question(core, other, reply.question).verdict == "accepted"
    restarted = make_core(core.limits, strikes=core.strikes)
    with pytest.raises(SessionClosed):
        restarted.join(1, None, 0.0)


def test_a_new_session_replaces_the_old_one():
    core = make_core()
    old, question = core.join(0, None, 0.0)
    new, reply = core.join(0, None, 0.0)
    assert old.reason == "replaced" and core.sessions == {0: new}
    with pytest.raises(SessionClosed, match="replaced"):
        answer_question(core, old, question.question)
    assert answer_question(core, new, reply.question).verdict == "accepted"
    core.leave(old, "late")
    assert core.sessions == {0: new}


def test_a_fast_worker_waits_even_if_it_joins_again():
    core = make_core(Limits(rate=10, burst=3))
    session, reply = core.join(0, None, 0.0)
    waits = []
    for _ in range(5):
        reply = answer_question(core, session, reply.question, now=0.0)
        waits.append(reply.wait)
    np.testing.assert_allclose(waits, [0, 0, 0.1, 0.2, 0.3])
    session, reply = core.join(0, None, 0.0)
    assert reply.wait == pytest.approx(0.3)
    session, reply = core.join(0, None, 10.0)
    assert reply.wait == 0
    total = 0
    now = 10.0
    while now < 20.0:
        reply = answer_question(core, session, reply.question, now=now)
        now, total = now + reply.wait, total + 1
    assert total <= 10 * 10 + 3


def test_the_question_of_an_answer_beyond_the_staleness_bound_is_asked_again():
    core = make_core(Limits(rate=1e6, staleness=2))
    slow, late = core.join(0, None, 0.0)
    session, reply = core.join(1, None, 0.0)
    for _ in range(3):
        reply = answer_question(core, session, reply.question)
    before = state_bytes(core)
    repeated = answer_question(core, slow, late.question)
    assert repeated.verdict == "stale" and state_bytes(core) == before and core.strikes[0] == 0
    assert repeated.question.number == late.question.number == 0
    assert repeated.question.version == 3
    assert answer_question(core, slow, repeated.question).verdict == "accepted"


@pytest.mark.parametrize("d", [D, 1000])
def test_the_changes_since_any_version_yield_the_current_x(d):
    core = make_core(Limits(rate=1e6, history=5), machine=state_machine(d=d))
    rng = np.random.default_rng(0)
    session, reply = core.join(0, None, 0.0)
    seen = {0: core.machine.params.copy()}
    for version in range(1, 12):
        reply = answer_question(
            core, session, reply.question, rng.normal(size=K).astype(np.float32)
        )
        seen[version] = core.machine.params.copy()
        for have, x in seen.items():
            delta = core._history.since(have)
            if version - have > 5:
                assert delta.indices is None
            x = x.copy()
            x[slice(None) if delta.indices is None else delta.indices] = delta.values
            np.testing.assert_array_equal(x, core.machine.params)


def test_a_worker_with_an_unknown_version_receives_all_of_x():
    core = make_core()
    for have in (None, 10**9, -5):
        _, reply = core.join(0, have, 0.0)
        assert reply.delta.indices is None
        np.testing.assert_array_equal(reply.delta.values, core.machine.params)


@pytest.mark.parametrize("kind", ["numpy", "compiled"])
def test_a_restored_core_continues_with_the_same_bits(kind):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, K)).astype(np.float32)

    def go(core, values):
        for value, worker in zip(values, rng_workers, strict=False):
            session, reply = core.join(worker, None, 0.0)
            answer_question(core, session, reply.question, value)

    rng_workers = np.random.default_rng(2).integers(0, M, 20).tolist()
    uninterrupted = make_core(machine=state_machine(kind))
    go(uninterrupted, values[:20])
    kept = {name: a.copy() for name, a in uninterrupted.state_dict().items()}
    go(uninterrupted, values[20:])
    restored = make_core(machine=state_machine(kind))
    restored.restore(kept)
    go(restored, values[20:])
    assert state_bytes(restored) == state_bytes(uninterrupted)
    with pytest.raises(ValueError, match="averages"):
        make_core(machine=state_machine(kind, d=30)).restore(kept)


def test_errors_of_limits_contain_the_value_and_the_rule():
    for wrong in ({"strikes": 0}, {"rate": 0}, {"burst": 0.5}, {"history": 0}):
        (name, value), *_ = wrong.items()
        with pytest.raises(InvalidConfig, match=f"need {name} >= 1: got {value}"):
            Limits(**wrong)
