"""The event loop: the same conversation in a compiled loop, in Python and by hand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import arrivals, attacks, keys, simulation
from farsign_jax.base import System, Worker
from tests import helpers, reference

M = helpers.M
PROBLEM = helpers.quadratic()
EVENTS = 60  # of almost all runs, so that few programs are compiled


@functools.cache
def system_of(attack, **options):
    """One object for all tests: what is compiled for it is compiled once."""
    return helpers.far_sign_system(PROBLEM, attacks.make(attack, **options))


def schedule(events=EVENTS, size=None, seed=1):
    key = jax.random.key(seed)
    if size is None:
        return arrivals.uniform(key, M, events)
    return arrivals.sets(key, M, events, size)


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("delivery", "size", "attack"),
    # Attacks with a key, and omniscient ones with a state; the programs of other tests.
    [
        ("fresh", None, "gaussian"),
        pytest.param("fresh", 3, "mimic", marks=helpers.LONG),
        pytest.param("outstanding:3", 3, "mimic", marks=pytest.mark.slow),
    ],
)
def test_scan_and_python_loop_agree_bitwise(delivery, size, attack, key_reuse_checked):
    options = {"byzantine": 2, "delivery": delivery, "seed": 3}
    ends = [
        simulation.run(
            PROBLEM, system_of(attack), schedule(EVENTS, size), debug=debug, **options
        )[0]
        for debug in (False, True)
    ]
    helpers.assert_same(*ends)


@pytest.mark.slow
@pytest.mark.parametrize("delivery", simulation.DELIVERIES)
def test_segments_change_nothing(delivery):
    system = system_of("mimic", warmup=5)
    options = {"byzantine": 2, "delivery": delivery}
    at_once, _ = simulation.run(PROBLEM, system, schedule(), **options)
    parts, records = simulation.run(PROBLEM, system, schedule(), every=20, **options)
    helpers.assert_same(at_once, parts)
    assert [record["event"] for record in records] == [20, 40, 60]


def test_a_second_run_compiles_nothing():
    system = system_of("gaussian")
    simulation.run(PROBLEM, system, schedule(), byzantine=2)
    with helpers.compilations() as compiled:
        simulation.run(PROBLEM, system, schedule(seed=9), byzantine=3, seed=7)
    assert compiled == []


def test_one_arrival_is_a_set_of_one():
    system, single = system_of("mimic", warmup=5), schedule()
    a, _ = simulation.run(PROBLEM, system, single, byzantine=2)
    b, _ = simulation.run(PROBLEM, system, single[:, None], byzantine=2)
    helpers.assert_same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["fresh", "outstanding:3"])
def test_padding_of_a_set_changes_nothing(delivery):
    system = system_of("mimic")  # which remembers reports
    sets = schedule(EVENTS, 3)
    padded = np.concatenate([sets[:, :1], np.full((EVENTS, 1), -1), sets[:, 1:]], axis=1)
    assert arrivals.check_workers([[-1, -1], [0, -1]], M).shape == (
        2,
        2,
    )  # an event may be empty
    options = {"byzantine": 2, "delivery": delivery}
    a, _ = simulation.run(PROBLEM, system, sets, **options)
    b, _ = simulation.run(PROBLEM, system, padded, **options)
    helpers.assert_same(a.server.averages, b.server.averages)
    helpers.assert_same(a.server.counts, b.server.counts)
    helpers.assert_same(a.attack[1], b.attack[1])
    # The moves of one event are added in another order, so x may differ in the last bit.
    np.testing.assert_allclose(a.server.params, b.server.params, rtol=1e-5, atol=1e-6)
    assert int(a.server.counts.sum()) == 3 * EVENTS


def test_fresh_events_are_the_paper_in_numpy():
    """Every answer of the run is computed again outside of it, for the NumPy reference."""
    problem = helpers.quadratic()
    k, seed, events = 3, 5, 40
    system = helpers.far_sign_system(problem, attacks.sign_flip(4.0), k=k)
    order = schedule(events)
    roles = keys.split(seed)
    state = system.server.init(problem.x0)
    x, y = np.asarray(problem.x0), np.asarray(state.averages)
    respond, query = jax.jit(system.worker.respond), jax.jit(system.server.query)
    for n, worker in enumerate(order):
        i = jnp.asarray(worker)
        question = query(state, i, keys.message(roles.queries, i, jnp.asarray(n)))
        key = keys.message(roles.batches, i, jnp.asarray(n))
        _, value = respond((), question, problem.shard(i), key)
        value = np.asarray(value) * (-4 if worker < 2 else 1)
        answers = [(worker, np.asarray(question.direction), value)]
        x, y = reference.far_sign_event(x, y, answers, 0.05, 0.3)
        state = state._replace(params=jnp.asarray(x), step=jnp.asarray(n + 1, jnp.int32))
    got, _ = simulation.run(problem, system, order, byzantine=2, seed=seed)
    np.testing.assert_allclose(got.server.params, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.server.averages, y, rtol=1e-4, atol=1e-4)


def test_outstanding_answers_are_as_stale_as_the_schedule_says():
    system, order = system_of("gaussian"), schedule()
    _, records = simulation.run(PROBLEM, system, order, delivery="outstanding", every=1)
    want = np.maximum.accumulate(reference.staleness(order.tolist()))
    assert [record["staleness"] for record in records] == want.tolist()
    _, fresh = simulation.run(PROBLEM, system, order)
    assert fresh[-1]["staleness"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3])
def test_outstanding_answers_are_about_the_iterate_that_was_asked(depth):
    """A worker that answers with the iterate itself returns the one it was sent."""
    problem = helpers.quadratic()
    inner = helpers.far_sign_system(problem)
    seen = []

    def update(state, reports):
        new, info = inner.server.update(state, reports)
        return new, info | {"version": reports.version[0], "x": reports.value[0]}

    worker = Worker(
        lambda shard: (), lambda s, query, shard, key: (s, query.params[query.direction]), 0
    )
    system = System(inner.server._replace(update=update), worker, attacks.none())
    order = schedule(30)
    keyring = keys.split(0)
    delivery = f"outstanding:{depth}"
    run = simulation.start(system, problem, keyring, delivery)
    iterates = [run.server.params]
    byzantine = jnp.zeros(M, bool)

    @jax.jit
    def event(run, who):
        return simulation.event(system, problem, byzantine, keyring, delivery, run, who)

    for i in order:
        before, oldest = run.inbox, run.staleness.answers[i] % depth
        run, info = event(run, jnp.asarray(i))
        assert int(info["nonfinite"]) == 0
        iterates.append(run.server.params)
        asked = iterates[int(info["version"])]
        np.testing.assert_array_equal(info["x"], asked[before.direction[i, oldest]])
        seen.append(int(info["version"]))
    assert max(np.arange(30) - seen) > 1


@pytest.mark.slow
def test_worker_states_advance_only_for_those_that_answer():
    problem = helpers.quadratic()
    inner = helpers.far_sign_system(problem)

    def respond(state, query, shard, key):
        _, value = inner.worker.respond((), query, shard, key)
        return state + 1, value

    counting = Worker(lambda shard: jnp.zeros((), jnp.int32), respond)
    order = schedule(40, 2)
    system = inner._replace(worker=counting)
    received = np.bincount(order.ravel(), minlength=M)
    for delivery in ("fresh", "outstanding:3"):  # some are still under way
        state, _ = simulation.run(problem, system, order, delivery=delivery)
        np.testing.assert_array_equal(state.workers, received + simulation.depth(delivery))
        np.testing.assert_array_equal(state.staleness.answers, received)


@pytest.mark.slow
@pytest.mark.parametrize("delivery", simulation.DELIVERIES)
def test_questions_differ_even_if_the_iterate_does_not_move(delivery):
    """A server that buffers keeps `step` for many events: every answer must be a new draw."""
    problem = helpers.quadratic()
    inner = helpers.far_sign_system(problem)

    def update(state, reports):
        count, table = state.counts, state.averages
        slot = count.sum() % table.shape[0]
        table = table.at[slot, :3].set(reports.value[0])
        return state._replace(averages=table, counts=count.at[0].add(1)), {}

    system = inner._replace(server=inner.server._replace(update=update))
    order = np.zeros(6, np.int32)
    state, _ = simulation.run(problem, system, order, delivery=delivery)
    values = np.asarray(state.server.averages[:6, :3])
    assert int(state.server.step) == 0 and int(state.events) == 6
    assert len(np.unique(values, axis=0)) == 6


def test_a_run_depends_on_its_seed_and_only_on_it():
    system = system_of("gaussian")
    a, b, c = (
        simulation.run(PROBLEM, system, schedule(), byzantine=2, seed=s)[0] for s in (0, 0, 1)
    )
    helpers.assert_same(a, b)
    assert not np.array_equal(a.server.params, c.server.params)


def test_roles_draw_from_keys_of_their_own():
    roles = keys.split(0)
    data = {jax.random.key_data(key).tobytes() for key in roles}
    assert len(data) == len(roles)
    message = keys.message(roles.queries, jnp.asarray(3), jnp.asarray(5))
    swapped = keys.message(roles.queries, jnp.asarray(5), jnp.asarray(3))
    assert jax.random.key_data(message).tobytes() != jax.random.key_data(swapped).tobytes()


def test_generators_of_a_role_are_made_in_one_place_and_differ():
    key = keys.split(0).schedule
    first = [int(rng.integers(2**63)) for rng in keys.host_rngs(key, 5)]
    assert len(set(first)) == 5
    assert first == [int(helpers.stream(key, n).integers(2**63)) for n in range(5)]
    package = pathlib.Path(keys.__file__).parent
    texts = {path.name: path.read_text() for path in package.rglob("*.py")}
    makers = [n for n, text in texts.items() if "key_data" in text and "default_rng" in text]
    assert makers == ["keys.py"]


def test_the_start_of_a_problem_is_left_alone():
    """The loop donates its buffers; x0 is not among them."""
    x0 = np.asarray(PROBLEM.x0).copy()
    for _ in range(2):
        simulation.run(PROBLEM, system_of("gaussian"), schedule())
        np.testing.assert_array_equal(PROBLEM.x0, x0)


def test_an_empty_schedule_leaves_the_start():
    state, records = simulation.run(PROBLEM, system_of("gaussian"), schedule(0))
    helpers.assert_same(state.server.params, PROBLEM.x0)
    assert records == []
