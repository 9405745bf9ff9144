"""A long series of runs of different structure holds few programs at a time."""

import subprocess
import sys

import pytest

from farsign_jax import arrivals, programs, simulation
from tests import helpers

PROBLEM = helpers.quadratic()

# In a process of its own: other tests hold programs, too.
SERIES = """
import sys
from farsign_jax import arrivals, programs, simulation
from tests import helpers

if int(sys.argv[1]) < 100:  # a short series, too, comes to the limit several times
    programs.MAX_MAPS = 3000
problem, most = helpers.quadratic(), 0
for number in range(int(sys.argv[1])):
    system = helpers.far_sign_system(problem, step_size=0.05 + number / 1e4)
    simulation.run(problem, system, arrivals.uniform(helpers.KEY, helpers.M, 5))
    most = max(most, programs.count_maps())
    if number == 10:
        early = helpers.memory_of("self")
print(most, helpers.memory_of("self") - early)
"""


def run_once(step_size):
    system = helpers.far_sign_system(PROBLEM, step_size=step_size)
    return simulation.run(PROBLEM, system, arrivals.uniform(helpers.KEY, helpers.M, 5))[0]


def test_programs_are_dropped_where_a_process_holds_many_maps(monkeypatch):
    before = run_once(0.05)
    monkeypatch.setattr(programs, "_kept", programs.count_maps())
    assert not programs.release_if_many()
    monkeypatch.setattr(programs, "MAX_MAPS", 0)
    monkeypatch.setattr(programs, "_kept", 0)
    assert programs.release_if_many()
    monkeypatch.undo()
    with helpers.compilations() as names:
        helpers.assert_same(before, run_once(0.05))
    assert "advance" in " ".join(names)


def test_maps_that_somebody_else_holds_do_not_release_programs_each_time(monkeypatch):
    monkeypatch.setattr(programs, "count_maps", lambda: 3 * programs.MAX_MAPS)
    monkeypatch.setattr(programs, "_kept", 0)
    assert programs.release_if_many()
    assert not programs.release_if_many()


@pytest.mark.parametrize(
    "structures",
    [pytest.param(12, marks=pytest.mark.slow), pytest.param(200, marks=helpers.LONG)],
)
def test_many_structures_stay_below_a_third_of_the_maps_that_linux_allows(structures):
    done = subprocess.run(
        [sys.executable, "-c", SERIES, str(structures)],
        capture_output=True,
        text=True,
        check=True,
    )
    most, grown = map(int, done.stdout.split())
    assert most < (20_000 if structures > 100 else 6_000)
    assert grown < 500 * 2**20
