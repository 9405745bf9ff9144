"""Sweeps: many runs in one compiled program, over seeds and hyper-parameters.

The runs of a batch have the same structure, and differ in seed and hyper-parameters. They
advance together (`run_batch`), a chunk of them on each device (`chunks`, `devices`,
`executor`). What differs in structure, the attack above all, is a Python loop over sweeps.

Between compiled segments a sweep measures, reports progress and writes a checkpoint. It can be
killed at any moment: called again with the same checkpoint file it continues from what was last
written, and ends with the same bits as an uninterrupted sweep.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from farsign_jax import programs, simulation
from farsign_jax.io import processes, provenance
from farsign_jax.problems.metrics import Measure
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.sweeps import chunks, executor
from farsign_jax.sweeps import devices as devices_lib
from farsign_jax.sweeps.inspection import SystemFactory, bytes_per_run, memory
from farsign_jax.sweeps.run_batch import FinalRuns, RunBatch
from farsign_jax.validation import require


def runs_that_fit(num_runs: int, bytes_of_one: int) -> int:
    """Returns how many runs a device may advance at a time, in half of its free memory."""
    _, free = memory(num_runs)
    return int(np.clip(free // 2 // max(bytes_of_one, 1), 1, num_runs))


def cut(
    build: SystemFactory,
    batch: RunBatch,
    delivery: str,
    max_parallel_runs: int | None,
    checkpoint: str | os.PathLike[str] | None,
    devices: Sequence[devices_lib.Device],
) -> list[chunks.Chunk]:
    """Cuts a batch into chunks, one for each device at a time: arguments as of `sweep`."""
    total = len(batch)
    fit = max_parallel_runs or runs_that_fit(total, bytes_per_run(build, batch, delivery))
    path = None if checkpoint is None else pathlib.Path(checkpoint)
    number = chunks.agree_number(total, fit, len(devices), max_parallel_runs, path)
    return chunks.cut(total, number, path)


def sweep(
    build: SystemFactory,
    batch: RunBatch,
    *,
    every: int,
    measure: Measure,
    delivery: str = "fresh",
    max_parallel_runs: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    progress: Callable[[int], Any] | None = None,
    on_checkpoint: Callable[[dict[str, np.ndarray]], Any] | None = None,
    of: Callable[[simulation.Run], Any] = simulation.output,
    devices: Sequence[devices_lib.Device] | None = None,
) -> tuple[dict[str, np.ndarray], FinalRuns]:
    """Runs a batch to its end, over devices, and over the processes that `processes` connects.

    Of several processes, all call this alike. In the end all have the results of all runs;
    until then each has those of its own runs.

    Args:
        build: `(problem, hyper) -> System`; hashable by value, or one object for all calls:
            the program is compiled once for each.
        batch: the runs.
        every: events between two records.
        measure: evaluated on params f32[runs, d] for each record.
        delivery: "fresh", "outstanding:L" or "inconsistent:L".
        max_parallel_runs: number of runs that a device advances at a time; by default what
            fits into half of its free memory, or fewer if that would leave devices without
            runs.
        checkpoint: file from which an interrupted sweep continues, or None. The number of
            devices and processes may change in between, if all see the same files.
        checkpoint_every: events between two checkpoints, rounded up to a record.
        progress: called with the number of events, summed over runs, since the last call.
        on_checkpoint: called with the columns so far, NaN where nothing is recorded yet.
        of: what `measure` is given of the runs, leaves [runs, ...].
        devices: devices of this process; by default all of them.

    Returns:
        Columns [R, E] for E records of a run: `event`, `seconds` (in the loop, divided by the
        number of runs side by side), `virtual_seconds` (if the batch has times), `staleness`
        (largest since the last record), `nonfinite` (messages with NaN or infinity) and the
        measures; and the end of the runs. If a run of the batch is L runs in lock-step,
        `nonfinite` and the measures are [R, E, L].

    Raises:
        InvalidConfig: before the loop starts, if anything cannot run as configured, or if the
            checkpoint belongs to another sweep.
    """
    require(every > 0, f"need every > 0 events between records: got {every}")
    require(checkpoint_every > 0, f"need checkpoint_every > 0: got {checkpoint_every}")
    require(
        max_parallel_runs is None or max_parallel_runs > 0,
        f"need max_parallel_runs > 0: got {max_parallel_runs}",
    )
    programs.release_if_many()
    local = devices_lib.local(devices)
    batch.check(build, delivery)
    index, count = processes.place()
    if count > 1:
        inputs = chunks.fingerprint(build, batch, delivery, every, measure)
        processes.agree(inputs.tobytes().hex(), "settings and data")
        processes.agree(provenance.code()["digest"], "code")
    total = len(batch)
    all_chunks = cut(build, batch, delivery, max_parallel_runs, checkpoint, local)
    task = executor.Task(build, every, measure, delivery, checkpoint_every, progress, of)
    columns: dict[str, np.ndarray] = {}

    def record(parts: list[tuple[np.ndarray, executor.Columns]]) -> None:
        for ids, part in parts:
            for name, column in part.items():
                empty = np.full((total, *column.shape[1:]), np.nan)
                columns.setdefault(name, empty)[ids] = column
        if on_checkpoint:
            on_checkpoint(columns)

    own = all_chunks[index::count]
    ends: dict[int, FinalRuns] = {}
    for group in chunks.side_by_side(own, len(local)):
        ends |= executor.run(task, batch, group, local, record)
    if count > 1:
        runs = np.concatenate([np.arange(0), *(chunk.runs for chunk in own)])
        columns_of_all = processes.exchange_arrays(
            {"runs": runs} | {name: column[runs] for name, column in columns.items()}
        )
        record([(part.pop("runs"), part) for part in columns_of_all])
        ends = _exchange_ends(ends)
        if progress:
            progress((total - len(runs)) * batch.schedules.shape[1])
    return columns, devices_lib.joined([ends[first] for first in sorted(ends)])


def _exchange_ends(ends: dict[int, FinalRuns]) -> dict[int, FinalRuns]:
    """Returns the ends of the runs of all processes, by the first run of each chunk."""
    arrays = {
        f"{first}/{number}": leaf
        for first, final in ends.items()
        for number, leaf in enumerate(jax.tree.leaves(final))
    }
    form = jax.tree.structure(FinalRuns(0, Staleness(0, 0, 0, 0)))  # pyright: ignore
    merged: dict[int, dict[int, np.ndarray]] = {}
    for part in processes.exchange_arrays(arrays):
        for name, leaf in part.items():
            first, _, number = name.partition("/")
            merged.setdefault(int(first), {})[int(number)] = leaf
    return {
        first: jax.tree.unflatten(form, [leaves[n] for n in sorted(leaves)])
        for first, leaves in merged.items()
    }
