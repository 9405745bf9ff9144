"""A folder of results: its configuration, its rows, its checkpoints, and how it was made."""

import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from farsign_jax.io import folder_readme, processes, provenance
from farsign_jax.io.files import (
    ConfigMismatch,
    check_writable,
    expanded,
    json_text,
    write_json,
    write_text,
)
from farsign_jax.io.rows import Row, RowFile, csv_text
from farsign_jax.io.tables import COLUMNS

# Columns that tell one row from another.
KEY = ("method", "aggregator", "attack", "partition", "arrivals", "seed", "event")


def columns_with(names: Iterable[str]) -> list[str]:
    """Returns `COLUMNS`, and after them the other names in alphabetical order."""
    return [*COLUMNS, *sorted(set(names) - set(COLUMNS))]


def describe(path: str | os.PathLike) -> None:
    """Writes README.md of a folder of results, unless somebody else has written one."""
    file = pathlib.Path(path) / "README.md"
    if not processes.first():
        return
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(
        folder_readme.MARK
    ):
        return
    write_text(file, folder_readme.text(*folder_readme.made_by()))


class RunFolder:
    """A folder of results of one configuration.

    It contains `config.json`, `code.json`, `results.csv`, `results.json`, checkpoints, and
    README.md, which describes these. Nothing is written before `claim`, so that a command that
    fails leaves no trace. Of several processes, the first one writes; all have their
    checkpoints there.

    Args:
        path: the folder, which need not exist.
        config: what decides the results.

    Raises:
        ConfigMismatch: if it already contains results of another configuration.
    """

    def __init__(self, path: str | os.PathLike, config: Mapping[str, Any]):
        self.path = expanded(path)
        self.config = json.loads(json_text(dict(config)))  # as it will be read
        self._rows: RowFile | None = None
        known = self.path / "config.json"
        check_writable(self.path)
        if (self.path / "results.csv").exists() and not known.exists():
            raise ConfigMismatch(f"{self.path} holds results of unknown configuration")
        if known.exists():
            try:
                before = json.loads(known.read_text(encoding="utf-8"))
                if not isinstance(before, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                raise ConfigMismatch(f"{known} is not readable JSON: {error}") from error
            names = sorted(self.config.keys() | before.keys())
            other = [n for n in names if before.get(n) != self.config.get(n)]
            if other:
                changes = ", ".join(
                    f"{n} was {before.get(n)!r}, is {self.config.get(n)!r}" for n in other
                )
                raise ConfigMismatch(
                    f"{self.path} holds results of another configuration ({changes}): "
                    "choose another --out"
                )

    def claim(self) -> None:
        """Records the configuration in `config.json`, and the code in `code.json`."""
        known = self.path / "config.json"
        if not processes.first():
            return
        before = provenance.codes(self.path)
        if provenance.is_other_code(before) or not (before or known.exists()):
            write_json(self.path / "code.json", [*before, provenance.code()])
        if not known.exists():
            write_json(known, self.config, indent=2)
            describe(self.path)

    def checkpoint(self, name: str) -> pathlib.Path:
        """Returns the path of a checkpoint."""
        return self.path / "checkpoints" / f"{name}.npz"

    def append_rows(
        self, rows: Sequence[Row], columns: Sequence[str] = (), key: Sequence[str] = KEY
    ) -> None:
        """Appends rows to `results.csv`; those of an interrupted command are continued.

        Args:
            rows: may repeat rows that the file already had before the first call.
            columns: all columns that rows will have beside `COLUMNS`; read by the first call.
            key: columns that tell one row from another; read by the first call.
        """
        if not processes.first():
            return
        if self._rows is None:
            self.claim()
            self._rows = RowFile(self.path / "results.csv", columns_with(columns), key)
        self._rows.append(rows)

    def write_rows(self, rows: Sequence[Row], summary: Any = None) -> None:
        """Writes all rows in their final order: `results.csv`, and `results.json`, which also
        records how they were made."""
        if not processes.first():
            return
        self.claim()
        columns = columns_with({name for row in rows for name in row})
        write_text(self.path / "results.csv", csv_text(columns, rows))
        self._rows = None
        record = {
            "config": self.config,
            "environment": provenance.environment(),
            "code": provenance.codes(self.path),
            "summary": summary,
            "rows": list(rows),
        }
        write_json(self.path / "results.json", record)


def open_folder(path: str | os.PathLike, config: Mapping[str, Any]) -> RunFolder:
    """Opens a folder of results, and prints a note if other code has written to it.

    Raises:
        ConfigMismatch, InvalidConfig: as `RunFolder`.
    """
    folder = RunFolder(path, config)
    before = provenance.codes(folder.path)
    if processes.first() and provenance.is_other_code(before):
        then, now = before[-1]["revision"], provenance.code()["revision"]
        since = "changed since" if now == then else f"now {now}"
        print(
            f"note: {folder.path} was written by other code (revision {then}, {since}); its "
            "results are kept. Choose another --out to compute all of them anew",
            file=sys.stderr,
        )
    return folder
