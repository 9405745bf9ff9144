"""Attacks on time and on memory, and synchronous rounds with a clock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    aggregators,
    arrivals,
    attacks,
    keys,
    simulation,
)
from farsign_jax.attacks import timing
from farsign_jax.base import Query, System
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.sgd import sgd
from tests import helpers
from tests.simulation.fleets import (
    EVENTS,
    EXP,
    FLEETS,
    GRADIENT,
    PROBLEM,
    M,
    buffered_system,
    derivative_system,
    first,
    history,
)


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["fresh", "outstanding"])
def test_replay_freezes_the_averages_of_byzantine_workers(delivery):
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["exponential"], EVENTS)
    system = derivative_system("replay", average_step=0.5)
    _, servers, _ = history(system, PROBLEM, schedule.workers, first(2), delivery)
    y = np.asarray(servers.averages)
    settled = y[:-1] != 0  # received once
    moved = (y[1:] != y[:-1]) & settled
    assert settled[-1, :2].sum() > 10
    assert not moved[:, :2].any() and moved[:, 2:].any(axis=(0, 2)).all()
    # The first answer was honest: the same as in a run without Byzantine workers.
    _, honest, _ = history(system, PROBLEM, schedule.workers, first(0), delivery)
    n = int(np.argmax(np.isin(schedule.workers, (0, 1))))
    assert y[n, :2].any()
    np.testing.assert_array_equal(y[n], honest.averages[n])


def test_replay_repeats_the_first_gradient():
    inner = async_sgd(M, step_size=0.02)

    def update(state, reports):
        new, info = inner.update(state, reports)
        return new, info | {"value": reports.value[0]}

    system = System(inner._replace(update=update), GRADIENT, attacks.make("replay"))
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["exponential"], EVENTS)
    _, _, info = history(system, PROBLEM, schedule.workers, first(2))
    for i in range(M):
        values = np.asarray(info["value"])[schedule.workers == i]
        assert len(values) > 5 and values[0].any()
        assert len(np.unique(values, axis=0)) == (1 if i < 2 else len(values))


@pytest.mark.slow
def test_silence_in_one_buffer_stops_buffers_but_not_far_sign():
    """Only workers 0, 3 and 6 fill buffer 0."""
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
    # With an honest worker in each buffer, nothing stops.
    steps, _ = watch(buffered_system(slots=(0, 0, 1, 1, 2, 2, 2)))
    assert steps[-1] > steps[last] + 3
    steps, params = watch(derivative_system("sign_flip"))
    assert steps[-1] == EVENTS
    assert np.all(np.any(params[last + 1 :] != params[last:-1], axis=1))


ROUNDS = System(sgd(M, aggregators.mean(), step_size=0.1), GRADIENT, attacks.none())


@jax.jit
def gradients(x, n):
    """The answers of all workers in round n of the run with seed 0."""

    def one(i):
        query = Query(x, i, (), jnp.zeros((), jnp.int32))
        key = keys.message(keys.split(0).batches, i, n)
        return GRADIENT.respond((), query, PROBLEM.shard(i), key)[1]

    return jax.vmap(one)(jnp.arange(M, dtype=jnp.int32))


@pytest.mark.parametrize(
    "options",
    [{"wait": 4}, *helpers.slow([{}, {"participation": 0.3}])],
    ids=["fastest", "barrier", "partial"],
)
def test_synchronous_rounds_have_a_clock(options):
    rounds = arrivals.rounds(jax.random.key(3), FLEETS["pareto"], 40, **options)
    end, records = simulation.run(PROBLEM, ROUNDS, rounds, every=20)
    assert [r["event"] for r in records] == [20, 40]
    assert [r["virtual_seconds"] for r in records] == rounds.times[[19, 39]].tolist()
    present = rounds.workers >= 0
    received = np.bincount(rounds.workers[present], minlength=M)
    np.testing.assert_array_equal(end.staleness.answers, received)
    assert int(end.server.num_answers) == present.sum()
    assert int(end.server.step) == present.any(axis=1).sum()
    assert records[-1]["staleness"] == 0

    # The same rounds by hand: all gradients are at the x that opened the round.
    x = np.asarray(PROBLEM.x0)
    for n, row in enumerate(rounds.workers):
        if np.any(row >= 0):
            x = x - np.float32(0.1) * np.asarray(gradients(x, n))[row[row >= 0]].mean(axis=0)
    np.testing.assert_allclose(end.server.params, x, rtol=1e-4, atol=1e-4)
