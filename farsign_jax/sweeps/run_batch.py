"""Lanes: runs of one structure, and the programs that start them and move them on.

Lanes that share their structure (method, attack, model, sizes) advance together under `vmap`,
and over the devices of a mesh. `build` is called inside the compiled program, so
hyper-parameters are tracers and a whole grid compiles once.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from farsign_jax import arrivals, attacks, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Problem, PyTree, System
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.sweeps import devices
from farsign_jax.validation import InvalidConfig

SystemFactory = Callable[[Problem, Any], System]


class FinalRuns(NamedTuple):
    """What is left of L lanes in the end."""

    params: np.ndarray  # f32[L, d], or f32[L, runs, d] where a lane is several runs
    staleness: Staleness  # leaves [L, m, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunBatch:
    """L runs of one structure.

    Attributes:
        problem: `data` shared by all lanes; rows i32[L, m, n], sizes i32[L, m], x0 f32[L, d].
        seeds: i32[L].
        hyper: hyper-parameters, leaves [L], handed to `build` one lane at a time.
        byzantine: bool[L, m], or bool[L, P, m] where it changes (`simulate.run`).
        schedules: i32[L, T] or i32[L, T, s]; stays on the host, like
        times: f64[L, T], virtual seconds of the events, or None.
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
        """The `problem` of `count` lanes that share it."""
        spread = lambda a: jnp.broadcast_to(a, (count, *a.shape))  # noqa: E731
        return dataclasses.replace(
            problem,
            rows=spread(problem.rows),
            sizes=spread(problem.sizes),
            x0=spread(problem.x0),
        )

    def take(self, lanes: Any) -> "RunBatch":
        """Some of the lanes (an index, a slice or an array of ids), data still shared."""
        pick = functools.partial(jax.tree.map, lambda a: a[lanes])
        p = self.problem
        rest = dataclasses.replace(p, rows=p.rows[lanes], sizes=p.sizes[lanes], x0=p.x0[lanes])
        return RunBatch(
            rest,
            self.seeds[lanes],
            pick(self.hyper),
            self.byzantine[lanes],
            self.schedules[lanes],
            None if self.times is None else self.times[lanes],
        )

    def on(self, mesh: Mesh | None) -> tuple[Problem, Array, Any, Array]:
        """Problem, seeds, hyper-parameters and liars for `start` and `advance`: each device has
        those of its own lanes, a multiple of the devices, and all of the data."""
        own = self.seeds, self.hyper, self.byzantine
        return devices.spread(mesh, self.problem), *devices.split(mesh, own)

    def check(self, build: SystemFactory, delivery: str) -> None:
        """Builds every lane's system once outside the program: bad values fail here."""
        simulation.depth(delivery)  # refuses what is none
        for lane in range(len(self)):
            one = self.take(lane)
            problem = jax.device_put(one.problem)  # what `build` is given are arrays of JAX
            simulation.check_batch(build(problem, one.hyper), problem.sizes)
            attacks.byzantine_mask(problem.num_workers, one.byzantine)
            schedule = arrivals.Schedule(one.schedules, one.times)
            arrivals.check_schedule(schedule, problem.num_workers)
        needed, there = bytes_per_run(build, self, delivery), memory(len(self))[0]
        if needed > there:
            raise InvalidConfig(_too_much(build, self, delivery, needed, there))


def _over_lanes(f: Callable, problem: Problem, *rest: Any) -> Any:
    """f of every lane; a single lane stays free of a batch axis, so its conditions branch."""
    per_lane = dataclasses.replace(problem, data=None, rows=0, sizes=0, x0=0)
    if len(problem.sizes) > 1:
        return jax.vmap(f, in_axes=(per_lane, *(0 for _ in rest)))(problem, *rest)
    out = f(_of_lane(problem, 0), *jax.tree.map(lambda a: a[0], rest))
    return jax.tree.map(lambda a: a[None], out)


def _in_turns(f: Callable, problem: Problem, run: PyTree, *rest: Any) -> Any:
    """(runs, info) of `f(problem, run, ...)` of every lane, one after the other, in place."""

    def turn(runs, lane):
        own = jax.tree.map(lambda a: a[lane], (runs, *rest))
        one, info = f(_of_lane(problem, lane), *own)
        return jax.tree.map(lambda a, new: a.at[lane].set(new), runs, one), info

    return jax.lax.scan(turn, run, jnp.arange(len(problem.sizes), dtype=jnp.int32))


def _of_lane(problem: Problem, lane: Any) -> Problem:
    own = {name: getattr(problem, name)[lane] for name in ("rows", "sizes", "x0")}
    return dataclasses.replace(problem, **own)


@functools.partial(jax.jit, static_argnames=("build", "delivery", "mesh"))
def start(build, delivery, problem, seeds, hyper, mesh=None):
    """The runs of all lanes before the first event, leaves [L, ...]."""

    def one(problem, seed, hyper):
        return simulation.start(build(problem, hyper), problem, keys_lib.split(seed), delivery)

    return devices.over(mesh, functools.partial(_over_lanes, one), problem, seeds, hyper)


@functools.partial(
    jax.jit, static_argnames=("build", "delivery", "mesh", "turns"), donate_argnames=("run",)
)
def advance(
    build, delivery, problem, seeds, hyper, byzantine, run, schedule, mesh=None, turns=None
):
    """All lanes through their schedules, [L, T] or [L, T, s]: (run, info). Consumes `run`.

    The lanes of a device go in turns or side by side, to the same bits. On a CPU, unless told
    otherwise, in turns: what one run touches stays in the caches.
    """

    def one(problem, run, seed, hyper, byzantine, schedule):
        system, keys = build(problem, hyper), keys_lib.split(seed)
        return simulation.advance(system, problem, byzantine, keys, delivery, run, schedule)

    turns = jax.default_backend() == "cpu" if turns is None else turns

    def all_of(problem, *rest):  # the lanes of one device
        each = _in_turns if turns and len(problem.sizes) > 1 else _over_lanes
        return each(one, problem, *rest)

    return devices.over(mesh, all_of, problem, run, seeds, hyper, byzantine, schedule)


def _kept(build: SystemFactory, lanes: RunBatch, delivery: str) -> Any:
    """Shapes of all that the first lane keeps on the device while it runs."""
    one = lanes.take(slice(0, 1))
    p = one.problem
    begin = functools.partial(start, build, delivery)
    return p.rows, p.sizes, p.x0, jax.eval_shape(begin, p, one.seeds, one.hyper)


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


def _too_much(
    build: SystemFactory, lanes: RunBatch, delivery: str, needed: int, there: int
) -> str:
    """What a run needs, what there is, and what would fit."""
    whole = jax.tree_util.tree_leaves_with_path(_kept(build, lanes, delivery))
    path, leaf = max(whole, key=lambda pair: _bytes(pair[1]))
    name, most = jax.tree_util.keystr(path[1:]).lstrip("."), _bytes(leaf)
    text = f"a run needs {needed / 2**30:.3g} GiB, the device has {there / 2**30:.3g}: "
    text += f"{name} {leaf.dtype}{list(leaf.shape[1:])} takes {most / 2**30:.3g}"
    rest = needed - most
    if name != "server.averages" or rest >= there:
        return text
    workers = leaf.shape[1]
    slots = (there - rest) // (8 * workers)
    half = f"storage=bfloat16 needs {(rest + most // 2) / 2**30:.3g} GiB, "
    hashed = f"storage=hashed,slots={slots} or less fits (methods.average_storage)"
    return f"{text}; {half}and {hashed}"


def bytes_per_run(build: SystemFactory, lanes: RunBatch, delivery: str = "fresh") -> int:
    """Bytes one lane keeps on the device while it runs, data and scratch apart."""
    return sum(map(_bytes, jax.tree.leaves(_kept(build, lanes, delivery))))


def memory(lanes: int) -> tuple[int, int]:
    """Bytes of one device that some of these lanes use, and how many of them are free."""
    local = jax.local_devices()
    stats = local[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], stats["bytes_limit"] - stats["bytes_in_use"]
    used = min(lanes, len(local))  # devices, which share the memory of the host
    page = os.sysconf("SC_PAGE_SIZE")
    whole, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    told = pathlib.Path("/proc/meminfo")  # of Linux: what caches would give back is free, too
    if told.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", told.read_text())
        free = int(found.group(1)) * 1024 if found else free
    return whole // used, free // used
