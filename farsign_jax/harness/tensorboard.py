"""The option --tensorboard: results as event files for TensorBoard.

OUT/tensorboard contains one folder per run, with its accuracy and loss against events and
against evaluations; the wall time of a point is that of the run. The files are written anew
from all rows of results.csv, so that an interrupted command leaves no point twice.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from farsign_jax.cli.commands import lacking
from farsign_jax.io.files import naming
from farsign_jax.io.rows import read_columns, read_rows
from farsign_jax.validation import InvalidConfig, require

MEASURES = ("test_accuracy", "test_loss", "worst_class", "backdoor_success")
AXES = ("event", "evaluations")
# These name every run. Texts, settings and the columns of NUMBERS do where they vary.
USUAL = ("method", "aggregator", "attack", "seed")
NUMBERS = ("step_size", "x")


def check() -> None:
    """Raises `InvalidConfig` if the package that writes event files is not installed."""
    try:
        import tensorboardX  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        text = f"--tensorboard: {lacking('tensorboardX', 'tensorboard')}"
        raise InvalidConfig(text) from error


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of results.csv; None where a row has no value."""
    columns = read_columns(path)
    return [{name: row.get(name) for name in columns} for row in read_rows(path)]


def group_runs(
    rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, list[Mapping[str, Any]]]:
    """Groups the rows that measure something by run, named by what distinguishes it."""
    rows = [row for row in rows if any(row.get(name) is not None for name in MEASURES)]
    named = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = {row.get(name) for row in rows}
        is_text = any(isinstance(value, str) for value in values)
        distinguishes = name in NUMBERS or name in config or is_text
        if name in USUAL or (distinguishes and len(values) > 1):
            named.append(name)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts = [_part(name, row[name]) for name in named if row.get(name) is not None]
        found.setdefault("-".join(parts), []).append(row)
    return found


def _part(name: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = re.sub(r"[^\w.=+]", "-", text)
    return text if isinstance(value, str) and name in USUAL else f"{name}={text}"


def write(folder: pathlib.Path) -> None:
    """Writes OUT/tensorboard of a results folder, in place of what was there."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    runs = group_runs(_read(folder / "results.csv"), config)
    require(len(runs) > 0, f"{folder} has no accuracy or loss for TensorBoard")
    new, out = folder / f".tensorboard.{os.getpid()}.new", folder / "tensorboard"
    try:
        with naming(out):
            for name, rows in runs.items():
                (new / name).mkdir(parents=True)
                _write_run(new / name, rows)
            shutil.rmtree(out, ignore_errors=True)
            os.replace(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_run(folder: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one event file, in this thread: a `SummaryWriter` would wait forever for its own
    thread if that fails, as on a full disk."""
    from tensorboardX.event_file_writer import EventsWriter  # pyright: ignore
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore
    from tensorboardX.summary import scalar  # pyright: ignore

    with contextlib.closing(EventsWriter(str(folder / "events"))) as writer:
        for row in rows:
            for axis, measure in itertools.product(AXES, MEASURES):
                step, value = row.get(axis), row.get(measure)
                if step is not None and value is not None:
                    seconds, summary = (
                        row.get("seconds") or 0.0,
                        scalar(f"{measure}/{axis}", value),
                    )
                    writer.write_event(Event(wall_time=seconds, step=step, summary=summary))
