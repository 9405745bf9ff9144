"""The staleness of the answers of each worker, against a count by hand."""

import jax
import numpy as np
import pytest

from farsign_jax import (
    arrivals,
    simulation,
)
from tests.simulation.fleets import (
    EVENTS,
    FLEETS,
    PROBLEM,
    M,
    buffered_system,
    derivative_system,
    first,
    history,
)


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


def histogram_by_hand(answers):
    table = np.zeros((M, 32), int)
    for i, stale in answers:
        edge = 0
        while stale >= 2**edge:  # 0 | 1 | 2, 3 | 4 .. 7 | ...
            edge += 1
        table[i, edge] += 1
    return table


@pytest.mark.slow
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
    answers = list(zip(workers[present].tolist(), stale[present].tolist(), strict=True))
    if depth:
        assert answers == stale_by_hand(schedule.workers, depth, updates)
    else:
        assert not stale[present].any()
    got = end.staleness
    values = [[s for i, s in answers if i == worker] for worker in range(M)]
    assert got.answers.tolist() == [len(v) for v in values]
    assert got.largest.tolist() == [max(v, default=0) for v in values]
    squares = [np.mean(np.square(v, dtype=np.float64)) if v else 0.0 for v in values]
    np.testing.assert_allclose(got.mean_square, squares, rtol=1e-5, atol=0)
    np.testing.assert_array_equal(got.histogram, histogram_by_hand(answers))


@pytest.mark.slow
def test_more_open_questions_are_staler_in_proportion():
    """In step, all others are received between question and answer; L times with L open."""
    schedule = arrivals.by_time(jax.random.key(3), FLEETS["in_step"], EVENTS)
    for delivery, largest in (("outstanding", M - 1), ("outstanding:3", 3 * M - 1)):
        end, _, info = history(
            derivative_system("sign_flip"), PROBLEM, schedule.workers, first(0), delivery
        )
        assert end.staleness.largest.tolist() == [largest] * M
        assert np.all(np.asarray(info["staleness"])[3 * M :] == largest)
