"""Executes chunks side by side: one program over the devices, from checkpoints to the end."""

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
Record = Callable[[list[tuple[np.ndarray, Columns]]], Any]  # indices of runs, their columns


@dataclasses.dataclass(frozen=True)
class Task:
    """What all groups of chunks of a sweep have in common: arguments of `sweeps.sweep`."""

    build: run_batch.SystemFactory
    every: int
    measure: Measure
    delivery: str
    checkpoint_every: int
    progress: Callable[[int], Any] | None
    of: Callable[[simulation.Run], Any]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Chunks of w runs, W together, ready to run; only records leave their device.

    Attributes:
        task: the arguments of the sweep.
        chunks: the chunks, one for each device.
        inputs: the fingerprint of each chunk; empty without checkpoint.
        batch: the runs of all chunks.
        mesh: the devices.
        args: arguments of `run_batch.start` before `byzantine`.
        byzantine: masks of the runs.
    """

    task: Task
    chunks: Sequence[chunks.Chunk]
    inputs: Sequence[np.ndarray]
    batch: run_batch.RunBatch
    mesh: Mesh | None
    args: tuple[Any, ...]
    byzantine: Any

    def begin(self) -> tuple[int, Columns, simulation.Run]:
        """Returns the number of events that are done, the columns so far, and the runs."""
        start = functools.partial(run_batch.start, *self.args[:2], mesh=self.mesh)
        like = jax.eval_shape(start, *self.args[2:], self.byzantine)
        columns = self._empty(like)
        own = self._parts(columns)[0]
        width = len(self.chunks[0].ids)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((width, *a.shape[1:]), a.dtype), like)
        saved = [
            chunks.load(chunk, inputs, own, one)
            for chunk, inputs in zip(self.chunks, self.inputs, strict=True)
        ]
        if saved[0] is None:
            return 0, columns, start(*self.args[2:], self.byzantine)
        saved = [found or saved[0] for found in saved]  # padding begins like any other chunk
        run = devices.joined([found[2] for found in saved])
        run = devices.split(self.mesh, jax.tree.map(jnp.asarray, run))
        return saved[0][0], devices.joined([found[1] for found in saved]), run

    def _empty(self, like: Any) -> Columns:
        """Returns columns in which nothing has been recorded yet."""
        task = self.task
        shapes = jax.eval_shape(lambda run: task.measure(task.of(run)), like)
        inner = jax.eval_shape(lambda run: run.server.params, like).shape[1:-1]
        sizes = {"event": (), "seconds": (), "staleness": (), "nonfinite": inner}
        if self.batch.times is not None:
            sizes["virtual_seconds"] = ()
        sizes |= {name: value.shape[1:] for name, value in sorted(shapes.items())}
        leading = len(self.batch), -(-self.batch.schedules.shape[1] // task.every)
        return {name: np.full((*leading, *size), np.nan) for name, size in sizes.items()}

    def _parts(self, columns: Columns) -> list[Columns]:
        """Returns the columns of each chunk."""
        split = {name: np.split(c, len(self.chunks)) for name, c in columns.items()}
        return [{name: c[i] for name, c in split.items()} for i in range(len(self.chunks))]

    def program(
        self, call: Callable[..., Any], run: simulation.Run, segment: np.ndarray
    ) -> Any:
        """Calls `run_batch.advance`, or its `lower`, with a segment of the schedules."""
        segment = devices.split(self.mesh, segment)
        return call(*self.args, self.byzantine, run, segment, mesh=self.mesh)

    def row(self, end: int, runs: list[simulation.Run], info: Any) -> dict[str, Any]:
        """Returns what is recorded at event `end`, leaves [W, ...].

        Args:
            end: number of events that are done.
            runs: the runs of each device.
            info: diagnostics since the last record.
        """
        width = len(self.batch)
        row = {
            "event": end,
            "staleness": np.asarray(info["staleness"]).reshape(width, -1).max(axis=1),
            "nonfinite": np.asarray(info["nonfinite"]).sum(axis=1),
        }
        if self.batch.times is not None:
            row["virtual_seconds"] = self.batch.times[:, end - 1]
        # Every device measures its own runs, and all begin before the first is waited for.
        return row | devices.joined([self.task.measure(self.task.of(run)) for run in runs])

    def save(self, end: int, columns: Columns, runs: list[simulation.Run]) -> None:
        """Writes the checkpoint of each chunk."""
        parts = self._parts(columns)
        each = zip(self.chunks, self.inputs, parts, runs, strict=True)
        for chunk, inputs, part, run in each:
            chunks.save(chunk, inputs, end, part, run)

    def report(self, columns: Columns, record: Record) -> None:
        """Calls `record` with the columns of all runs that are not padding."""
        pairs = zip(self.chunks, self._parts(columns), strict=True)
        record([(c.runs, {n: a[: c.count] for n, a in part.items()}) for c, part in pairs])

    def final(self, runs: list[simulation.Run]) -> dict[int, run_batch.FinalRuns]:
        """Returns the end of the runs of each chunk, by the first run of the chunk."""
        ends: dict[int, run_batch.FinalRuns] = {}
        for chunk, run in zip(self.chunks, runs, strict=True):
            if chunk.count:
                params: Any = simulation.output(run)
                final = run_batch.FinalRuns(params, run.staleness)
                own = jax.tree.map(lambda a, n=chunk.count: np.asarray(a)[:n], final)
                ends[int(chunk.ids[0])] = own
        return ends


def _prepare(
    task: Task,
    batch: run_batch.RunBatch,
    group: Sequence[chunks.Chunk],
    local: list[devices.Device],
) -> _Group:
    mesh = devices.mesh_of(local[: len(group)])
    inputs = [
        chunks.fingerprint(
            task.build, batch.take(chunk.ids), task.delivery, task.every, task.measure
        )
        if chunk.path is not None
        else np.zeros(0, np.uint8)
        for chunk in group
    ]
    own = batch.take(np.concatenate([chunk.ids for chunk in group]))
    problem, seeds, hyper, byzantine = own.on(mesh)
    args = (task.build, task.delivery, problem, seeds, hyper)
    return _Group(task, group, inputs, own, mesh, args, byzantine)


def run(
    task: Task,
    batch: run_batch.RunBatch,
    group: Sequence[chunks.Chunk],
    local: list[devices.Device],
    record: Record,
) -> dict[int, run_batch.FinalRuns]:
    """Runs some chunks of a batch side by side, from their checkpoints to the end.

    Args:
        task: the arguments of the sweep.
        batch: all runs of the sweep.
        group: chunks at the same event, at most one for each device.
        local: the devices.
        record: called at every checkpoint with the columns of runs that are not padding.

    Returns:
        The end of the runs of each chunk, by the first run of the chunk.
    """
    made = _prepare(task, batch, group, local)
    schedules, own = made.batch.schedules, sum(chunk.count for chunk in group)
    events, width = schedules.shape[1], len(made.batch)
    done, columns, state = made.begin()
    if done and task.progress:
        task.progress(done * own)
    segments = simulation.segments(schedules, task.every, done, axis=1)
    for segment in segments:  # compiled before the clock runs
        made.program(run_batch.advance.lower, state, segment).compile()
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
            made.report(columns, record)
        if task.progress:
            task.progress((end - before) * own)
        before = end
    if done == events:  # nothing was left to do
        made.report(columns, record)
    return made.final(runs)
