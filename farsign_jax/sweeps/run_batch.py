"""Run batches: runs of one structure, and the programs that start them and move them on.

Runs of the same structure (method, attack, model, sizes) advance together under `vmap`, and
over the devices of a mesh. `build` is called inside the compiled program, so hyper-parameters
are tracers and a complete grid compiles once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from farsign_jax import arrivals, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Diagnostics, Problem, PyTree
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.sweeps import devices, inspection
from farsign_jax.sweeps.inspection import SystemFactory, problem_of_run


class FinalRuns(NamedTuple):
    """The end of R runs."""

    params: np.ndarray  # f32[R, d], or f32[R, L, d] if a run of the batch is L in lock-step
    staleness: Staleness  # leaves [R, m, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunBatch:
    """R runs of one structure.

    Attributes:
        problem: `data` that all runs have in common; rows i32[R, m, n], sizes i32[R, m], x0
            f32[R, d].
        seeds: i32[R].
        hyper: hyper-parameters, leaves [R], of which `build` is given those of one run.
        byzantine: bool[R, m], or bool[R, P, m] if it changes (`simulation.run`).
        schedules: i32[R, T] or i32[R, T, s]; stays on the host, like
        times: f64[R, T], virtual seconds of the events, or None.
    """

    problem: Problem
    seeds: Array | np.ndarray
    hyper: Any
    byzantine: Array | np.ndarray
    schedules: np.ndarray
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    @staticmethod
    def repeated(problem: Problem, count: int) -> Problem:
        """Returns the `problem` of a batch of `count` runs on the same problem."""
        repeat = lambda a: jnp.broadcast_to(a, (count, *a.shape))  # noqa: E731
        own = {name: repeat(getattr(problem, name)) for name in ("rows", "sizes", "x0")}
        return dataclasses.replace(problem, **own)

    def take(self, runs: Any) -> "RunBatch":
        """Returns some of the runs, by an index, a slice or an array of indices."""
        pick = functools.partial(jax.tree.map, lambda a: a[runs])
        return RunBatch(
            problem_of_run(self.problem, runs),
            self.seeds[runs],
            pick(self.hyper),
            self.byzantine[runs],
            self.schedules[runs],
            None if self.times is None else self.times[runs],
        )

    def on(self, mesh: Mesh | None) -> tuple[Problem, Array, Any, Array]:
        """Returns problem, seeds, hyper-parameters and masks for `start` and `advance`.

        Each device has those of its own runs, and all of the data. The number of runs is a
        multiple of the number of devices.
        """
        own = self.seeds, self.hyper, self.byzantine
        return devices.spread(mesh, self.problem), *devices.split(mesh, own)

    def check(self, build: SystemFactory, delivery: str) -> None:
        """Checks all runs before any of them is compiled, building their system once.

        Raises:
            InvalidConfig: if some run cannot run as configured.
        """
        simulation.depth(delivery)  # rejects an unknown delivery
        num_workers = self.problem.num_workers
        found = inspection.inspect(build, self.problem, self.hyper)
        simulation.check_batch(found.batch_size, found.left_out, self.problem.sizes)
        for run in range(len(self)):
            times = None if self.times is None else self.times[run]
            schedule = arrivals.Schedule(self.schedules[run], times)
            byzantine = self.byzantine[run]
            simulation.check_run(num_workers, found.in_rounds, byzantine, schedule)
        inspection.check_memory(build, self, delivery)


def _over_runs(f: Callable[..., Any], problem: Problem, *rest: Any) -> Any:
    """Maps `f` over the runs; a single run without `vmap`, so that its conditions branch."""
    per_run = dataclasses.replace(problem, data=None, rows=0, sizes=0, x0=0)
    if len(problem.sizes) > 1:
        return jax.vmap(f, in_axes=(per_run, *(0 for _ in rest)))(problem, *rest)
    out = f(problem_of_run(problem, 0), *jax.tree.map(lambda a: a[0], rest))
    return jax.tree.map(lambda a: a[None], out)


def _in_turns(f: Callable[..., Any], problem: Problem, runs: PyTree, *rest: Any) -> Any:
    """Calls `f(problem, run, ...)` for one run after the other: (runs, info), in place."""

    def turn(runs, number):
        own = jax.tree.map(lambda a: a[number], (runs, *rest))
        one, info = f(problem_of_run(problem, number), *own)
        return jax.tree.map(lambda a, new: a.at[number].set(new), runs, one), info

    return jax.lax.scan(turn, runs, jnp.arange(len(problem.sizes), dtype=jnp.int32))


@functools.partial(jax.jit, static_argnames=("build", "delivery", "mesh"))
def start(
    build: SystemFactory,
    delivery: str,
    problem: Problem,
    seeds: Array,
    hyper: Any,
    byzantine: Array | None = None,
    mesh: Mesh | None = None,
) -> simulation.Run:
    """Returns the state of all runs before the first event, leaves [R, ...].

    The arguments are those of `advance`; an attack on data needs `byzantine`.
    """

    def one(problem, seed, hyper, byzantine):
        system, keys = build(problem, hyper), keys_lib.split(seed)
        return simulation.start(system, problem, keys, delivery, byzantine)

    on_device = functools.partial(_over_runs, one)
    return devices.over(mesh, on_device, problem, seeds, hyper, byzantine)


@functools.partial(
    jax.jit, static_argnames=("build", "delivery", "mesh", "turns"), donate_argnames=("run",)
)
def advance(
    build: SystemFactory,
    delivery: str,
    problem: Problem,
    seeds: Array,
    hyper: Any,
    byzantine: Array,
    run: simulation.Run,
    schedule: Array,
    mesh: Mesh | None = None,
    turns: bool | None = None,
) -> tuple[simulation.Run, Diagnostics]:
    """Advances all runs through their schedules, [R, T] or [R, T, s], and consumes `run`.

    Args:
        build: makes the system of one run.
        delivery: "fresh", "outstanding:L" or "inconsistent:L".
        problem: of R runs, as in `RunBatch`, like seeds, hyper and byzantine.
        seeds: i32[R].
        hyper: leaves [R, ...].
        byzantine: bool[R, m] or bool[R, P, m].
        run: states of the runs, leaves [R, ...].
        schedule: i32[R, T] or i32[R, T, s].
        mesh: devices over which the runs are distributed, or None.
        turns: whether the runs of a device advance one after the other instead of side by
            side, with the same bits. By default they do on a CPU: the arrays of one run stay
            in its caches.

    Returns:
        The new states and the diagnostics, leaves [R, ...] and [R, T, ...].
    """

    def one(problem, run, seed, hyper, byzantine, schedule):
        system, keys = build(problem, hyper), keys_lib.split(seed)
        return simulation.advance(system, problem, byzantine, keys, delivery, run, schedule)

    turns = jax.default_backend() == "cpu" if turns is None else turns

    def on_device(problem, *rest):
        each = _in_turns if turns and len(problem.sizes) > 1 else _over_runs
        return each(one, problem, *rest)

    return devices.over(mesh, on_device, problem, run, seeds, hyper, byzantine, schedule)
