"""A method is built once for each program, and once outside to check it, however many runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import sweeps, validation
from farsign_jax.sweeps import inspection
from farsign_jax.sweeps.lockstep import Lockstep
from farsign_jax.validation import InvalidConfig
from tests import helpers
from tests.sweeps.test_lockstep import ATTACKS, RULES, batch_of, build
from tests.sweeps.test_sweeps import BUILD, EVENTS, digits_batch, largest

built = []


@dataclasses.dataclass(frozen=True)
class Counted:
    """A factory that counts its calls."""

    inner: object

    def __call__(self, problem, hyper):
        built.append(self.inner)
        return self.inner(problem, hyper)


@pytest.fixture(autouse=True)
def nothing_built():
    built.clear()
    inspection._known.cache_clear()
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(1, marks=helpers.LONG), 5])
def test_a_sweep_builds_its_method_once_outside_and_once_for_each_program(count):
    program, batch = Counted(BUILD), digits_batch(count)
    sweeps.sweep(program, batch, every=20, measure=largest, delivery="outstanding")
    assert len(built) == 3  # to check it, to start, and to advance
    # Seeds, schedules, hyper-parameters and a second sweep need no other.
    halved = jax.tree.map(lambda leaf: leaf / 2, batch.hyper)
    again = dataclasses.replace(batch, seeds=batch.seeds + 1, hyper=halved)
    sweeps.sweep(program, again, every=20, measure=largest, delivery="outstanding")
    assert len(built) == 3
    # Records of another length are another program; so are the last events that are left over.
    sweeps.sweep(program, batch, every=EVENTS - 7, measure=largest, delivery="outstanding")
    assert len(built) == 5


def test_points_are_checked_after_others_without_another_build():
    program, batch = Counted(BUILD), digits_batch(2)
    batch.check(program, "fresh")
    needed = len(built)
    steps = np.array(batch.hyper["step_size"])
    steps[1] = -3
    with pytest.raises(InvalidConfig, match=r"positive and finite: got -3\.0"):
        bad = dataclasses.replace(batch, hyper=batch.hyper | {"step_size": steps})
        bad.check(program, "fresh")
    assert len(built) == needed + 1  # for the bad point alone, which the message names
    batch.check(program, "fresh")
    assert len(built) == needed + 1


def test_lockstep_is_checked_once_however_many_points():
    program = Lockstep(
        tuple(tuple(Counted(build("basgd", r, a)) for a in ATTACKS) for r in RULES)
    )
    batch = batch_of(helpers.quadratic(), seeds=range(3))
    batch.check(program, "fresh")
    needed = len(built)  # for the system, and for the shapes of its state
    batch.check(program, "fresh")
    assert len(built) == needed
    more = jax.tree.map(lambda leaf: np.concatenate([leaf, 2 * leaf], axis=2), batch.hyper)
    built.clear()
    dataclasses.replace(batch, hyper=more).check(program, "fresh")
    assert len(built) == needed


def test_a_bad_point_of_any_run_in_lockstep_names_the_value():
    program = Lockstep(((build("basgd", "mean", ATTACKS[0]),),))
    batch = batch_of(helpers.quadratic(), seeds=range(2), rules=("mean",))
    steps = np.array(batch.hyper["step_size"])
    steps[1, 0, 1] = -3
    bad = dataclasses.replace(batch, hyper={"step_size": steps})
    with pytest.raises(InvalidConfig, match=r"positive and finite: got -3\.0"):
        bad.check(program, "fresh")


def test_points_are_checked_together_and_the_first_bad_one_is_named():
    calls = []

    def make(point):
        calls.append(point)
        validation.require(point["a"] < 3, f"need a < 3: got {point['a']}")
        return validation.check_positive("it", "b", point["b"])

    points = {"a": np.arange(3.0), "b": np.ones(3)}
    validation.check_points(make, points)
    assert len(calls) == 1
    with pytest.raises(InvalidConfig, match=r"need a < 3: got 4\.0"):
        validation.check_points(make, points | {"a": np.array([0.0, 4.0, 5.0])})
    with pytest.raises(InvalidConfig, match=r"it needs b > 0: got .*-1\.0"):
        validation.check_points(make, points | {"b": np.array([1.0, 1.0, -1.0])})
    traced = jax.jit(lambda p: validation.check_points(make, p))
    calls.clear()
    assert traced(jax.tree.map(jnp.asarray, points)) is None and not calls
