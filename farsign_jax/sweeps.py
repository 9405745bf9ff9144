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

from farsign_jax import batches, processes, programs, results, shares, simulate
from farsign_jax import devices as devices_lib
from farsign_jax.base import require
from farsign_jax.lanes import Build, Final, Lanes, lane_bytes, memory
from farsign_jax.metrics import Measure


def lanes_that_fit(num_lanes: int, bytes_per_lane: int) -> int:
    """How many lanes a device may run side by side: half of its free memory is theirs."""
    _, free = memory(num_lanes)
    return int(np.clip(free // 2 // max(bytes_per_lane, 1), 1, num_lanes))


def cut(
    build: Build,
    lanes: Lanes,
    delivery: str,
    max_lanes: int | None,
    checkpoint: str | os.PathLike | None,
    devices: Sequence[devices_lib.Device],
) -> list[shares.Share]:
    """All lanes in shares, each what one device has at a time: arguments as of `sweep`."""
    total = len(lanes)
    fit = max_lanes or lanes_that_fit(total, lane_bytes(build, lanes, delivery))
    path = None if checkpoint is None else pathlib.Path(checkpoint)
    number = shares.agreed(total, fit, len(devices), max_lanes, path)
    return shares.cut(total, number, path)


def sweep(
    build: Build,
    lanes: Lanes,
    *,
    every: int,
    measure: Measure,
    delivery: str = "fresh",
    max_lanes: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    progress: Callable[[int], Any] | None = None,
    on_checkpoint: Callable[[dict[str, np.ndarray]], Any] | None = None,
    of: Callable[[simulate.Run], Any] = simulate.output,
    devices: Sequence[devices_lib.Device] | None = None,
) -> tuple[dict[str, np.ndarray], Final]:
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
        max_lanes: lanes side by side on a device; default: what fits into half of its free
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
    require(max_lanes is None or max_lanes > 0, f"need max_lanes > 0: got {max_lanes}")
    programs.release_if_many()
    local = devices_lib.local(devices)
    lanes.check(build, delivery)
    index, count = processes.place()
    if count > 1:
        inputs = shares.fingerprint(build, lanes, delivery, every)
        processes.agree(inputs.tobytes().hex(), "settings and data")
        processes.agree(results.code()["digest"], "code")
    total = len(lanes)
    all_shares = cut(build, lanes, delivery, max_lanes, checkpoint, local)
    task = batches.Task(build, every, measure, delivery, checkpoint_every, progress, of)
    columns: dict[str, np.ndarray] = {}

    def record(parts):
        for ids, part in parts:
            for name, column in part.items():
                empty = np.full((total, *column.shape[1:]), np.nan)
                columns.setdefault(name, empty)[ids] = column
        if on_checkpoint:
            on_checkpoint(columns)

    mine = all_shares[index::count]
    ends: dict[int, Final] = {}
    for batch in shares.side_by_side(mine, len(local)):
        ends |= batches.run(task, lanes, batch, local, record)
    if count > 1:
        own = np.concatenate([np.arange(0), *(share.lanes for share in mine)])
        told = processes.exchange((ends, own, {n: c[own] for n, c in columns.items()}))
        record([(ids, part) for _, ids, part in told])
        ends = {first: end for one in told for first, end in one[0].items()}
        if progress:
            progress((total - len(own)) * lanes.schedules.shape[1])
    return columns, devices_lib.joined([ends[first] for first in sorted(ends)])
