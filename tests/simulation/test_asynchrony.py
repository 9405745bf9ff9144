"""Runs on schedules with a clock, against a discrete-event simulation in NumPy."""

import collections
import functools
import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    aggregators,
    arrivals,
    attacks,
    directions,
    keys,
    oracles,
    simulation,
    step_sizes,
)
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.base import Problem, Query, Report, System
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.buffered import buffered
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.methods.sgd import sgd
from farsign_jax.problems.synthetic import _quadratic_losses
from farsign_jax.validation import InvalidConfig
from tests import helpers, reference
from tests.helpers import at_wall, stream

M, D, K = helpers.M, helpers.D, 3
ALPHA, BETA = step_sizes.staircase(0.05, 0.8, 10), step_sizes.power(0.9, 0.3)
PROBLEM = helpers.quadratic()
GRADIENT = oracles.stochastic_gradient(PROBLEM.losses, batch_size=8)
EXP = delays.exponential()


@functools.cache
def derivative_system(attack="none", **options):
    """FAR-SIGN along coordinates; exact derivatives, as differences would round too much."""
    dictionary = directions.identity(D, K)
    server = far_sign(M, dictionary, **{"step_size": ALPHA, "average_step": BETA} | options)
    worker = oracles.directional_derivative(PROBLEM.losses, dictionary, batch_size=8)
    return System(server, worker, attacks.make(attack))


@functools.partial(jax.jit, static_argnames=("system", "delivery"))
def history(system, problem, schedule, lies, delivery="outstanding", seed=0):
    """The end of a run, and the server and the info after each event."""
    roles = keys.split(seed)

    def step(run, workers):
        run, info = simulation.event(system, problem, lies, roles, delivery, run, workers)
        return run, (run.server, info)

    begin = simulation.start(system, problem, roles, delivery)
    end, (servers, info) = jax.lax.scan(step, begin, schedule)
    return end, servers, info


def first(count):
    return jnp.arange(M) < count


FLEETS = {
    "deterministic": [delays.deterministic().at_speed(1.0 + i) for i in range(M)],
    "in_step": [delays.deterministic()] * M,
    "exponential": [EXP] * M,
    "lognormal": [delays.lognormal(sigma=1.5)] * M,
    "pareto": [delays.pareto(1.5).at_speed(2.0**-i) for i in range(M)],
    "pareto_infinite_mean": [delays.pareto(0.7)] * M,
    "bimodal": [delays.bimodal(slow=20.0, share=0.2)] * M,
    "windows": [
        EXP.within((0, 2), (6, np.inf)), EXP.within((0, 3)), EXP.within((4, np.inf)),
        EXP.within(), *[EXP.within((1, 2), (3, 99))] * 3,
    ],
    "timing_attack": [
        timing.flood(EXP), timing.max_stale(EXP, 4.0), timing.burst(EXP, 2.0, 4),
        timing.withhold(EXP, 3.0), *[EXP] * 3,
    ],
}  # fmt: skip
EVENTS, EVERY = 100, 50  # of almost all runs, so that few programs are compiled


@functools.cache
def lines():
    """What is asked and what is answered, one conversation at a time."""
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


def discrete_events(fleet, num_events, liars, depth=1):
    """Yields worker, staleness, x and y of each event.

    A question keeps a copy of x; its answer is made of this copy when it is delivered.
    """
    ask, answer = lines()
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
        heard = [(i, direction, -value if i < liars else value)]
        x, y = reference.far_sign_event(x, y, heard, ALPHA(n), BETA(n))
        yield i, n - max(number, 0), x, y
        send(i, n + 1)  # asked anew, at the x that its own answer has just moved
        begin(i)


@pytest.mark.parametrize(("name", "depth"), [*((name, 1) for name in FLEETS), ("lognormal", 3)])
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
    # Who is heard is all that the run depends on; a schedule without times has no clock.
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


# Staleness.


def stale_by_hand(sets, depth, updates):
    """(worker, staleness) of every answer; `updates[n]` counts those before event n."""
    asked = [[0] * depth for _ in range(M)]
    out = []
    for n, workers in enumerate(sets):
        present = [i for i in np.atleast_1d(workers).tolist() if i >= 0]
        out += [(i, updates[n] - asked[i].pop(0)) for i in present]
        for i in present:
            asked[i].append(updates[n + 1])
    return out


def histogram_by_hand(said):
    table = np.zeros((M, 32), int)
    for i, stale in said:
        edge = 0
        while stale >= 2**edge:  # 0 | 1 | 2, 3 | 4 .. 7 | ...
            edge += 1
        table[i, edge] += 1
    return table


@functools.cache
def buffered_system(slots=None):
    server = buffered(M, aggregators.mean(), buffers=3, step_size=0.05, slots=slots)
    return System(server, GRADIENT, attacks.none())


@pytest.mark.parametrize(
    ("kind", "delivery"),
    [("single", "outstanding"), ("single", "outstanding:3"), ("buffered", "outstanding")]
    + [("sets", "fresh"), ("sets", "outstanding:3")],
)
def test_the_staleness_of_each_worker_is_kept(kind, delivery):
    key = jax.random.key(3)
    if kind == "sets":  # some empty slots, some empty rounds
        schedule = arrivals.rounds(key, FLEETS["pareto"], EVENTS, participation=0.3)
    else:
        schedule = arrivals.by_time(key, FLEETS["lognormal"], EVENTS)
    system = buffered_system() if kind == "buffered" else derivative_system("sign_flip")
    end, servers, info = history(system, PROBLEM, schedule.workers, first(0), delivery)
    updates = [0, *np.asarray(servers.step).tolist()]
    if kind == "buffered":
        assert 5 < updates[-1] < EVENTS / 2  # several answers for each update
    depth = simulation.depth(delivery)
    workers, stale = np.atleast_2d(schedule.workers.T).T, np.asarray(info["staleness"])
    present = workers >= 0
    assert np.all(stale[~present] == -1)
    said = list(zip(workers[present].tolist(), stale[present].tolist(), strict=True))
    if depth:
        assert said == stale_by_hand(schedule.workers, depth, updates)
    else:
        assert not stale[present].any()
    got = end.staleness
    values = [[s for i, s in said if i == worker] for worker in range(M)]
    assert got.answers.tolist() == [len(v) for v in values]
    assert got.largest.tolist() == [max(v, default=0) for v in values]
    squares = [np.mean(np.square(v, dtype=np.float64)) if v else 0.0 for v in values]
    np.testing.assert_allclose(got.mean_square, squares, rtol=1e-5, atol=0)
    np.testing.assert_array_equal(got.histogram, histogram_by_hand(said))


def test_more_open_questions_are_staler_in_proportion():
    """In step, all the others are heard between question and answer; L times with L open."""
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["in_step"], EVENTS)
    for delivery, largest in (("outstanding", M - 1), ("outstanding:3", 3 * M - 1)):
        end, _, info = history(
            derivative_system("sign_flip"), PROBLEM, schedule.workers, first(0), delivery
        )
        assert end.staleness.largest.tolist() == [largest] * M
        assert np.all(np.asarray(info["staleness"])[3 * M :] == largest)


# Uneven arrivals.


def split_problem(fast=3):
    """(x - c_i)^2 / 2 in each of four coordinates: c is +1 for the first workers, else -1."""
    centers = np.repeat(np.where(np.arange(M) < fast, 1.0, -1.0), 2)
    centers = np.broadcast_to(centers[:, None], (2 * M, 4)).astype(np.float32)
    ones = np.ones_like(centers)
    return Problem(
        data=tuple(map(jnp.asarray, (ones, centers, 0 * ones))),
        rows=jnp.arange(2 * M, dtype=jnp.int32).reshape(M, 2),
        sizes=jnp.full((M,), 2, jnp.int32),
        x0=jnp.zeros(4),
        losses=_quadratic_losses,
    )


SPLIT, ALIKE = split_problem(), split_problem(fast=0)
WHOLE = directions.identity(4, 4)
DERIVATIVE = oracles.directional_derivative(_quadratic_losses, WHOLE, batch_size=1)
SPEEDS = np.where(np.arange(M) < 3, 10.0, 1.0)


@functools.cache
def weighing_system(rates=None, cap=None):
    rates = SPEEDS if rates == "known" else rates
    options = {"arrival_rates": rates, "rate_cap": cap}
    server = far_sign(M, WHOLE, step_size=0.005, average_step=0.9, **options)
    return System(server, DERIVATIVE, attacks.sign_flip())


def end_of(problem, speeds, liars=0, **options):
    fleet = [EXP.at_speed(speed) for speed in speeds]
    schedule = arrivals.by_time(jax.random.key(4), fleet, 6000)
    end, *_ = history(weighing_system(**options), problem, schedule.workers, first(liars))
    return np.asarray(end.server.params), end


def test_weights_give_the_slow_their_say():
    """Three fast workers want +1, four slow ones -1: without weights, speed decides."""
    assert np.all(np.abs(end_of(SPLIT, SPEEDS)[0] - 1) < 0.1)
    for rates in ("known", "estimate"):
        x, _ = end_of(SPLIT, SPEEDS, rates=rates)
        assert np.all(np.abs(x + 1) < 0.3)


@pytest.mark.parametrize(
    ("liars", "options"),
    # Liars at their cap have q * cap votes against m - q: two of seven, but not three.
    [(3, {"rates": "estimate"}), (2, {"cap": 1.5})],
)
def test_liars_that_flood_win_unless_their_answers_are_weighed_or_counted(liars, options):
    """All honest workers want -1; liars answer ten times as often, and lie."""
    flood = np.where(np.arange(M) < liars, 10.0, 1.0)
    astray, _ = end_of(ALIKE, flood, liars)
    assert np.all(astray > 1)
    x, end = end_of(ALIKE, flood, liars, **options)
    assert np.all(np.abs(x + 1) < 0.4)
    if "cap" in options:
        counts, answered = np.asarray(end.server.counts), np.asarray(end.staleness.answers)
        np.testing.assert_array_equal(counts[liars:], answered[liars:])  # all of the honest
        assert counts.sum() == int(end.server.step) < 6000 == int(end.events)
        # The median of counts is that of an honest worker, and nobody is far ahead of it.
        most = counts[liars:].max()
        assert np.all(counts[:liars] <= 10 + options["cap"] * most + 1)
        assert np.all(answered[:liars] > 5 * most)


def random_sets(events, size, seed=0):
    """Uneven arrivals in sets, some slots empty, some events without anybody."""
    rng = np.random.default_rng(seed)
    share = np.array([30.0, 20.0, 10.0, 1.0, 1.0, 1.0, 0.5])
    rows = [rng.choice(M, size, replace=False, p=share / share.sum()) for _ in range(events)]
    return np.where(rng.random((events, size)) < 0.2, -1, np.stack(rows))


@pytest.mark.parametrize(("size", "rank"), [(1, None), (3, 5), (3, M)])
def test_the_cap_is_the_rule_it_says(size, rank):
    cap, ahead = 1.5, 4
    dictionary = directions.identity(D, K)
    options = {"rate_cap": cap, "cap_rank": rank, "cap_burst": ahead}
    server = far_sign(M, dictionary, step_size=ALPHA, average_step=BETA, **options)
    update = jax.jit(server.update)
    rng = np.random.default_rng(1)
    state = server.init(jnp.asarray(rng.normal(size=D), jnp.float32))
    x, y = np.asarray(state.params), np.asarray(state.averages)
    counts, events, dropped = [0] * M, 0, 0
    for workers in random_sets(150, size):
        asked = np.stack([rng.choice(D, K, replace=False) for _ in workers])
        value = rng.normal(size=(size, K)).astype(np.float32)
        slots = np.where(workers < 0, M, workers).astype(np.int32)
        said = map(jnp.asarray, (slots, 0 * slots, asked.astype(np.int32), value))
        before, (state, _) = state, update(state, Report(*said))
        level = sorted(counts, reverse=True)[M // 2 if rank is None else rank - 1]
        valid = [s for s, i in enumerate(workers) if i >= 0 and counts[i] < ahead + cap * level]
        dropped += int((workers >= 0).sum()) - len(valid)
        for s in valid:
            counts[workers[s]] += 1
        assert state.counts.tolist() == counts
        if not valid:
            helpers.assert_same(before, state)  # as if it had not answered
            continue
        heard = [(workers[s], asked[s], value[s]) for s in valid]
        x, y = reference.far_sign_event(x, y, heard, ALPHA(events), BETA(events))
        events += 1
        assert int(state.step) == events
        np.testing.assert_allclose(state.params, x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.averages, y, rtol=1e-5, atol=1e-6)
    assert dropped > 20


def test_a_cap_that_nobody_reaches_changes_no_bit():
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["timing_attack"], EVENTS)
    ends = [
        history(derivative_system("sign_flip", **options), PROBLEM, schedule.workers, first(2))
        for options in ({}, {"rate_cap": 2.0, "cap_burst": 10**6})
    ]
    helpers.assert_same(*ends)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_cap": 0.5}, "rate_cap >= 1 or None: got 0.5"),
        ({"rate_cap": -1.0}, "rate_cap >= 1 or None: got -1"),
        ({"rate_cap": float("nan")}, "rate_cap >= 1 or None: got nan"),
        ({"rate_cap": float("inf")}, "rate_cap >= 1 or None: got inf"),
        ({"rate_cap": 2.0, "cap_rank": 0}, f"1 <= cap_rank <= m={M}: got 0"),
        ({"rate_cap": 2.0, "cap_rank": M + 1}, f"1 <= cap_rank <= m={M}: got {M + 1}"),
        ({"rate_cap": 2.0, "cap_burst": 0}, "cap_burst >= 1: got 0"),
        ({"arrival_rates": [1.0] * 6 + [np.nan]}, "must be positive"),
        ({"arrival_rates": [1.0] * 6 + [0.0]}, "must be positive"),
        ({"arrival_rates": "known"}, "'estimate' or m rates: got 'known'"),
        ({"arrival_rates": [1.0] * 6 + [np.inf]}, "arrival rates must be"),
        ({"arrival_rates": "estimate", "max_weight": -1.0}, "max_weight"),
        ({"arrival_rates": "estimate", "max_weight": float("nan")}, "max_weight"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(InvalidConfig, match=message):
        far_sign(M, WHOLE, step_size=0.1, average_step=0.5, **options)


# Attacks on time and on memory.


@pytest.mark.parametrize("delivery", ["fresh", "outstanding"])
def test_replay_freezes_what_far_sign_remembers_of_a_liar(delivery):
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["exponential"], EVENTS)
    system = derivative_system("replay", average_step=0.5)
    _, servers, _ = history(system, PROBLEM, schedule.workers, first(2), delivery)
    y = np.asarray(servers.averages)
    settled = y[:-1] != 0  # once heard
    moved = (y[1:] != y[:-1]) & settled
    assert settled[-1, :2].sum() > 10
    assert not moved[:, :2].any() and moved[:, 2:].any(axis=(0, 2)).all()
    # The first answer was the truth: the same as in a run in which nobody lies.
    _, honest, _ = history(system, PROBLEM, schedule.workers, first(0), delivery)
    n = int(np.argmax(np.isin(schedule.workers, (0, 1))))
    assert y[n, :2].any()
    np.testing.assert_array_equal(y[n], honest.averages[n])


def test_replay_repeats_the_first_gradient_for_ever():
    inner = async_sgd(M, step_size=0.02)

    def update(state, reports):
        new, info = inner.update(state, reports)
        return new, info | {"said": reports.value[0]}

    system = System(inner._replace(update=update), GRADIENT, attacks.make("replay"))
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["exponential"], EVENTS)
    _, _, info = history(system, PROBLEM, schedule.workers, first(2))
    for i in range(M):
        said = np.asarray(info["said"])[schedule.workers == i]
        assert len(said) > 5 and said[0].any()
        assert len(np.unique(said, axis=0)) == (1 if i < 2 else len(said))


def test_silence_in_one_buffer_stops_buffers_but_not_far_sign():
    """Workers 0, 3 and 6 are all that there is of buffer 0."""
    quiet = np.arange(M) % 3 == 0
    fleet = [timing.withhold(EXP, 4.0) if q else EXP for q in quiet]
    schedule = arrivals.by_time(jax.random.key(3), fleet, EVENTS)
    last = np.flatnonzero(quiet[schedule.workers])[-1]
    assert 10 < last < 50

    def watch(system):
        _, servers, _ = history(system, PROBLEM, schedule.workers, jnp.asarray(quiet))
        return np.asarray(servers.step), np.asarray(servers.params)

    steps, params = watch(buffered_system())
    assert steps[last] > 2 and steps[-1] <= steps[last] + 1  # the last set may fill up
    stopped = int(np.argmax(steps == steps[-1]))
    assert stopped < 60 and np.all(params[stopped:] == params[stopped])
    # The same liars, but somebody honest in each buffer: nothing stops.
    steps, _ = watch(buffered_system(slots=(0, 0, 1, 1, 2, 2, 2)))
    assert steps[-1] > steps[last] + 3
    steps, params = watch(derivative_system("sign_flip"))
    assert steps[-1] == EVENTS
    assert np.all(np.any(params[last + 1 :] != params[last:-1], axis=1))


# Rounds.


ROUNDS = System(sgd(M, aggregators.mean(), step_size=0.1), GRADIENT, attacks.none())


@jax.jit
def gradients(x, n):
    """What everybody answers in round n of the run with seed 0."""

    def one(i):
        query = Query(x, i, (), jnp.zeros((), jnp.int32))
        key = keys.message(keys.split(0).batches, i, n)
        return GRADIENT.respond((), query, PROBLEM.shard(i), key)[1]

    return jax.vmap(one)(jnp.arange(M, dtype=jnp.int32))


@pytest.mark.parametrize(
    "options", [{}, {"wait": 4}, {"participation": 0.3}], ids=["barrier", "fastest", "partial"]
)
def test_synchronous_rounds_have_a_clock(options):
    rounds = arrivals.rounds(jax.random.key(3), FLEETS["pareto"], 40, **options)
    end, records = simulation.run(PROBLEM, ROUNDS, rounds, every=20)
    assert [r["event"] for r in records] == [20, 40]
    assert [r["virtual_seconds"] for r in records] == rounds.times[[19, 39]].tolist()
    present = rounds.workers >= 0
    heard = np.bincount(rounds.workers[present], minlength=M)
    np.testing.assert_array_equal(end.staleness.answers, heard)
    assert int(end.server.heard) == present.sum()
    assert int(end.server.step) == present.any(axis=1).sum()
    assert records[-1]["staleness"] == 0

    # The same rounds by hand: everybody's gradient at the x that opened the round.
    x = np.asarray(PROBLEM.x0)
    for n, row in enumerate(rounds.workers):
        if np.any(row >= 0):
            x = x - np.float32(0.1) * np.asarray(gradients(x, n))[row[row >= 0]].mean(axis=0)
    np.testing.assert_allclose(end.server.params, x, rtol=1e-4, atol=1e-4)


def test_times_that_do_not_fit_are_refused_before_the_loop():
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
def test_unknown_deliveries_are_refused(delivery):
    with pytest.raises(InvalidConfig, match="outstanding:L with 0 < L < 65536"):
        simulation.run(PROBLEM, derivative_system("sign_flip"), [0, 1], delivery=delivery)
