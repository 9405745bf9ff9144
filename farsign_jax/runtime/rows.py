"""The measurements of a run that is being served: `results.csv`, one row at a time.

Every row is appended and passed to the operating system as soon as it is measured, so that the
rows survive if the server is killed (`io.rows`).
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from farsign_jax.io.rows import RowFile, read_columns, read_rows
from farsign_jax.io.run_folder import columns_with


class ServedRows:
    """Creates `results.csv` in a folder, or continues it after its last complete line.

    Args:
        folder: the folder of the run.

    Attributes:
        rows: all rows, those of earlier sessions of the server included.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = pathlib.Path(folder) / "results.csv"
        self.rows = read(folder)
        self._file: RowFile | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Appends one row; the first row determines the columns."""
        if self._file is None:
            columns = read_columns(self._path) or columns_with(row)
            self._file = RowFile(self._path, columns, key=("event",))
        self._file.append([row])
        self.rows.append(dict(row))


def read(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows in the `results.csv` of a folder; none if there is no such file."""
    return read_rows(pathlib.Path(folder) / "results.csv")
