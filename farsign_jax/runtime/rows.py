"""The measurements of a run that is being served: `results.csv`, one row at a time.

Every row is appended and passed to the operating system as soon as it is measured, so that the
rows survive if the server is killed. An incomplete last line, which only a crash of the machine
can leave behind, is removed when the server is started again.
"""

import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from farsign_jax.io.tables import COLUMNS


class RowFile:
    """Creates `results.csv` in a folder, or continues it after its last complete line.

    Args:
        folder: the folder of the run.

    Attributes:
        rows: all rows, those of earlier sessions of the server included.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = pathlib.Path(folder) / "results.csv"
        content = self._path.read_bytes() if self._path.exists() else b""
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(self._path, complete)
        self._columns, self.rows = _parse(content[:complete].decode())

    def append(self, row: Mapping[str, Any]) -> None:
        """Appends one row; the first row determines the columns."""
        text = io.StringIO()
        begins = not self._columns
        if begins:
            self._columns = [*COLUMNS, *sorted(row.keys() - set(COLUMNS))]
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow(row)
        with self._path.open("a") as file:
            file.write(text.getvalue())
        self.rows.append(dict(row))


def read(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows in the `results.csv` of a folder, with numbers as numbers.

    An incomplete last line is ignored. There are no rows if there is no such file.
    """
    path = pathlib.Path(folder) / "results.csv"
    text = path.read_text() if path.exists() else ""
    return _parse(text[: text.rfind("\n") + 1])[1]


def _parse(text: str) -> tuple[list[str], list[dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    rows = [{name: _value(cell) for name, cell in row.items() if cell} for row in reader]
    return list(reader.fieldnames or ()), rows


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell
