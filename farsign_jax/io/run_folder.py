"""Results on disk: tidy rows, written whole or not at all, and how they were made."""

import csv
import errno
import io
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from farsign_jax.io import folder_readme, processes
from farsign_jax.io.files import DENIED, ConfigMismatch, check_writable, write_text
from farsign_jax.io.provenance import code, codes, environment, is_other_code
from farsign_jax.io.tables import COLUMNS

DENIED += (errno.EISDIR, errno.ENAMETOOLONG)


def describe(path: str | os.PathLike) -> None:
    """Writes README.md of a folder of results as it is now; one of somebody else stays."""
    path = pathlib.Path(path)
    file = path / "README.md"
    if not processes.first():
        return
    if file.exists() and not file.read_text(errors="replace").startswith(folder_readme.MARK):
        return
    revisions = [one["revision"] for one in codes(path)]
    write_text(file, folder_readme.text(path, environment(), revisions))


class RunFolder:
    """One folder of results: `config.json`, `code.json`, `results.csv`, `results.json`,
    checkpoints, and README.md, which tells of these.

    Nothing is written before `claim`, so that a command that fails leaves no trace. Of several
    processes, the first writes; all have their checkpoints there.

    Raises:
        ConfigMismatch: where it already holds results of another configuration.
    """

    def __init__(self, path: str | os.PathLike, config: Mapping[str, Any]):
        self.path = pathlib.Path(path).expanduser()
        self.config = dict(config)
        known = self.path / "config.json"
        check_writable(self.path)
        if (self.path / "results.csv").exists() and not known.exists():
            raise ConfigMismatch(f"{self.path} holds results of unknown configuration")
        if known.exists():
            try:
                before = json.loads(known.read_text())
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
        """Marks the folder as this configuration's, and as written to by this code."""
        known = self.path / "config.json"
        if not processes.first():
            return
        before = codes(self.path)
        if is_other_code(before) or not (before or known.exists()):
            write_text(self.path / "code.json", json.dumps([*before, code()], indent=1) + "\n")
        if not known.exists():
            write_text(known, json.dumps(self.config, indent=2) + "\n")
            describe(self.path)

    def checkpoint(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / f"{name}.npz"

    def write_rows(self, rows: Sequence[Mapping[str, Any]], summary: Any = None) -> None:
        """Tidy `results.csv`, and `results.json`, which also says how they were made."""
        if not processes.first():
            return
        self.claim()
        extra = sorted({name for row in rows for name in row} - set(COLUMNS))
        text = io.StringIO()
        writer = csv.DictWriter(text, [*COLUMNS, *extra], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "results.csv", text.getvalue())
        record = {
            "config": self.config,
            "environment": environment(),
            "code": codes(self.path),
            "summary": summary,
            "rows": list(rows),
        }
        write_text(self.path / "results.json", json.dumps(record, indent=1) + "\n")
        describe(self.path)


def open_folder(path: str | os.PathLike, config: Mapping[str, Any]) -> RunFolder:
    """A folder of results; says on stderr where other code has begun what is there.

    Raises:
        ConfigMismatch, InvalidConfig: as `Folder`.
    """
    folder = RunFolder(path, config)
    before = codes(folder.path)
    if processes.first() and is_other_code(before):
        then, now = before[-1]["revision"], code()["revision"]
        since = "changed since" if now == then else f"now {now}"
        print(
            f"note: {folder.path} is of other code (revision {then}, {since}); what is there "
            "is kept. Another --out runs all of it anew",
            file=sys.stderr,
        )
    return folder
