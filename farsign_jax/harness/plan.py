"""What a command would run, counted before it begins: --dry_run."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from farsign_jax import sweeps
from farsign_jax.io import run_folder, tables
from farsign_jax.problems.metrics import Measure
from farsign_jax.sweeps import chunks, devices
from farsign_jax.sweeps.inspection import bytes_per_run, tree_bytes


class Sweep(NamedTuple):
    """The arguments of `sweeps.sweep`, and what its rows say of it.

    Attributes:
        runs: of each row of the batch: several in lock-step.
        evaluations, bits: per answer.
    """

    name: str
    program: Any
    batch: sweeps.RunBatch
    every: int
    measure: Measure
    delivery: str
    max_parallel_runs: int | None
    checkpoint: Any
    runs: int
    evaluations: int
    bits: int

    def run(self, **options: Any) -> tuple[dict[str, np.ndarray], sweeps.FinalRuns]:
        """Runs all of it; `options` are other arguments of `sweeps.sweep`."""
        return sweeps.sweep(
            self.program,
            self.batch,
            every=self.every,
            measure=self.measure,
            delivery=self.delivery,
            max_parallel_runs=self.max_parallel_runs,
            **options,
        )

    @property
    def events(self) -> int:
        """Of the whole batch."""
        return len(self.batch) * self.batch.schedules.shape[1]

    @property
    def answers(self) -> int:
        """Of all runs."""
        return int((self.batch.schedules >= 0).sum()) * self.runs

    def chunks(self) -> list[chunks.Chunk]:
        """The chunks in which devices run it."""
        limits = self.delivery, self.max_parallel_runs, self.checkpoint
        return sweeps.cut(self.program, self.batch, *limits, devices.local())


class Count(NamedTuple):
    """A sweep in numbers: events of the batch that are done, and bytes on a device."""

    sweep: Sweep
    done: int
    on_device: int


def count(sweep: Sweep) -> Count:
    """Counts what a sweep does, and how much of it its checkpoints have done.

    Raises:
        InvalidConfig: if a checkpoint belongs to another sweep.
    """
    cut = sweep.chunks()
    for chunk in cut:
        if chunk.path is not None and chunk.path.exists():
            own = sweep.batch.take(chunk.ids)
            how = sweep.delivery, sweep.every, sweep.measure
            chunks.check(chunk, chunks.fingerprint(sweep.program, own, *how))
    done = sum(chunk.count * chunks.done(chunk) for chunk in cut)
    each = bytes_per_run(sweep.program, sweep.batch, sweep.delivery)
    return Count(sweep, done, len(cut[0].ids) * each)


def size(count: float) -> str:
    """1234567 bytes as 1.2 MB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def print_plan(
    every: Iterable[Sweep], folder: run_folder.RunFolder, notes: Sequence[str] = ()
) -> None:
    """Prints what a command would run.

    Args:
        every: the sweeps of the command.
        folder: where they would leave their results.
        notes: what else the command does, in sentences.
    """
    found = [count(sweep) for sweep in every]
    print(_table(found))
    data = max(tree_bytes(one.sweep.batch.problem.data) for one in found)
    local = devices.local()
    kind = f"{local[0].device_kind} ({local[0].platform})"
    print(f"Data: {size(data)} on each device, {len(local)} x {kind}.")
    state = "exists" if folder.path.exists() else "would be created"
    print(f"Folder: {folder.path}, which {state}.")
    for note in notes:
        print(note)
    print("Nothing was written.")


def _table(found: Sequence[Count]) -> str:
    header = ["sweep", "runs", "answers each", "evaluations", "workers send", "on a device"]
    rows, total, done, events = [], np.zeros(4), 0, 0
    for one in found:
        sweep, answers = one.sweep, one.sweep.answers
        numbers = len(sweep.batch) * sweep.runs, answers, answers * sweep.evaluations
        numbers = np.array([*numbers, answers * sweep.bits / 8], float)
        total += numbers
        done, events = done + one.done * sweep.runs, events + sweep.events * sweep.runs
        rows.append(_row(sweep.name, numbers, one.on_device, one.done / sweep.events))
    largest = max(one.on_device for one in found)
    rows.append(_row("all", total, largest, done / events))
    return tables.markdown_table([*header, "done, %"], rows)


def _row(name: str, numbers: Iterable[float], on_device: int, done: float) -> list[str]:
    runs, answers, evaluations, sent = numbers
    counts = [f"{runs:,.0f}", f"{answers / runs:,.0f}", f"{evaluations:,.0f}"]
    return [name, *counts, size(sent), size(on_device), f"{100 * done:.0f}"]
