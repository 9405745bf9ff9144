"""The compiled update of a server and its NumPy version, which has the same bits."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    directions,
    step_sizes,
)
from farsign_jax.base import Report
from farsign_jax.methods import table_vote
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.runtime import numpy_floats, numpy_server, numpy_vote
from farsign_jax.runtime.numpy_server import NumpyServer
from farsign_jax.runtime.state_machine import CompiledServer, same_bits
from tests.runtime.helpers import (
    D,
    M,
    answer_question,
    make_core,
)

pytestmark = pytest.mark.optimized

SCHEDULES = {
    "constant": (0.07, 0.3),
    "one": (0.01, 1.0),
    "staircase": (step_sizes.staircase(0.07, 0.9, 50), step_sizes.staircase(0.5, 0.9, 50)),
    "theory": tuple(step_sizes.theory(order="first", pairs=9)[:2]),  # beta begins above 1
}


VOTES = [
    {"vote": "own"},
    {"vote": "majority_vote"},
    {"vote": "median", "max_age": 9},
    {"vote": "median", "age_decay": 0.9},
    {"vote": "trimmed_mean:f=1"},
    {"vote": "nnm:f=1+trimmed_mean:f=1", "max_age": 9},
    {"vote": "krum:f=1"},
]


@pytest.mark.parametrize("steps", SCHEDULES)
def test_numpy_has_the_bits_of_the_compiled_update(steps):
    same_as_compiled(steps, 2, {})


@pytest.mark.parametrize("options", VOTES, ids=str)
def test_votes_in_numpy_have_the_bits_of_the_compiled_update(options):
    same_as_compiled("staircase", 5, options)


@pytest.mark.parametrize("m", [2, 25, 33])
@pytest.mark.parametrize("k", [1, 16])
@pytest.mark.parametrize("vote", ["majority_vote", "median", "trimmed_mean:f={f}"])
def test_votes_on_numbers_that_nearly_cancel_have_the_signs_of_compiled_ones(m, k, vote):
    """The last bit of a sum, and numbers just above the smallest ones, decide."""
    vote = vote.format(f=(m - 1) // 4)
    table, state = table_vote.table_vote(m, 64, vote), numpy_vote.make(m, 64, {"vote": vote})
    compiled = jax.jit(table.result)
    rng, everyone = np.random.default_rng(m), np.zeros(m, np.int32)
    for trial in range(100):
        size = 1.0 if trial % 2 else 2.0**-125
        pairs = size * (1 + rng.integers(0, 8, (k, m)) * 2.0**-23) * rng.choice([-1, 1], (k, m))
        rows = pairs.astype(np.float32) * (rng.random((k, m)) < rng.choice([0.5, 1.0]))
        new = rows[:, 0].copy()
        state.restore({"heard": everyone})
        signs = np.sign(state.decide(0, rows.copy(), new, 0))
        expected = np.sign(compiled(table_vote.VoteState(everyone), rows.T, 0))
        np.testing.assert_array_equal(signs, expected)


def same_as_compiled(steps, m, options):
    """With random answers of all magnitudes, subnormal and overflowing ones included."""
    alpha, beta = SCHEDULES[steps]
    d, k, events = 40, 16, 3000
    sizes = {"step_size": alpha, "average_step": beta}
    rng = np.random.default_rng(len(steps))
    magnitudes = 10.0 ** rng.uniform(-45, 38, (events, k))
    values = (rng.normal(size=magnitudes.shape) * np.minimum(magnitudes, 3e37)).astype(
        np.float32
    )
    values[: 2 * events // 3] = rng.normal(size=(2 * events // 3, k))
    values[::7] = np.round(values[::7].clip(-99, 99))  # ties, zeros, cancellation
    x0 = rng.normal(size=d).astype(np.float32)
    x0[:4] = [1e-40, -1e-45, 0.0, -0.0]
    workers = rng.integers(0, m, events).astype(np.int32)
    dictionary = directions.identity(d, k)
    machine = NumpyServer(m, dictionary, x0, 0, **sizes, votes=options)
    chosen = np.stack([machine.query(w, n) for n, w in enumerate(workers.tolist())])
    for worker, indices, value in zip(workers.tolist(), chosen, values, strict=True):
        machine.update(worker, 0, indices, value)
    server = far_sign(m, dictionary, **sizes, vote=table_vote.table_vote(m, d, **options))

    def update(state, arrival):
        worker, indices, value = arrival
        report = Report(worker[None], jnp.zeros(1, jnp.int32), indices[None], value[None])
        return server.update(state, report)[0], None

    expected, _ = jax.jit(lambda s, arrivals: jax.lax.scan(update, s, arrivals))(
        server.init(jnp.asarray(x0)), (workers, chosen, values)
    )
    assert same_bits(machine.params, expected.params)
    assert same_bits(machine.averages.T, expected.averages)
    assert machine.differing(expected) == []
    again = NumpyServer(m, dictionary, x0, 0, **sizes, votes=options)
    again.restore(named_arrays_of(machine))
    for one in (machine, again):
        one.update(1, 0, chosen[0], values[0])
    assert same_state(again, machine)


def named_arrays_of(machine):
    return {name: np.array(array) for name, array in machine.state().items()}


def same_state(one, other):
    ours, theirs = one.state(), other.state()
    return ours.keys() == theirs.keys() and all(same_bits(ours[n], theirs[n]) for n in ours)


def test_multiply_add_is_rounded_once_even_if_the_f64_sum_is_halfway_between_two_f32():
    """a b + c differs from the midpoint of two f32 by less than f64 resolves."""
    one = np.float32(1)
    c = np.array([one, one, one, one], np.float32)
    # 1 + 2^-24 is halfway between 1 and its successor; a difference of 2^-60 decides.
    b = np.array([2.0**-24 * (1 + 2**-23), 2.0**-24, 2.0**-24 * (1 - 2**-24), 0], np.float32)
    got = numpy_floats.multiply_add(one, b, c)
    up = np.nextafter(one, np.float32(2))
    np.testing.assert_array_equal(got, [up, one, one, one])
    # A product of 48 bits, the last of which f64 cannot represent beside 2^30.
    a, b = np.float32(1 + 2**-23), np.array([2.0**6 * (1 + 2**-23)] * 2, np.float32)
    c = np.array([2.0**30, -(2.0**30)], np.float32)
    for x, y, z in zip([a, a], b, c, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [np.float32(float(exact))]
        near += [np.nextafter(near[0], np.float32(s)) for s in (-np.inf, np.inf)]
        best = min(near, key=lambda f: abs(Fraction(float(f)) - exact))
        got = numpy_floats.multiply_add(x, np.array([y]), np.array([z]))[0]
        assert abs(Fraction(float(got)) - exact) == abs(Fraction(float(best)) - exact)


def test_multiply_then_add_rounds_twice():
    rng = np.random.default_rng(0)
    a, b, c = np.float32(0.3), *rng.normal(size=(2, 999)).astype(np.float32)
    once, twice = numpy_floats.multiply_add(a, b, c), numpy_floats.multiply_then_add(a, b, c)
    np.testing.assert_array_equal(twice, a * b + c)
    assert 0 < (once != twice).mean() < 0.5
    assert numpy_server.uses_multiply_add() in (True, False)


def test_full_gradients_use_the_compiled_update():
    sgd = async_sgd(M, step_size=0.5)
    core = make_core(
        machine=CompiledServer(sgd, np.zeros(D, np.float32), 0, (D,), False), by_seed=False
    )
    session, reply = core.join(0, None, 0.0)
    assert reply.question.direction.shape == (0,)
    gradient = np.arange(D, dtype=np.float32)
    after = answer_question(core, session, reply.question, gradient)
    assert after.verdict == "accepted" and after.delta.indices is None
    np.testing.assert_array_equal(after.delta.values, -0.5 * gradient)
    assert answer_question(core, session, after.question, gradient[:-1]).verdict == "size"
