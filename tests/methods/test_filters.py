"""Servers that filter or collect gradients one by one, against NumPy."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import attacks, oracles, simulation
from farsign_jax.base import Report, System
from farsign_jax.methods.aflguard import aflguard
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.fedbuff import fedbuff
from farsign_jax.methods.kardam import kardam
from farsign_jax.methods.zeno_pp import zeno_pp
from farsign_jax.validation import InvalidConfig
from tests import helpers

M = helpers.M
PROBLEM = helpers.quadratic()
D = PROBLEM.x0.size
KEY = jax.random.key(0)
REFERENCE = jax.tree.map(lambda a: a[:32], PROBLEM.data)
CURVATURE, CENTER, NOISE = (np.asarray(a, np.float64) for a in PROBLEM.data)


def rate(n):
    return 0.1 / (1 + 0.01 * n)


def schedule(n):
    return rate(jnp.asarray(n, jnp.float32))


# The algorithms, slow and obvious. Each `receive` is given the iterate, so that rounding in x
# does not add up, and returns the next one; it keeps all other state itself.


def sane(g):
    return [min(max(v, -1e6), 1e6) if math.isfinite(v) else 0.0 for v in g.tolist()]


def norm(v):
    return math.sqrt(sum(float(x) ** 2 for x in v))


class Kardam:
    def __init__(self, f, frequency="strict", dampening="inverse", history=25):
        self.f, self.frequency, self.dampening, self.history = f, frequency, dampening, history
        self.lists: dict[int, list[float]] = {}
        self.spoken: dict[int, tuple] = {}
        self.previous = None
        self.names: list[int] = []
        self.num_answers = self.step = self.turned_down = self.forced = 0
        self.accepted = np.zeros(M, int)

    def receive(self, x, worker, version, x_s, g):
        g, eta = np.asarray(sane(g)), rate(self.num_answers)
        self.num_answers += 1
        if worker in self.spoken:
            g_p, x_p = self.spoken[worker]
            if norm(x_s - x_p) > 1e-12:
                values = self.lists.setdefault(worker, [])
                values.append(norm(g - g_p) / norm(x_s - x_p))
                del values[: -self.history]
        self.spoken[worker] = g, x_s

        tops = sorted(max(values) for values in self.lists.values())
        smooth = True
        if self.previous is None:
            assert not tops
        elif tops and norm(x - self.previous[1]) > 1e-12:
            g_last, x_last = self.previous
            fraction = (M - self.f) / M
            enough = [
                t for t in tops if sum(u <= t for u in tops) >= fraction * len(tops) - 1e-9
            ]
            smooth = norm(g - g_last) / norm(x - x_last) <= enough[0]

        names = self.names[len(self.names) - min(2 * self.f, len(self.names)) :] + [worker]
        seldom = True
        if self.f and self.frequency == "strict":
            seldom = len(set(names)) == len(names)
        if self.f and self.frequency == "count":
            seldom = names.count(worker) <= self.f

        if not seldom:
            return x
        if not smooth and self.turned_down < M:
            self.turned_down += 1
            return x
        self.forced += not smooth
        self.turned_down = 0
        self.previous = g, x
        self.names.append(worker)
        self.accepted[worker] += 1
        tau = self.step - version
        self.step += 1
        weight = {"inverse": 1 / (1 + tau), "exponential": math.exp(-0.2 * tau), "none": 1.0}
        return x - eta * weight[self.dampening] * g


class Trusting:
    """What Zeno++ and AFLGuard have in common: occasional gradients of the trusted loss."""

    def __init__(self, refresh):
        self.refresh, self.num_answers, self.step = refresh, 0, 0
        self.accepted = np.zeros(M, int)

    def judge(self, g, eta):
        raise NotImplementedError

    def receive(self, x, worker, version, x_s, g):
        if self.num_answers % self.refresh == 0:
            gradients = CURVATURE[:32] * (x - CENTER[:32]) + NOISE[:32]
            self.v = np.mean(gradients, axis=0)
        eta = rate(self.num_answers)
        self.num_answers += 1
        move = self.judge(g, eta)
        if move is None:
            return x
        self.accepted[worker] += 1
        self.step += 1
        return x - eta * move


class ZenoPP(Trusting):
    def __init__(self, refresh, rho, epsilon):
        super().__init__(refresh)
        self.rho, self.epsilon = rho, epsilon

    def judge(self, g, eta):
        if not np.isfinite(g).all() or not g.any():
            return None
        g = np.asarray(sane(g))
        g = g * norm(self.v) / norm(g)
        score = eta * self.v.dot(g) - self.rho * norm(g) ** 2
        return g if score >= -eta * self.epsilon else None


class AFLGuard(Trusting):
    def __init__(self, refresh, lam):
        super().__init__(refresh)
        self.lam = lam

    def judge(self, g, eta):
        g = np.asarray(sane(g))
        return g if norm(g - self.v) <= self.lam * norm(self.v) else None


class FedBuff:
    def __init__(self, size, dampening="inverse_sqrt"):
        self.size, self.dampening = size, dampening
        self.num_answers = self.step = 0
        self.inside: list[np.ndarray] = []

    def receive(self, x, worker, version, x_s, g):
        tau = self.step - version
        weight = (1 + tau) ** -0.5 if self.dampening == "inverse_sqrt" else 1.0
        self.inside.append(weight * np.asarray(sane(g)))
        eta = rate(self.num_answers)
        self.num_answers += 1
        if len(self.inside) < self.size:
            return x
        mean = sum(self.inside) / self.size
        self.inside = []
        self.step += 1
        return x - eta * mean


def report(server, state, worker, value, asked=None):
    """One answer to what the server asked when it was in the state `asked`."""
    query = server.query(state if asked is None else asked, jnp.int32(worker), KEY)
    one = Report(query.worker, query.version, query.direction, jnp.asarray(value, jnp.float32))
    return jax.tree.map(lambda a: a[None], one)


def messages(seed, events, fraction=0.2):
    """(worker, lag, how to answer) of some arrivals, M for an empty slot."""
    rng = np.random.default_rng(seed)
    kinds = ["flip", "zero", "nan", "inf", "huge"]
    for _ in range(events):
        lag, worker, lie = (int(rng.integers(n)) for n in (6, M, len(kinds)))
        empty, byzantine = rng.random(2) < (0.1, fraction)
        yield (
            M if empty else worker,
            lag,
            kinds[lie] if byzantine else "honest",
            rng.normal(size=D),
        )


def answer(kind, x, noise):
    g = CURVATURE[0] * (x - CENTER[0]) + 0.3 * noise
    spoilt = {"nan": np.nan, "inf": -np.inf, "huge": 3e38}
    if kind in spoilt:
        g[: D // 2] = spoilt[kind]
    scale = {"flip": -10.0, "zero": 0.0}.get(kind, 1.0)
    return (scale * g).astype(np.float32)


def compare(server, truth, events=250, seed=0, fraction=0.2):
    """Drives both through the same arrivals; the final state."""
    receive = jax.jit(server.update)
    state = server.init(PROBLEM.x0)
    past = [state]
    for worker, lag, kind, noise in messages(seed, events, fraction):
        asked = past[max(0, len(past) - 1 - lag)]
        x_s = np.asarray(asked.params)
        value = answer(kind, x_s, noise)
        before, version = np.asarray(state.params, np.float64), int(asked.step)
        after, _ = receive(state, report(server, state, worker, value, asked))
        if worker == M:
            helpers.assert_same(after, state)
            continue
        want = truth.receive(before, worker, version, np.asarray(x_s, np.float64), value)
        state = after
        past.append(state)
        np.testing.assert_allclose(state.params, want, rtol=2e-5, atol=1e-6)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        assert (int(state.step), int(state.num_answers)) == (truth.step, truth.num_answers)
        if hasattr(truth, "accepted"):
            np.testing.assert_array_equal(state.accepted, truth.accepted)
    return state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frequency": "count", "dampening": "exponential", "history": 3},
        {"frequency": "none", "dampening": "none", "history": 1},
        {"byzantine": 0, "frequency": "strict"},
    ],
)
def test_kardam_is_the_paper_in_numpy(options):
    options = {"byzantine": 2} | options
    truth = Kardam(options["byzantine"], **{k: options[k] for k in options if k != "byzantine"})
    state = compare(kardam(M, step_size=schedule, **options), truth, events=300)
    assert 30 < truth.step < 0.95 * truth.num_answers
    assert truth.forced > 0  # out of a deadlock
    for w, values in truth.lists.items():
        kept = np.asarray(state.coefficients[w])
        np.testing.assert_allclose(kept[kept >= 0], values[::-1], rtol=1e-4)
    recent = np.asarray(state.recent).tolist()
    assert recent == truth.names[len(truth.names) - len(recent) :]


def test_zeno_pp_is_the_paper_in_numpy():
    for refresh, rho, epsilon in [(10, 0.001, 0.0), (3, 0.05, 0.5)]:
        options = {"rho": rho, "epsilon": epsilon, "refresh": refresh}
        server = zeno_pp(M, PROBLEM.losses, REFERENCE, step_size=schedule, **options)
        truth = ZenoPP(refresh, rho, epsilon)
        compare(server, truth)
        assert 30 < truth.step < 0.9 * truth.num_answers


def test_aflguard_is_the_paper_in_numpy():
    for refresh, lam in [(1, 1.5), (7, 0.9)]:
        options = {"lam": lam, "refresh": refresh}
        server = aflguard(M, PROBLEM.losses, REFERENCE, step_size=schedule, **options)
        truth = AFLGuard(refresh, lam)
        compare(server, truth)
        assert 10 < truth.step < 0.9 * truth.num_answers


@pytest.mark.parametrize("dampening", ["inverse_sqrt", "none"])
def test_fedbuff_is_the_paper_in_numpy(dampening):
    server = fedbuff(M, buffer_size=4, step_size=schedule, dampening=dampening)
    truth = FedBuff(4, dampening)
    state = compare(server, truth)
    assert int(state.num_buffered) == len(truth.inside) and truth.step == truth.num_answers // 4


@functools.cache
def four(step_size: Any = 0.1):
    """One of each; the same objects for all tests, so that each is compiled once."""
    data = PROBLEM.losses, REFERENCE
    return {
        "kardam": kardam(M, byzantine=2, step_size=step_size),
        "zeno_pp": zeno_pp(M, *data, step_size=step_size, refresh=2),
        "aflguard": aflguard(M, *data, step_size=step_size, lam=3.0),
        "fedbuff": fedbuff(M, buffer_size=4, step_size=step_size),
    }


@pytest.mark.parametrize("name", ["kardam", "zeno_pp", "aflguard", "fedbuff"])
def test_a_set_is_processed_one_by_one_and_one_answer_takes_no_loop(name):
    server = four(schedule)[name]
    receive, state = jax.jit(server.update), server.init(PROBLEM.x0)
    past, events = [state], list(messages(1, 60))
    for n in range(0, 60, 3):
        asked = past[max(0, len(past) - 2)]
        lot = [
            report(server, state, w, answer(kind, np.asarray(asked.params), noise), asked)
            for w, _, kind, noise in events[n : n + 3]
        ]
        together, _ = receive(state, jax.tree.map(lambda *a: jnp.concatenate(a), *lot))
        for one in lot:
            state, _ = receive(state, one)
        for a, b in zip(together, state, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        past.append(state)
    one = report(server, state, 0, jnp.zeros(D))
    two = jax.tree.map(lambda a: jnp.concatenate([a, a]), one)
    assert "scan[" not in str(jax.make_jaxpr(server.update)(state, one))
    assert "scan[" in str(jax.make_jaxpr(server.update)(state, two))


@pytest.mark.parametrize("name", ["kardam", "zeno_pp", "aflguard", "fedbuff"])
def test_only_what_the_schedule_decides_is_called_scheduled(name):
    """Whatever the answers, these fields are the same: runs of one schedule may share them."""
    server = four(schedule)[name]
    receive, ends = jax.jit(server.update), []
    for fraction in (0.0, 0.6):
        state = server.init(PROBLEM.x0)
        for worker, _, kind, noise in messages(2, 60, fraction):
            value = answer(kind, np.asarray(state.params), noise)
            state, _ = receive(state, report(server, state, worker, value))
        ends.append(state)
    for field in server.scheduled:
        np.testing.assert_array_equal(*(getattr(end, field) for end in ends))
    steps = {int(end.step) for end in ends}
    assert (len(steps) == 1) == ("step" in server.scheduled)


def test_kardam_asks_about_its_iterate_and_gets_it_back():
    server = kardam(M, byzantine=2, step_size=0.1)
    state = server.init(PROBLEM.x0)
    query = server.query(state, jnp.int32(3), KEY)
    np.testing.assert_array_equal(query.direction, query.params)
    worker = oracles.stochastic_gradient(PROBLEM.losses, batch_size=8)
    order = np.random.default_rng(0).integers(0, M, 50)
    # An omniscient attack: gradients are comparable, whatever the direction is called.
    system = System(server, worker, attacks.alie())
    end, _ = simulation.run(PROBLEM, system, order, byzantine=2, delivery="outstanding")
    assert len(np.unique(end.server.asked_at[:, 0])) > 1


def trial(server, **fields):
    """(accepted or not, state) of one answer of worker 6 to a prepared state."""
    receive = jax.jit(server.update)

    def one(value, **more):
        state = server.init(jnp.eye(D)[0])._replace(**(fields | more))  # ||x - x'|| = 1
        after, _ = receive(state, report(server, state, 6, value))
        return bool(after.accepted[6]), after

    return one


def test_kardam_takes_the_smallest_coefficient_that_enough_are_not_above():
    tops = jnp.asarray([5.0, 1.0, 4.0, 3.0, 2.0, -1.0, -1.0])
    server = kardam(M, byzantine=2, step_size=0.1, history=2)
    one = trial(server, coefficients=jnp.stack([tops / 2, tops], axis=1))
    # ceil(5/7 * 5) = 4: the fourth of 1, ..., 5. With g' = 0 the candidate is ||g|| / ||x||.
    assert one(jnp.full(D, 3.99 / np.sqrt(D)))[0]
    accepted, after = one(jnp.full(D, 4.01 / np.sqrt(D)))
    assert not accepted and int(after.step) == 0 and int(after.num_answers) == 1
    np.testing.assert_array_equal(after.params, jnp.eye(D)[0])
    assert bool(after.known[6]) and after.answers[6].any()  # remembered all the same
    assert one(jnp.full(D, 100.0), before=jnp.eye(D)[0])[0]  # x has not moved: no measure


def test_kardam_ends_a_deadlock_but_not_for_the_frequency_filter():
    small = jnp.full((M, 2), 1e-3)
    server = kardam(M, byzantine=2, step_size=0.1, history=2)
    one = trial(server, coefficients=small)
    wild = jnp.full(D, 50.0)
    accepted, after = one(wild, rejected=jnp.int32(M - 1))
    assert not accepted and int(after.rejected) == M
    accepted, after = one(wild, rejected=jnp.int32(M))
    assert accepted and int(after.rejected) == 0
    often = jnp.asarray([0, 6, 6, 1], jnp.int32)
    accepted, after = one(wild, rejected=jnp.int32(M), recent=often)
    assert not accepted and int(after.rejected) == M


@pytest.mark.parametrize(
    "frequency, passes", [("strict", [1, 0, 0]), ("count", [1, 1, 0]), ("none", [1, 1, 1])]
)
def test_kardam_frequency(frequency, passes):
    server = kardam(M, byzantine=2, step_size=0.1, frequency=frequency)
    for times, expected in enumerate(passes):
        recent = jnp.asarray([6] * times + [0, 1, 2, 3], jnp.int32)[:4]
        one = trial(server, recent=recent)
        accepted, after = one(jnp.ones(D))
        assert accepted == bool(expected)
        assert np.asarray(after.recent).tolist()[-1] == (6 if expected else int(recent[-1]))


def run(server, attack, byzantine, order=None, delivery="fresh"):
    """Final distance to the minimiser, relative to the first, and the final state."""
    worker = oracles.stochastic_gradient(PROBLEM.losses, batch_size=8)
    if order is None:
        order = np.random.default_rng(0).integers(0, M, 1500)
    measure = helpers.distance(PROBLEM)
    end, records = simulation.run(
        PROBLEM,
        System(server, worker, attack),
        order,
        byzantine=byzantine,
        delivery=delivery,
        measure=measure,
    )
    return records[-1]["distance"] / float(measure(PROBLEM.x0)["distance"]), end.server


@pytest.mark.slow
def test_kardam_frequency_filter_blocks_a_worker_that_floods():
    rng = np.random.default_rng(1)
    order = np.where(rng.random(1500) < 0.8, 0, rng.integers(1, M, 1500))
    flood = lambda frequency: run(  # noqa: E731
        kardam(M, byzantine=2, step_size=0.1, frequency=frequency),
        attacks.sign_flip(),
        1,
        order,
    )
    assert flood("none")[0] > 1
    for frequency, fraction in (("count", 2 / 5), ("strict", 1 / 5)):
        distance, state = flood(frequency)
        assert distance < 0.15
        assert int(state.accepted[0]) <= fraction * int(state.step) + 2


@pytest.mark.parametrize("delivery", ["fresh", *helpers.slow(["outstanding"])])
@pytest.mark.parametrize("name", ["zeno_pp", "aflguard"])
def test_trusted_data_defeats_large_flipped_signs(name, delivery):
    server = four()[name]
    distance, state = run(server, attacks.sign_flip(10.0), 2, delivery=delivery)
    assert distance < 0.15
    assert int(state.accepted.sum()) == int(state.step) < int(state.num_answers)


def test_servers_without_a_filter_are_lost_to_them():
    for server in (async_sgd(M, step_size=0.1), fedbuff(M, step_size=0.1)):
        assert run(server, attacks.sign_flip(10.0), 2)[0] > 100


def test_kardam_keeps_large_flipped_signs_out():
    server = kardam(M, byzantine=2, step_size=0.1)
    distance, state = run(server, attacks.sign_flip(10.0), 2)
    assert distance < 0.15
    byzantine, honest = np.split(np.asarray(state.accepted), [2])
    assert byzantine.max() < 0.25 * honest.min()


def test_zeno_pp_never_moves_further_than_the_trusted_gradient():
    server = zeno_pp(M, PROBLEM.losses, REFERENCE, step_size=1.0)
    receive, state = jax.jit(server.update), server.init(PROBLEM.x0)
    first, _ = receive(state, report(server, state, 0, jnp.zeros(D)))
    v = np.asarray(first.trusted)
    assert v.any() and int(first.step) == 0  # zeros have no direction
    # Squares of most of these numbers round to 0, as large as they are together.
    subtle = np.sign(v) * np.where(np.arange(D) == 0, 1.1e-19, 1e-19)
    sizes = [np.abs(subtle), np.full(D, 1e-29), np.full(D, 1e-40), np.full(D, 3e38)]
    for size in sizes:
        after, _ = receive(state, report(server, state, 0, np.sign(v) * size))
        moved = norm(np.asarray(after.params - state.params))
        assert moved <= norm(v) * (1 + 1e-5)
    flat = zeno_pp(M, lambda x, batch: 0 * PROBLEM.losses(x, batch), REFERENCE, step_size=1.0)
    state = flat.init(PROBLEM.x0)
    after, _ = jax.jit(flat.update)(state, report(flat, state, 0, jnp.ones(D)))
    assert int(after.step) == 0 and int(after.num_answers) == 1  # no trusted direction


def test_aflguard_lets_zeros_pass_from_lambda_1_on():
    for lam, expected in ((1.0, 1), (0.999, 0)):
        server = aflguard(M, PROBLEM.losses, REFERENCE, step_size=0.1, lam=lam)
        state = server.init(PROBLEM.x0)
        after, _ = jax.jit(server.update)(state, report(server, state, 0, jnp.zeros(D)))
        assert int(after.step) == expected


def test_fedbuff_of_one_answer_is_asynchronous_sgd():
    ends = [
        run(server, attacks.none(), 0, np.arange(100) % M)[1].params
        for server in (
            fedbuff(M, buffer_size=1, step_size=0.1, dampening="none"),
            async_sgd(M, step_size=0.1),
        )
    ]
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)


def trusting(make):
    def build(**options):
        options = {"losses": PROBLEM.losses, "reference": REFERENCE} | options
        return make(M, options.pop("losses"), options.pop("reference"), **options)

    return build


@pytest.mark.parametrize(
    "make, change, message",
    [
        (kardam, {"byzantine": 3}, r"kardam needs m >= 3f \+ 1: got m=7, f=3"),
        (kardam, {"byzantine": -1}, "kardam needs a whole number byzantine >= 0: got -1"),
        (kardam, {"byzantine": 1.5}, "kardam needs a whole number byzantine >= 0: got 1.5"),
        (kardam, {"history": 0}, "kardam needs a whole number history >= 1: got 0"),
        (kardam, {"frequency": "strcit"}, "unknown frequency filter 'strcit': did you mean"),
        (kardam, {"dampening": "linear"}, "unknown dampening 'linear'"),
        (kardam, {"step_size": 0.0}, "kardam needs a finite step_size > 0: got 0.0"),
        (zeno_pp, {"refresh": 0}, "zeno_pp needs a whole number refresh >= 1: got 0"),
        (zeno_pp, {"rho": -1.0}, "zeno_pp needs a finite rho >= 0: got -1.0"),
        (zeno_pp, {"epsilon": np.inf}, "zeno_pp needs a finite epsilon >= 0: got inf"),
        (zeno_pp, {"reference": ()}, "zeno_pp needs a reference of R > 0 examples"),
        (zeno_pp, {"step_size": -1.0}, "zeno_pp needs a finite step_size > 0: got -1.0"),
        (aflguard, {"refresh": 1.5}, "aflguard needs a whole number refresh >= 1: got 1.5"),
        (aflguard, {"lam": 0.0}, "aflguard needs lam > 0: got 0.0"),
        (aflguard, {"reference": np.zeros((0, 2))}, "aflguard needs a reference of R > 0"),
        (aflguard, {"step_size": np.inf}, "aflguard needs a finite step_size > 0: got inf"),
        (fedbuff, {"buffer_size": 0}, "fedbuff needs a whole number buffer_size >= 1: got 0"),
        (fedbuff, {"dampening": "inverse"}, "unknown dampening 'inverse': did you mean"),
        (fedbuff, {"step_size": np.nan}, "fedbuff needs a finite step_size > 0: got nan"),
    ],
)
def test_bad_configuration_is_refused(make, change, message):
    options = {"step_size": 0.1} | ({"byzantine": 2} if make is kardam else {}) | change
    with pytest.raises(InvalidConfig, match=message):
        if make in (zeno_pp, aflguard):
            trusting(make)(**options)
        else:
            make(M, **options)


@pytest.mark.parametrize("name", ["kardam", "zeno_pp", "aflguard", "fedbuff"])
def test_no_workers_and_answers_of_another_length_are_refused(name):
    server = four()[name]
    state = server.init(PROBLEM.x0)
    with pytest.raises(InvalidConfig, match=rf"an answer is f32\[{D}\]: got \[{D - 1}\]"):
        server.update(state, report(server, state, 0, jnp.zeros(D - 1)))
    data = (PROBLEM.losses, REFERENCE) if name in ("zeno_pp", "aflguard") else ()
    options = {"byzantine": 0} if name == "kardam" else {}
    make = {"kardam": kardam, "zeno_pp": zeno_pp, "aflguard": aflguard, "fedbuff": fedbuff}
    with pytest.raises(InvalidConfig, match=f"{name} needs at least one worker"):
        make[name](0, *data, step_size=0.1, **options)
