"""Runs on schedules with a clock, against a discrete-event simulation in NumPy."""

import collections
import functools
import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    arrivals,
    keys,
    simulation,
)
from farsign_jax.base import Query
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference
from tests.helpers import at_wall, stream
from tests.simulation.fleets import (
    ALPHA,
    BETA,
    EVENTS,
    EVERY,
    FLEETS,
    PROBLEM,
    D,
    M,
    derivative_system,
    first,
    history,
)


@functools.cache
def ask_and_answer():
    """Compiled functions that ask one question and answer it."""
    system = derivative_system()
    roles = keys.split(5)

    @jax.jit
    def ask(x, i, number):
        state = system.server.init(x)
        return system.server.query(state, i, keys.message(roles.queries, i, number)).direction

    @jax.jit
    def answer(x, direction, i, number):
        query = Query(x, i, direction, jnp.zeros((), jnp.int32))
        key = keys.message(roles.batches, i, number)
        return system.worker.respond((), query, PROBLEM.shard(i), key)[1]

    return ask, answer


def discrete_events(fleet, num_events, byzantine, depth=1):
    """Yields worker, staleness, x and y of each event.

    A question keeps a copy of x; its answer is made of this copy when it is delivered.
    """
    ask, answer = ask_and_answer()
    x, y = np.asarray(PROBLEM.x0), np.zeros((M, D), np.float32)
    rngs = [stream(jax.random.key(3), i) for i in range(M)]
    work, given, heap = [0.0] * M, [0] * M, []
    questions = [collections.deque() for _ in range(M)]  # oldest first

    def send(i, number):
        copy = x.copy()
        questions[i].append((copy, np.asarray(ask(copy, i, number)), number))

    def begin(i):
        work[i] += float(fleet[i].draw(rngs[i], given[i], 1)[0])
        time = at_wall(fleet[i].windows, work[i])
        if time < np.inf:
            heapq.heappush(heap, (time, given[i], i))
        given[i] += 1

    for i in range(M):
        for number in range(depth):
            send(i, -number)
        begin(i)
    for n in range(num_events):
        _, _, i = heapq.heappop(heap)
        copy, direction, number = questions[i].popleft()
        value = np.asarray(answer(copy, direction, i, number))
        answers = [(i, direction, -value if i < byzantine else value)]
        x, y = reference.far_sign_event(x, y, answers, ALPHA(n), BETA(n))
        yield i, n - max(number, 0), x, y
        send(i, n + 1)  # asked anew, at the x that its own answer has just moved
        begin(i)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("lognormal", 3), *helpers.slow((name, 1) for name in FLEETS)],
)
def test_outstanding_delivery_is_a_discrete_event_simulation(name, depth):
    fleet = FLEETS[name]
    schedule = arrivals.by_time(jax.random.key(3), fleet, EVENTS)
    system = derivative_system("sign_flip")
    delivery = "outstanding" if depth == 1 else f"outstanding:{depth}"
    _, servers, info = history(system, PROBLEM, schedule.workers, first(2), delivery, 5)
    for n, (i, stale, x, y) in enumerate(discrete_events(fleet, EVENTS, 2, depth)):
        assert i == schedule.workers[n]
        assert stale == info["staleness"][n, 0], n
        np.testing.assert_allclose(servers.params[n], x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(servers.averages[n], y, rtol=1e-4, atol=1e-4)
    if depth > 1:
        return
    options = {"byzantine": 2, "seed": 5, "delivery": delivery, "every": EVERY}
    got, records = simulation.run(PROBLEM, system, schedule, **options)
    np.testing.assert_allclose(got.server.params, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.server.averages, y, rtol=1e-4, atol=1e-4)
    assert records[-1]["staleness"] == int(info["staleness"].max())
    assert records[-1]["virtual_seconds"] == schedule.times[-1]


def test_a_schedule_from_a_file_replays_the_run_bit_by_bit(tmp_path):
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["timing_attack"], EVENTS)
    arrivals.save(tmp_path / "schedule.npz", schedule)
    again = arrivals.load(tmp_path / "schedule.npz")
    options = {"byzantine": 2, "delivery": "outstanding", "every": EVERY}
    system = derivative_system("sign_flip")
    (a, first_records), (b, records) = (
        simulation.run(PROBLEM, system, s, **options) for s in (schedule, again)
    )
    helpers.assert_same(a, b)
    assert [r["virtual_seconds"] for r in records] == schedule.times[[49, 99]].tolist()
    for one, other in zip(first_records, records, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    # A run depends on who arrives alone; a schedule without times has no clock.
    c, records = simulation.run(PROBLEM, system, schedule.workers, **options)
    helpers.assert_same(a, c)
    assert all("virtual_seconds" not in r for r in records)


def test_a_trace_drives_a_run(tmp_path):
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["pareto"], EVENTS)
    pairs = zip(schedule.times.tolist(), schedule.workers.tolist(), strict=True)
    text = "".join(f"{time!r},{worker}\n" for time, worker in pairs)
    (tmp_path / "trace.csv").write_text("time,worker\n" + text)
    trace = arrivals.trace(tmp_path / "trace.csv", M)
    options = {"delivery": "outstanding", "every": EVERY}
    (a, _), (b, _) = (
        simulation.run(PROBLEM, derivative_system("sign_flip"), s, **options)
        for s in (schedule, trace)
    )
    helpers.assert_same(a, b)


def test_times_that_do_not_fit_raise_before_the_loop():
    system = derivative_system("sign_flip")
    for times, message in (
        ([0.0], "one time per event"),
        ([1.0, 0.5], "times ascend: event 1"),
        ([0.0, np.nan], "finite and >= 0: event 1"),
        ([-1.0, 0.0], "finite and >= 0: event 0"),
    ):
        with helpers.compilations() as compiled, pytest.raises(InvalidConfig, match=message):
            schedule = arrivals.Schedule(np.array([0, 1]), np.array(times))
            simulation.run(PROBLEM, system, schedule)
        assert compiled == []


@pytest.mark.parametrize("delivery", ["outstanding:0", "outstanding:-1", "outstanding:x", ""])
def test_unknown_deliveries_raise(delivery):
    with pytest.raises(
        InvalidConfig, match="outstanding:L or inconsistent:L with 0 < L < 65536"
    ):
        simulation.run(PROBLEM, derivative_system("sign_flip"), [0, 1], delivery=delivery)
