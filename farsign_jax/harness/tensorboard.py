"""Rows as event files, which TensorBoard reads: --tensorboard.

One folder per run under OUT/tensorboard, with its accuracy and loss against events and against
evaluations; the wall time of a point is that of the run. Written from the rows of results.json,
all of them anew, so that a command that was interrupted leaves no point twice.
"""

import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from farsign_jax.cli.commands import lacking
from farsign_jax.validation import InvalidConfig, require

MEASURES = ("test_accuracy", "test_loss", "worst_class")


AXES = ("event", "evaluations")


# What tells runs apart, beside everything else that is a text.
NUMBERS = ("step_size", "x")


USUAL = ("method", "aggregator", "attack", "seed")


def check() -> None:
    """Raises `InvalidConfig` where what writes event files is not installed."""
    try:
        import tensorboardX  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        text = f"--tensorboard: {lacking('tensorboardX', 'tensorboard')}"
        raise InvalidConfig(text) from error


def runs(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, list]:
    """Rows by run, named by what tells them apart."""
    rows = [row for row in rows if any(name in row for name in MEASURES)]
    named = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = {row.get(name) for row in rows}
        tells = name in NUMBERS or name in config or any(isinstance(v, str) for v in values)
        if name in USUAL or (tells and len(values) > 1):
            named.append(name)
    found: dict[str, list] = {}
    for row in rows:
        parts = [_part(name, row[name]) for name in named if row.get(name) not in (None, "")]
        found.setdefault("-".join(parts), []).append(row)
    return found


def _part(name: str, value: Any) -> str:
    text = re.sub(r"[^\w.=+]", "-", f"{value:g}" if isinstance(value, float) else str(value))
    return text if isinstance(value, str) and name in USUAL else f"{name}={text}"


def write(folder: pathlib.Path) -> None:
    """OUT/tensorboard of a folder of results, in the place of what was there."""
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    record = json.loads((folder / "results.json").read_text())
    found = runs(record["rows"], record["config"])
    require(len(found) > 0, f"{folder} has no accuracy or loss for TensorBoard")
    new, out = folder / f".tensorboard.{os.getpid()}.new", folder / "tensorboard"
    try:
        for name, mine in found.items():
            with SummaryWriter(str(new / name)) as writer:
                for row in mine:
                    for axis in AXES:
                        if row.get(axis) is None:
                            continue
                        for measure in MEASURES:
                            if row.get(measure) is not None:
                                at = row.get("seconds", 0.0)
                                told = f"{measure}/{axis}", row[measure], row[axis], at
                                writer.add_scalar(*told)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
