"""Schedules in files: saved ones, and traces of arrivals that were recorded elsewhere."""

import os
import pathlib
from typing import Any

import numpy as np

from farsign_jax.arrivals.schedule import Schedule, as_schedule, check_schedule
from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig, require


def save(path: str | os.PathLike, schedule: Schedule) -> None:
    """Writes a schedule to an .npz file, completely or not at all.

    Args:
        path: the file; its folder is created.
        schedule: a `Schedule` or an array of workers.
    """
    arrays: Any = {
        name: a for name, a in as_schedule(schedule)._asdict().items() if a is not None
    }
    files.atomic_write(path, lambda file: np.savez(file, **arrays))


def load(path: str | os.PathLike) -> Schedule:
    """Reads a schedule that `save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        InvalidConfig: if the file is damaged, or does not contain a schedule.
    """
    with files.opened(path, "is not a saved schedule") as arrays:
        schedule = Schedule(arrays["workers"], arrays.get("times"))
    most = int(schedule.workers.max(initial=0)) if schedule.workers.dtype.kind in "iu" else 0
    try:
        return check_schedule(schedule, min(most, 2**31 - 2) + 1)
    except InvalidConfig as error:
        raise InvalidConfig(f"{path}: {error}") from None


def trace(path: str | os.PathLike, num_workers: int, num_events: int | None = None) -> Schedule:
    """Reads recorded arrivals: an .npz file written by `save`, or a CSV file.

    A CSV file has the header `time,worker` and one arrival per line, in the order of time: the
    seconds since the start and the id of the worker, 0..m-1.

    Args:
        path: the file; one that does not end in .npz is read as CSV.
        num_workers: m.
        num_events: T, the number of arrivals to use; None for all.

    Returns:
        The first T events.

    Raises:
        InvalidConfig: if the file cannot be read, a line is not a number and an integer, a
            worker is unknown, times are negative, not finite or out of order, or there are
            fewer than T arrivals.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix == ".npz":
            return _first(load(path), num_workers, num_events, path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidConfig(f"cannot read a trace of arrivals: {path}: {why}") from None
    header, _, body = text.partition("\n")
    header = header.strip().replace(" ", "")
    require(header == "time,worker", f"{path} begins with 'time,worker': got {header!r}")
    lines = [(n, line) for n, line in enumerate(body.splitlines(), 2) if line.strip()]
    lines = lines[:num_events]
    try:
        rows = np.loadtxt([line for _, line in lines], delimiter=",", ndmin=2) if lines else []
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}") from None
    rows = np.reshape(rows, (0, 2)) if not lines else np.asarray(rows)
    require(rows.shape[1] == 2, f"{path} has {rows.shape[1]} columns: expected time,worker")
    rule = f"{path} has {len(rows)} arrivals: asked for {num_events}"
    require(num_events is None or len(rows) == num_events, rule)
    times, ids = rows.T
    unknown = np.flatnonzero(~((ids >= 0) & (ids < num_workers) & (ids == np.floor(ids))))
    if len(unknown):
        line, worker = lines[unknown[0]][0], ids[unknown[0]]
        known = f"workers are integers 0..{num_workers - 1}"
        raise InvalidConfig(f"{path}, line {line}: unknown worker {worker:g}: {known}")
    before = np.concatenate([[0.0], times[:-1]])
    for rule, good in (
        ("times are finite and >= 0", np.isfinite(times) & (times >= 0)),
        ("times ascend", ~(times < before)),
    ):
        for at in np.flatnonzero(~good)[:1]:
            where = f"{path}, line {lines[at][0]}"
            raise InvalidConfig(f"{where}: {rule}: got {times[at]:g} after {before[at]:g}")
    return Schedule(ids.astype(np.int32), times)


def _first(
    schedule: Schedule, num_workers: int, num_events: int | None, path: pathlib.Path
) -> Schedule:
    """The first `num_events` events of a saved schedule, checked."""
    workers, times = schedule
    rule = f"{path} has {len(workers)} arrivals: asked for {num_events}"
    require(num_events is None or len(workers) >= num_events, rule)
    rule = f"a trace has one worker per event: {path} has sets of workers"
    require(workers.ndim == 1, rule)
    part = slice(None, num_events)
    return check_schedule(
        Schedule(workers[part], None if times is None else times[part]), num_workers
    )
