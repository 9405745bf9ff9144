"""Rows in CSV files, to which rows are appended as they come."""

import csv
import io
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from farsign_jax.io.files import naming, write_text

Row = Mapping[str, Any]


def csv_text(columns: Sequence[str], rows: Iterable[Row], header: bool = True) -> str:
    """Returns rows as CSV; a column that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the complete lines of a CSV file; numbers as int or float, empty cells left out."""
    rows = csv.DictReader(io.StringIO(_complete(pathlib.Path(path)), newline=""))
    return [{name: _value(text) for name, text in row.items() if text and name} for row in rows]


def read_columns(path: str | os.PathLike[str]) -> list[str]:
    """Returns the names in the first line of a CSV file; none where there is no such line."""
    return next(csv.reader(io.StringIO(_complete(pathlib.Path(path)))), [])


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _complete(path: pathlib.Path) -> str:
    """Returns the complete lines of a file: a process that was killed may have left a part."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1].decode(errors="replace")


class RowFile:
    """A CSV file to which rows are appended.

    The file of an interrupted process is continued. A line that was cut off is removed, and
    rows that are already there are not appended again, so that the caller may pass all rows
    since the beginning. A file with other columns is begun anew.

    Attributes:
        path: the file.
        columns: its columns; fixed when the file is begun.
    """

    def __init__(self, path: pathlib.Path, columns: Sequence[str], key: Sequence[str]):
        """
        Args:
            path: the file; its folder exists.
            columns: names of the columns.
            key: columns that tell one row from another.
        """
        self.path, self.columns, self._key = path, list(columns), list(key)
        self._present: Counter[tuple[str, ...]] = Counter()
        text = _complete(path)
        header = csv_text(self.columns, [])
        if not text.startswith(header):
            write_text(path, header)
            return
        if len(text.encode()) < path.stat().st_size:
            os.truncate(path, len(text.encode()))
        for row in csv.DictReader(io.StringIO(text, newline="")):
            self._present[tuple(row[name] for name in self._key)] += 1

    def append(self, rows: Sequence[Row]) -> None:
        """Appends those of the rows that the file does not contain, and flushes them."""
        new: list[Row] = []
        for row in rows:
            key = tuple(str(row.get(name, "")) for name in self._key)
            if self._present[key] > 0:
                self._present[key] -= 1
            else:
                new.append(row)
        if new:
            text = csv_text(self.columns, new, header=False).encode(errors="replace")
            # Not mode "a": without its header, a file that has vanished must not come again.
            with naming(self.path), self.path.open("r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    while text:
                        text = text[file.write(text) :]
                except OSError:
                    file.truncate(end)  # no part of a line before the next one
                    raise
