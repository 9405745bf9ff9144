"""BASGD's buffers against the paper written down in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import aggregators, attacks, directions, oracles, simulation
from farsign_jax.base import Report, System
from farsign_jax.methods.buffered import buffered
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference

M, D, B = 7, 5, 3


def reports(workers, values, version=0):
    workers = jnp.asarray(workers, jnp.int32)
    direction: object = ()
    return Report(workers, jnp.full_like(workers, version), direction, jnp.asarray(values))


def drive(server, workers, values):
    """One arrival per event; the states after each."""
    state = server.init(jnp.zeros(D))
    receive = jax.jit(server.update)
    states = []
    for worker, value in zip(workers, values, strict=True):
        state, _ = receive(state, reports([worker], value[None]))
        states.append(state)
    return states


@pytest.mark.parametrize("slots", [None, [0, 0, 0, 1, 1, 2, 2]])
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_against_the_paper_in_numpy(rule, slots):
    rng = np.random.default_rng(0)
    workers = rng.integers(0, M, 60)
    values = rng.normal(size=(60, D)).astype(np.float32)
    schedule = lambda n: 0.1 / (1.0 + jnp.asarray(n, jnp.float32))  # noqa: E731
    server = buffered(M, aggregators.make(rule), buffers=B, step_size=schedule, slots=slots)
    states = drive(server, workers, values)
    table = np.arange(M) % B if slots is None else np.asarray(slots)
    combine = {"mean": np.mean, "median": np.median}[rule]
    truth = reference.basgd(
        np.zeros(D), workers, values, table, lambda h: combine(h, axis=0), schedule
    )
    for state, (x, updates, counts) in zip(states, truth, strict=True):
        np.testing.assert_allclose(state.params, x, rtol=1e-5, atol=1e-6)
        assert int(state.step) == updates
        np.testing.assert_array_equal(state.counts, counts)
    assert updates > 5


def test_nothing_moves_until_no_buffer_is_empty_and_a_set_is_processed_one_by_one():
    server = buffered(M, aggregators.mean(), buffers=B, step_size=1.0)
    ones = np.ones((3, D), np.float32)
    states = drive(server, [0, 3, 1], ones)  # 0 and 3 share a buffer
    assert all(int(s.step) == 0 and not s.params.any() for s in states)
    after, _ = jax.jit(server.update)(states[-1], reports([2, 6], ones[:2]))
    assert int(after.step) == 1  # 2 fills the last buffer, 6 begins the next set
    np.testing.assert_array_equal(after.params, -1)
    np.testing.assert_array_equal(after.counts, [1, 0, 0])
    assert int(after.num_answers) == 5


def test_an_empty_slot_and_non_finite_numbers_leave_no_trace():
    server = buffered(M, aggregators.mean(), buffers=1, step_size=1.0)
    state = server.init(jnp.zeros(D))
    receive = jax.jit(server.update)
    after, _ = receive(state, reports([M], np.ones((1, D), np.float32)))
    helpers.assert_same(after, state)
    wild = np.asarray([[np.nan, np.inf, -np.inf, 3e38, -3e38]], np.float32)
    after, _ = receive(state, reports([0], wild))
    np.testing.assert_array_equal(after.params, [0, 0, 0, -1e6, 1e6])


def test_centered_clipping_starts_from_the_last_aggregate():
    rule = aggregators.make("centered_clipping", tau=1.0)
    server = buffered(2, rule, buffers=2, step_size=1.0)
    far = np.full((4, D), 10, np.float32)
    states = drive(server, [0, 1, 0, 1], far)
    lengths = [float(jnp.linalg.norm(s.aggregate)) for s in states]
    np.testing.assert_allclose(lengths, [0, 1, 1, 2], rtol=1e-5)


@pytest.mark.slow
def test_scalar_messages_share_directions_until_the_next_update():
    problem = helpers.quadratic()
    sphere = directions.sphere(problem.x0.size, 4)
    server = buffered(
        helpers.M,
        aggregators.median(),
        buffers=3,
        step_size=0.05,
        directions=sphere,
        message="scalar",
    )
    state, other = (server.init(problem.x0, jax.random.key(n)) for n in (0, 1))
    ask = lambda s, i: server.query(s, jnp.int32(i), jax.random.key(i)).direction  # noqa: E731
    np.testing.assert_array_equal(ask(state, 0), ask(state, 1))
    later = state._replace(step=state.step + 1)
    assert not np.array_equal(ask(state, 0), ask(later, 0))
    assert not np.array_equal(ask(state, 0), ask(other, 0))  # another run
    old = Report(jnp.zeros(1, jnp.int32), jnp.full(1, -1, jnp.int32), (), jnp.ones((1, 4)))
    after, _ = server.update(state, old)
    # Along other directions: not comparable. But time goes on.
    helpers.assert_same(after, state._replace(num_answers=after.num_answers))
    assert int(after.num_answers) == 1

    worker = oracles.random_two_point(problem, sphere, batch_size=8, message="scalar")
    system = System(server, worker, attacks.constant(50.0))
    order = np.random.default_rng(0).integers(0, helpers.M, 2000)
    measure = helpers.distance(problem)
    for delivery in simulation.DELIVERIES:
        _, records = simulation.run(
            problem, system, order, byzantine=1, measure=measure, delivery=delivery
        )
        assert records[-1]["distance"] < 0.3 * float(measure(problem.x0)["distance"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"buffers": 8}, "need buffers <= workers: got buffers=8, workers=7"),
        ({"buffers": 0}, "a whole number buffers >= 1: got 0"),
        ({"buffers": 2.5}, "a whole number buffers >= 1: got 2.5"),
        ({"slots": [0, 1.5, 2, 0, 0, 0, 0]}, "slots are m=7 whole numbers"),
        ({"byzantine": 2}, r"need buffers >= 2q \+ 1: got buffers=3, q=2"),
        ({"step_size": -1.0}, "finite step_size > 0: got -1.0"),
        ({"slots": [0, 0, 0, 0, 0, 0, 0]}, r"every buffer needs a worker: none is in \[1, 2\]"),
        ({"slots": [0, 1, 3]}, "slots are m=7 whole numbers 0..2"),
        ({"message": "scalar"}, "scalar messages need directions"),
        ({"message": "loud"}, "message is 'dense' or 'scalar': got 'loud'"),
        ({"aggregator": aggregators.krum(f=1)}, r"krum needs n >= 2f \+ 3: got n=3, f=1"),
    ],
)
def test_bad_configuration_is_refused(change, message):
    options = {"aggregator": aggregators.mean(), "buffers": 3, "step_size": 0.1} | change
    with pytest.raises(InvalidConfig, match=message):
        buffered(M, options.pop("aggregator"), **options)
