"""Shares side by side: one program over the devices, from their checkpoints to the end."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from farsign_jax import simulation
from farsign_jax.problems.metrics import Measure
from farsign_jax.sweeps import chunks, devices, run_batch

Columns = dict[str, np.ndarray]  # leaves [W, E, ...]


Record = Callable[[list[tuple[np.ndarray, Columns]]], Any]  # ids of lanes, and their columns


@dataclasses.dataclass(frozen=True)
class Task:
    """What all batches of a sweep have in common: arguments of `sweeps.sweep`."""

    build: run_batch.SystemFactory
    every: int
    measure: Measure
    delivery: str
    checkpoint_every: int
    progress: Callable[[int], Any] | None
    of: Callable[[simulation.Run], Any]


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Shares of w lanes, W together, ready to run; nothing leaves its device but records."""

    task: Task
    shares: Sequence[chunks.Chunk]
    inputs: Sequence[np.ndarray]  # `shares.fingerprint` of each; nothing without checkpoint
    together: run_batch.RunBatch  # of all shares
    mesh: Mesh | None
    args: tuple  # of `lanes.start`, and those that `lanes.advance` has beside
    lies: Any

    def begin(self) -> tuple[int, Columns, simulation.Run]:
        """Events that are done, the columns so far, and the runs."""
        like = jax.eval_shape(
            functools.partial(run_batch.start, *self.args[:2]), *self.args[2:]
        )
        columns = self._empty(like)
        own = self._parts(columns)[0]
        width = len(self.shares[0].ids)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((width, *a.shape[1:]), a.dtype), like)
        kept = [
            chunks.load(share, told, own, one)
            for share, told in zip(self.shares, self.inputs, strict=True)
        ]
        if kept[0] is None:
            return 0, columns, run_batch.start(*self.args, mesh=self.mesh)
        kept = [found or kept[0] for found in kept]  # spare shares begin like any other
        run = devices.joined([found[2] for found in kept])
        run = devices.split(self.mesh, jax.tree.map(jnp.asarray, run))
        return kept[0][0], devices.joined([found[1] for found in kept]), run

    def _empty(self, like: Any) -> Columns:
        task = self.task
        shapes = jax.eval_shape(lambda run: task.measure(task.of(run)), like)
        inner = jax.eval_shape(lambda run: run.server.params, like).shape[1:-1]
        sizes = {"event": (), "seconds": (), "staleness": (), "nonfinite": inner}
        if self.together.times is not None:
            sizes["virtual_seconds"] = ()
        sizes |= {name: value.shape[1:] for name, value in sorted(shapes.items())}
        leading = len(self.together), -(-self.together.schedules.shape[1] // task.every)
        return {name: np.full((*leading, *size), np.nan) for name, size in sizes.items()}

    def _parts(self, columns: Columns) -> list[Columns]:
        """The columns of each share."""
        split = {name: np.split(c, len(self.shares)) for name, c in columns.items()}
        return [{name: c[i] for name, c in split.items()} for i in range(len(self.shares))]

    def program(self, call: Callable, run: simulation.Run, chunk: np.ndarray) -> Any:
        """`lanes.advance`, or its `lower`, with the next piece of the schedules."""
        chunk = devices.split(self.mesh, chunk)
        return call(*self.args, self.lies, run, chunk, mesh=self.mesh)

    def row(self, end: int, runs: list[simulation.Run], info: Any) -> dict[str, Any]:
        """What is recorded at event `end`, leaves [W, ...]; `runs` are those of each device."""
        width = len(self.together)
        row = {
            "event": end,
            "staleness": np.asarray(info["staleness"]).reshape(width, -1).max(axis=1),
            "nonfinite": np.asarray(info["nonfinite"]).sum(axis=1),
        }
        if self.together.times is not None:
            row["virtual_seconds"] = self.together.times[:, end - 1]
        # Every device measures its own, and all have begun before one is waited for.
        return row | devices.joined([self.task.measure(self.task.of(run)) for run in runs])

    def save(self, end: int, columns: Columns, runs: list[simulation.Run]) -> None:
        parts = self._parts(columns)
        for share, told, part, run in zip(self.shares, self.inputs, parts, runs, strict=True):
            chunks.save(share, told, end, part, run)

    def tell(self, columns: Columns, record: Record) -> None:
        """Hands on the columns of all lanes that are not spare."""
        pairs = zip(self.shares, self._parts(columns), strict=True)
        record([(s.lanes, {n: c[: s.count] for n, c in part.items()}) for s, part in pairs])

    def left(self, runs: list[simulation.Run]) -> dict[int, run_batch.FinalRuns]:
        """By the first lane of each share, what is left of its lanes."""
        ends = {}
        for share, run in zip(self.shares, runs, strict=True):
            if share.count:
                params: Any = simulation.output(run)
                final = run_batch.FinalRuns(params, run.staleness)
                own = jax.tree.map(lambda a, n=share.count: np.asarray(a)[:n], final)
                ends[int(share.ids[0])] = own
        return ends


def _ready(
    task: Task,
    given: run_batch.RunBatch,
    batch: Sequence[chunks.Chunk],
    local: list[devices.Device],
) -> _Batch:
    mesh = devices.mesh_of(local[: len(batch)])
    inputs = [
        chunks.fingerprint(task.build, given.take(share.ids), task.delivery, task.every)
        if share.path is not None
        else np.zeros(0, np.uint8)
        for share in batch
    ]
    own = given.take(np.concatenate([share.ids for share in batch]))
    problem, seeds, hyper, lies = own.on(mesh)
    args = (task.build, task.delivery, problem, seeds, hyper)
    return _Batch(task, batch, inputs, own, mesh, args, lies)


def run(
    task: Task,
    given: run_batch.RunBatch,
    batch: Sequence[chunks.Chunk],
    local: list[devices.Device],
    record: Record,
) -> dict[int, run_batch.FinalRuns]:
    """Runs some shares of the lanes, one on each device, all equally far.

    Hands what is not spare to `record` at every checkpoint. Returns what is left of each share,
    by its first lane.
    """
    made = _ready(task, given, batch, local)
    schedules, mine = made.together.schedules, sum(share.count for share in batch)
    events, width = schedules.shape[1], len(made.together)
    done, columns, state = made.begin()
    if done and task.progress:
        task.progress(done * mine)
    for chunk in simulation.chunks(
        schedules, task.every, done, axis=1
    ):  # before the clock runs
        made.program(run_batch.advance.lower, state, chunk).compile()
    step = functools.partial(made.program, run_batch.advance)
    seconds = columns["seconds"][:, -(-done // task.every) - 1] if done else 0.0
    before, runs = done, devices.each(made.mesh, state)
    driven = simulation.drive(step, state, schedules, task.every, done, axis=1)
    for end, state, info, took in driven:
        runs, seconds = devices.each(made.mesh, state), seconds + took / width
        row = made.row(end, runs, info) | {"seconds": seconds}
        for name, value in row.items():
            columns[name][:, -(-end // task.every) - 1] = value
        due = end // task.checkpoint_every > (end - task.every) // task.checkpoint_every
        if due or end == events:
            made.save(end, columns, runs)
            made.tell(columns, record)
        if task.progress:
            task.progress((end - before) * mine)
        before = end
    if done == events:  # nothing was left to do
        made.tell(columns, record)
    return made.left(runs)
