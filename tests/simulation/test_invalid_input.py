"""Invalid input raises before the loop, with the value and the rule in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import arrivals, simulation
from farsign_jax.base import Attack
from farsign_jax.validation import InvalidConfig
from tests import helpers

M = helpers.M


def test_a_forged_value_of_another_shape_raises_before_the_loop():
    problem = helpers.quadratic()
    for forged, shape in (
        (jnp.zeros(5), r"float32\[5\]"),
        (jnp.zeros(3, jnp.int32), r"int32\[3\]"),
    ):
        attack = Attack(lambda m: (), lambda s, report, view, key, forged=forged: (s, forged))
        system = helpers.far_sign_system(problem, attack)
        with pytest.raises(InvalidConfig, match=f"must be float32.3. like.*got {shape}"):
            simulation.run(problem, system, [0, 1, 2, 0, 1], byzantine=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": [0, M]}, f"names worker {M}, but workers are 0..{M - 1}"),
        ({"schedule": [0, -1]}, "names worker -1"),
        ({"schedule": [[1, -2]]}, "names worker -2"),
        ({"schedule": [[0, 1], [2, 2]]}, "event 1 of the schedule names a worker twice"),
        ({"schedule": [0.5]}, "integer array"),
        ({"byzantine": M}, f"byzantine < workers: got byzantine={M}, workers={M}"),
        ({"byzantine": -1}, "got byzantine=-1"),
        ({"byzantine": [True] * M}, "need an honest worker"),
        ({"byzantine": [True]}, rf"mask of {M} workers"),
        ({"delivery": "late"}, "got 'late'"),
        ({"every": -5}, "every > 0 events between records: got -5"),
    ],
)
def test_bad_input_raises_before_the_loop(options, message):
    problem = helpers.quadratic()
    system = helpers.far_sign_system(problem)
    options = {"schedule": [0, 1]} | options
    with helpers.compilations() as compiled, pytest.raises(InvalidConfig, match=message):
        simulation.run(problem, system, options.pop("schedule"), **options)
    assert compiled == []


def test_a_batch_larger_than_a_shard_raises():
    problem = helpers.quadratic()
    worker = helpers.far_sign_system(problem).worker._replace(batch_size=65)
    system = helpers.far_sign_system(problem, worker=worker)
    with pytest.raises(InvalidConfig, match="got batch_size=65, and a worker has 64"):
        simulation.run(problem, system, [0])


def test_arrivals_follow_their_rates_and_seeds():
    draw = arrivals.weighted(jax.random.key(0), [3.0, 1.0], 8000)
    assert draw.dtype == np.int32
    counts = np.bincount(draw, minlength=2)
    assert abs(counts[0] - 6000) < 5 * np.sqrt(8000 * 0.75 * 0.25)
    np.testing.assert_array_equal(draw, arrivals.weighted(jax.random.key(0), [3, 1], 8000))
    sets = arrivals.sets(jax.random.key(0), 6, 500, 4)
    assert all(len(set(row)) == 4 for row in sets.tolist())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k: arrivals.weighted(k, [1.0, -1.0], 5), "> 0: worker 1 has rate -1"),
        (lambda k: arrivals.weighted(k, [1.0, 0.0], 5), "> 0: worker 1 has rate 0"),
        (lambda k: arrivals.uniform(k, 3, -1), "num_events >= 0: got -1"),
        (lambda k: arrivals.sets(k, 3, 5, 4), "got size=4, workers=3"),
    ],
)
def test_impossible_schedules_raise(make, message):
    with pytest.raises(InvalidConfig, match=message):
        make(jax.random.key(0))
