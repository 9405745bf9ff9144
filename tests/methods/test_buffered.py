"""BASGD's buffers against the paper written down in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import RunConfig, aggregators, attacks, directions, oracles, simulation
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


@pytest.mark.parametrize("message", ["dense", "scalar"])
def test_forward_differences_cost_one_evaluation_more_than_directions(message):
    config = RunConfig(method=f"cyber0:message={message}", directions=10)
    problem, _ = config.problem()
    forward = dataclasses.replace(config, method=f"cyber0:message={message},scheme=forward")
    assert config.system(problem).worker.evaluations == 20
    assert forward.system(problem).worker.evaluations == 11


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
        ({"reassign_after": -1}, "a whole number reassign_after >= 0: got -1"),
        ({"message": "scalar"}, "scalar messages need directions"),
        ({"message": "loud"}, "message is 'dense' or 'scalar': got 'loud'"),
        ({"aggregator": aggregators.krum(f=1)}, r"krum needs n >= 2f \+ 3: got n=3, f=1"),
    ],
)
def test_bad_configuration_is_refused(change, message):
    options = {"aggregator": aggregators.mean(), "buffers": 3, "step_size": 0.1} | change
    with pytest.raises(InvalidConfig, match=message):
        buffered(M, options.pop("aggregator"), **options)


def reassigning(workers, table, window):
    """Yields the table and the counts after each arrival, from the words of `reassignment`."""
    table, buffers = list(table), max(table) + 1
    counts, since = [0] * buffers, [0] * buffers
    answered, moved, emptied = {}, dict.fromkeys(range(len(table)), 0), 0
    for now, worker in enumerate(workers, 1):
        counts[table[worker]] += 1
        answered[worker] = now
        starving = [b for b in range(buffers) if not counts[b] and now - since[b] > window]
        active = [i for i in sorted(answered) if now - answered[i] <= window]
        free = [i for i in active if moved[i] <= emptied]
        if all(counts):
            counts, since, emptied = [0] * buffers, [now] * buffers, now
        elif starving and free:
            size = lambda b, active=active: sum(table[i] == b for i in active)  # noqa: E731
            giving = [
                b for b in range(buffers) if b in {table[i] for i in free} and size(b) > 1
            ]
            if giving:
                old, new = max(giving, key=size), starving[0]
                chosen = min((i for i in free if table[i] == old), key=lambda i: moved[i])
                table[chosen], moved[chosen] = new, now
                counts[old] = 0
                since[old] = since[new] = now
        yield list(table), list(counts)


def spoilt(rows, start=None, key=None):
    """As a rule: how many buffers have a positive number."""
    return jnp.sum(rows > 0, axis=0).astype(rows.dtype)


def advance(server, workers, values=None):
    """The states after each arrival, leaves [T, ...], in one program."""
    zeros = np.zeros(len(workers)) if values is None else values
    rows = jnp.asarray(np.broadcast_to(zeros[:, None, None], (len(workers), 1, D)), jnp.float32)

    def step(state, arrival):
        state, _ = server.update(state, reports(arrival[0][None], arrival[1]))
        return state, state

    order = jnp.asarray(workers, jnp.int32)
    return jax.lax.scan(step, server.init(jnp.zeros(D, jnp.float32)), (order, rows))[1]


def silent_at_times(rng, workers, count):
    """Arrivals; a random half of the workers is silent for a while, over and over."""
    return np.concatenate(
        [rng.choice(rng.permutation(workers)[: -(-workers // 2)], 40) for _ in range(count)]
    )


def test_reassignment_against_its_description_in_numpy():
    order = silent_at_times(np.random.default_rng(0), M, 15)
    server = buffered(M, aggregators.mean(), buffers=B, step_size=0.1, reassign_after=10)
    states = advance(server, order)
    truth = list(reassigning(order, np.arange(M) % B, 10))
    np.testing.assert_array_equal(states.assignment.slots, [table for table, _ in truth])
    np.testing.assert_array_equal(states.counts, [counts for _, counts in truth])
    moves = np.count_nonzero(np.diff(states.assignment.slots, axis=0))
    assert moves > 10
    with helpers.float64():  # integers keep their width
        assert jax.eval_shape(lambda: advance(server, order)).assignment.slots.dtype == np.int32


def test_a_buffer_of_silent_workers_stops_all_updates_without_reassignment_only():
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.integers(0, M, 60), rng.choice([0, 2, 3, 5, 6], 240)])
    options = {"buffers": B, "step_size": 0.1}  # 1 and 4, all workers of buffer 1, fall silent
    kept = advance(buffered(M, aggregators.mean(), **options), order)
    assert kept.assignment == () and kept.step[-1] - kept.step[60] <= 1
    given = advance(buffered(M, aggregators.mean(), **options, reassign_after=20), order)
    assert given.step[-1] - given.step[60] > 20
    assert set(np.asarray(given.assignment.slots)[-1][[0, 2, 3, 5, 6]]) == {0, 1, 2}
    empty = jnp.full(1, M, jnp.int32)  # an empty slot leaves no trace
    last = jax.tree.map(lambda leaf: leaf[-1], given)
    server = buffered(M, aggregators.mean(), **options, reassign_after=20)
    nothing = reports(empty, np.ones((1, D), np.float32))
    helpers.assert_same(jax.jit(server.update)(last, nothing)[0], last)


@pytest.mark.parametrize("flood", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_byzantine_workers_spoil_no_more_buffers_with_reassignment(flood):
    m, q, rng = 12, 2, np.random.default_rng(flood)
    order = silent_at_times(rng, m, 50)
    # Byzantine workers may also flood the server while others are silent.
    flooded = rng.random(len(order)) < 1 - 1 / flood
    order = np.where(flooded, rng.integers(0, q, len(order)), order)
    server = buffered(m, spoilt, buffers=5, step_size=0.1, reassign_after=25)
    states = advance(server, order, (order < q).astype(np.float32))
    dirty = np.asarray(states.aggregate)[:, 0][np.flatnonzero(np.diff(states.step)) + 1]
    assert np.count_nonzero(np.diff(states.assignment.slots, axis=0)[:, :q]) > 0  # are moved
    assert len(dirty) > 10 and dirty.max() == q


def test_byzantine_workers_who_stay_silent_delay_an_update_by_a_window_each():
    # Worker 0 is alone in buffer 0 and silent; those who are moved to it are Byzantine first.
    window, m, q = 10, 8, 3
    table = [0, 1, 1, 1, 1, 2, 2, 2]  # 1 and 2 are Byzantine, too
    server = buffered(
        m, aggregators.mean(), buffers=3, step_size=0.1, slots=table, reassign_after=window
    )
    update, state = jax.jit(server.update), server.init(jnp.zeros(D))
    ones, answers, gaps = np.ones((1, D), np.float32), 0, [0]
    for n in range(400):
        worker = 1 + n % (m - 1)
        if worker < q and int(state.assignment.slots[worker]) == 0:
            continue  # silent where it is needed
        state, _ = update(state, reports([worker], ones))
        answers += 1
        if int(state.step) == len(gaps):
            gaps.append(answers)
    assert len(gaps) > 10
    assert window < np.diff(gaps).max() <= (q + 1) * (window + 1) + m
