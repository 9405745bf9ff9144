"""What the system of a run batch tells before anything runs: its costs, and its errors.

The system is built once for all runs of the batch, and once only for the batches that differ in
nothing but seeds, schedules and hyper-parameters.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax import simulation
from farsign_jax.base import Problem, System
from farsign_jax.validation import InvalidConfig, check_points, compiled_conditions

SystemFactory = Callable[[Problem, Any], System]  # (problem, hyper) -> system

_MOST_POINTS = 4096  # of each build that need no second check
_LEAST = 32  # points that are checked together, so that few programs do for all numbers of them


class Inspection(NamedTuple):
    """What all runs of a batch have in common.

    Attributes:
        evaluations: mini-batch losses or gradients per answer.
        bits: size of an answer.
        batch_size: examples per mini-batch.
        in_rounds: whether the server needs a schedule of rounds.
        left_out: examples of each shard that the worker does not draw from.
        state: shapes of a run's state with one open question, leaves without the axis of runs.
        memory_advice: of the server.
    """

    evaluations: int
    bits: int
    batch_size: int
    in_rounds: bool
    left_out: int
    state: simulation.Run
    memory_advice: Callable[[str, int, int, int], str] | None


def inspect(build: SystemFactory, problem: Problem, hyper: Any) -> Inspection:
    """Builds the system of a batch once, and checks the hyper-parameters of all runs with it.

    Args:
        build: makes the system of one run.
        problem: of R runs, as in `RunBatch`.
        hyper: hyper-parameters, leaves [P, ...], P >= 1.

    Raises:
        InvalidConfig: if the system of some run cannot be built; the message names the value.
    """
    points = _distinct(hyper)
    leaves, tree = jax.tree.flatten(points)
    arrays = [problem.rows[0], problem.sizes[0], problem.x0[0], *jax.tree.leaves(problem.data)]
    shapes = tuple((a.shape, str(a.dtype)) for a in arrays)
    types = tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in leaves)
    key = (build, problem.losses, problem.structure, shapes, tree, types)
    return _known(*key).checked(problem_of_run(problem, 0), points)


class _Known:
    """What is known of the systems of one build, for problems of the same shapes."""

    def __init__(self, build: SystemFactory):
        self._build = build
        self._found: list[Inspection] = []
        self._valid: set[tuple[bytes, ...]] = set()
        self._compiled = compiled_conditions(lambda p, h: (build(p, h), p), self._record)

    def checked(self, problem: Problem, points: Any) -> Inspection:
        """The inspection, after a check of points that were not checked before."""
        leaves = jax.tree.leaves(points)
        values = tuple(leaf.tobytes() for leaf in leaves)
        if not self._found or values not in self._valid:
            problem = jax.device_put(problem)  # `build` is given arrays of JAX
            if not leaves:
                self._record((self._build(problem, points), problem))
            else:
                self._check(problem, points)
            if len(self._valid) >= _MOST_POINTS:
                self._valid.clear()
            self._valid.add(values)
        return self._found[0]

    def _record(self, made: tuple[System, Problem]) -> None:
        self._found.append(_inspection(*made))

    def _check(self, problem: Problem, points: Any) -> None:
        count = len(jax.tree.leaves(points)[0])
        padding = max(_LEAST, 1 << (count - 1).bit_length()) - count
        pad = lambda a: np.concatenate([a, np.repeat(a[-1:], padding, axis=0)])  # noqa: E731
        check_points(self._build, jax.tree.map(pad, points), (problem,), self._compiled)


@functools.lru_cache(maxsize=64)
def _known(build: SystemFactory, *shapes: Any) -> _Known:
    del shapes  # which tell the problems and the points apart
    return _Known(build)


def problem_of_run(problem: Problem, run: Any) -> Problem:
    """Returns the problem of one run of a batch; the data remain those of all runs."""
    own = {name: getattr(problem, name)[run] for name in ("rows", "sizes", "x0")}
    return dataclasses.replace(problem, **own)


def _distinct(hyper: Any) -> Any:
    """Returns the different points among the hyper-parameters of the runs."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(hyper)]
    if not leaves:
        return hyper
    seen: dict[tuple[bytes, ...], int] = {}
    for number in range(len(leaves[0])):
        seen.setdefault(tuple(leaf[number].tobytes() for leaf in leaves), number)
    first = [seen[point] for point in sorted(seen)]  # in an order that no batch decides
    return jax.tree.map(lambda leaf: np.asarray(leaf)[first], hyper)


def _inspection(system: System, problem: Problem) -> Inspection:
    keys = keys_lib.split(0)
    worker = system.worker
    return Inspection(
        evaluations=worker.evaluations,
        bits=simulation.bits_per_answer(system, problem),
        batch_size=worker.batch_size,
        in_rounds=system.server.in_rounds,
        left_out=worker.left_out,
        state=jax.eval_shape(lambda: simulation.start(system, problem, keys, "outstanding")),
        memory_advice=system.server.memory_advice,
    )


def _sizes(
    build: SystemFactory, batch: Any, delivery: str
) -> tuple[Inspection, dict[str, tuple[int, Any]]]:
    """Returns the bytes and shape of each array that one run keeps on the device, by name."""
    found = inspect(build, batch.problem, batch.hyper)
    problem, open_questions = batch.problem, simulation.depth(delivery)
    own = {name: getattr(problem, name)[0] for name in ("rows", "sizes", "x0")}
    sizes = {name: (tree_bytes(leaf), leaf) for name, leaf in own.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(found.state):
        name = jax.tree_util.keystr(path).lstrip(".")
        times = open_questions if name.startswith("inbox") else 1
        sizes[name] = times * tree_bytes(leaf), leaf
    if length := simulation.history_length(delivery):
        params = jax.eval_shape(lambda server: server.params, found.state.server)
        kept = jax.ShapeDtypeStruct((length, *params.shape), params.dtype)
        sizes["history.params"] = tree_bytes(kept), kept
    return found, sizes


def tree_bytes(tree: Any) -> int:
    """Returns the bytes that the arrays of a tree take, or those that its shapes stand for."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_per_run(build: SystemFactory, batch: Any, delivery: str = "fresh") -> int:
    """Returns the bytes that one run keeps on the device, without data and scratch memory."""
    return sum(size for size, _ in _sizes(build, batch, delivery)[1].values())


def check_memory(build: SystemFactory, batch: Any, delivery: str) -> None:
    """Raises `InvalidConfig` if not even one run of the batch fits into a device."""
    available = memory(len(batch))[0]
    needed = bytes_per_run(build, batch, delivery)
    if needed <= available:
        return
    found, sizes = _sizes(build, batch, delivery)
    name, (size, leaf) = max(sizes.items(), key=lambda item: item[1][0])
    text = f"a run needs {needed / 2**30:.3g} GiB, the device has {available / 2**30:.3g}: "
    text += f"{name} {leaf.dtype}{list(leaf.shape)} takes {size / 2**30:.3g}"
    if found.memory_advice is not None and name.startswith("server."):
        field = name.removeprefix("server.")
        advice = found.memory_advice(field, size, needed - size, available)
        text += f"; {advice}" if advice else ""
    raise InvalidConfig(text)


def memory(num_runs: int) -> tuple[int, int]:
    """Returns the bytes of one of the devices that these runs use, and how many are free."""
    local = jax.local_devices()
    stats = local[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], stats["bytes_limit"] - stats["bytes_in_use"]
    used = min(num_runs, len(local))  # devices, which divide the memory of the host
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    meminfo = pathlib.Path("/proc/meminfo")  # of Linux: caches can be given back
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="utf-8"))
        free = int(found.group(1)) * 1024 if found else free
    return total // used, free // used
