"""Many runs at once: one compiled program over seeds and hyper-parameters.

A *lane* is one run: a seed and a point of hyper-parameters. Lanes that share their structure
advance together (`lanes`), a *share* of them on each device (`shares`, `devices`); what differs
in structure, the attack above all, is a Python loop over sweeps.

Between compiled segments a sweep measures, reports progress and writes a checkpoint. It can
be killed at any moment; called again with the same checkpoint file it continues where the
last one was written, and ends with the same bits as an uninterrupted run.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from farsign_jax import programs, simulation
from farsign_jax.io import processes, provenance
from farsign_jax.problems.metrics import Measure
from farsign_jax.sweeps import chunks, executor
from farsign_jax.sweeps import devices as devices_lib
from farsign_jax.sweeps.run_batch import (
    FinalRuns,
    RunBatch,
    SystemFactory,
    bytes_per_run,
    memory,
)
from farsign_jax.validation import require


def runs_that_fit(num_lanes: int, bytes_per_lane: int) -> int:
    """How many lanes a device may run side by side: half of its free memory is theirs."""
    _, free = memory(num_lanes)
    return int(np.clip(free // 2 // max(bytes_per_lane, 1), 1, num_lanes))


def cut(
    build: SystemFactory,
    lanes: RunBatch,
    delivery: str,
    max_parallel_runs: int | None,
    checkpoint: str | os.PathLike | None,
    devices: Sequence[devices_lib.Device],
) -> list[chunks.Chunk]:
    """All lanes in shares, each what one device has at a time: arguments as of `sweep`."""
    total = len(lanes)
    fit = max_parallel_runs or runs_that_fit(total, bytes_per_run(build, lanes, delivery))
    path = None if checkpoint is None else pathlib.Path(checkpoint)
    number = chunks.agreed(total, fit, len(devices), max_parallel_runs, path)
    return chunks.cut(total, number, path)


def sweep(
    build: SystemFactory,
    lanes: RunBatch,
    *,
    every: int,
    measure: Measure,
    delivery: str = "fresh",
    max_parallel_runs: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    progress: Callable[[int], Any] | None = None,
    on_checkpoint: Callable[[dict[str, np.ndarray]], Any] | None = None,
    of: Callable[[simulation.Run], Any] = simulation.output,
    devices: Sequence[devices_lib.Device] | None = None,
) -> tuple[dict[str, np.ndarray], FinalRuns]:
    """Runs all lanes, over devices, and over processes that `jax.distributed` connects.

    Of several processes, all call this alike, and all are told everything in the end; until
    then each hears of its own lanes.

    Args:
        build: `(problem, hyper) -> System`; hashable by value, or one object for all calls:
            the program is compiled once for each.
        lanes: the runs.
        every: events between two records.
        measure: of params f32[lanes, d], for each record.
        delivery: "fresh" or "outstanding".
        max_parallel_runs: lanes side by side on a device; default: what fits into half of its free
            memory, or fewer where that leaves no device without.
        checkpoint: file that makes the sweep resumable; None, not resumable. With other
            devices or processes, too, if these see the same files.
        checkpoint_every: events between two checkpoints, rounded up to a record.
        progress: called with the number of run-events done since the last call.
        on_checkpoint: called with the columns so far, NaN where nothing is recorded yet.
        of: what of the runs, leaves [lanes, ...], `measure` is given.
        devices: of this process; default: all of them.

    Returns:
        Columns [L, E] for E records a lane: `event`, `seconds` (a lane's share of the time
        its batch spent in the loop), `virtual_seconds` (where the lanes have times),
        `staleness` (largest since the last record), `nonfinite` (messages with NaN or inf in
        them) and the measures; and what is left in the end. Where a lane is several runs in
        lock-step, `nonfinite` and the measures are [L, E, runs].

    Raises:
        InvalidConfig: before the loop starts, on anything that cannot run as asked, or on a
            checkpoint of another sweep.
    """
    require(every > 0, f"need every > 0 events between records: got {every}")
    require(checkpoint_every > 0, f"need checkpoint_every > 0: got {checkpoint_every}")
    require(
        max_parallel_runs is None or max_parallel_runs > 0,
        f"need max_parallel_runs > 0: got {max_parallel_runs}",
    )
    programs.release_if_many()
    local = devices_lib.local(devices)
    lanes.check(build, delivery)
    index, count = processes.place()
    if count > 1:
        inputs = chunks.fingerprint(build, lanes, delivery, every)
        processes.agree(inputs.tobytes().hex(), "settings and data")
        processes.agree(provenance.code()["digest"], "code")
    total = len(lanes)
    all_shares = cut(build, lanes, delivery, max_parallel_runs, checkpoint, local)
    task = executor.Task(build, every, measure, delivery, checkpoint_every, progress, of)
    columns: dict[str, np.ndarray] = {}

    def record(parts):
        for ids, part in parts:
            for name, column in part.items():
                empty = np.full((total, *column.shape[1:]), np.nan)
                columns.setdefault(name, empty)[ids] = column
        if on_checkpoint:
            on_checkpoint(columns)

    mine = all_shares[index::count]
    ends: dict[int, FinalRuns] = {}
    for batch in chunks.side_by_side(mine, len(local)):
        ends |= executor.run(task, lanes, batch, local, record)
    if count > 1:
        own = np.concatenate([np.arange(0), *(share.lanes for share in mine)])
        told = processes.exchange((ends, own, {n: c[own] for n, c in columns.items()}))
        record([(ids, part) for _, ids, part in told])
        ends = {first: end for one in told for first, end in one[0].items()}
        if progress:
            progress((total - len(own)) * lanes.schedules.shape[1])
    return columns, devices_lib.joined([ends[first] for first in sorted(ends)])
