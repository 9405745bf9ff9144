"""Folders of results of any command, read for people: what is there, and what is wrong.

Not an experiment itself: what `experiments.report` gathers.
"""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from farsign_jax.io.rows import read_rows
from farsign_jax.validation import require

MARK = '<meta name="generator" content="experiments.report">'  # of pages that were made here


PNG = b"\x89PNG\r\n\x1a\n"


LINKED = (".csv", ".json", ".md", ".tex", ".pdf", ".png")


@dataclasses.dataclass(frozen=True)
class Record:
    """How something was made: `name` is "", or the benchmark of a folder that holds several."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclasses.dataclass
class Folder:
    """One folder of results.

    Attributes:
        name: its path, from where it was looked for.
        command: whose results they are, as "experiments.table3", or "".
        rows: of results.json.
        tables: (name, Markdown) of every table that the command wrote.
        figures: (name, PNG).
        files: (name, bytes) of what can be linked.
        damaged: why something cannot be read; `unfinished`: why there may be more to come.
        written: when its results were, UTC, or "".
    """

    name: str
    path: pathlib.Path
    command: str = ""
    records: list[Record] = dataclasses.field(default_factory=list)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tables: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    figures: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    files: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    damaged: list[str] = dataclasses.field(default_factory=list)
    unfinished: str = ""
    written: str = ""

    @property
    def state(self) -> str:
        return "damaged" if self.damaged else "unfinished" if self.unfinished else "complete"

    @property
    def config(self) -> Mapping[str, Any]:
        return self.records[0].config if self.records else {}

    @property
    def varied(self) -> dict[str, list[Any]]:
        """Settings that have several values, and these."""
        told = self.config.get("varied")
        told = told if isinstance(told, dict) else {}
        return {name: values for name, values in told.items() if isinstance(values, list)}


def gather(places: Sequence[str], out: pathlib.Path) -> tuple[list[Folder], list[str]]:
    """Every folder of results in `places`, and what holds none, each once.

    Raises:
        InvalidConfig: where a place is no folder.
    """
    found: dict[pathlib.Path, Folder] = {}
    empty: dict[pathlib.Path, str] = {}
    for place in places:
        path = pathlib.Path(place).expanduser()
        require(path.is_dir(), f"{place}: no such folder")
        mine, without = _below(path, path.as_posix(), out.resolve())
        for folder in mine:
            found.setdefault(folder.path.resolve(), folder)
        if not mine:
            without = [path.as_posix()]
        for name in without:
            empty.setdefault(pathlib.Path(name).resolve(), name)
    return list(found.values()), list(empty.values())


def _below(path: pathlib.Path, name: str, out: pathlib.Path) -> tuple[list[Folder], list[str]]:
    """Folders of results at and below `path`, and the names of those that hold none."""
    benchmarks = _benchmarks(path)
    own = any(
        (path / known).exists() for known in ("config.json", "results.json", "results.csv")
    )
    folders = [read(path, name, benchmarks)] if own or benchmarks else []
    empty = []
    for child in _children(path):
        if child.resolve() == out or is_page(child):
            continue
        mine, without = _below(child, f"{name}/{child.name}", out)
        folders += mine
        # Below results, other folders belong to them: certificates, logs.
        if not (own or benchmarks):
            empty += without if mine else [f"{name}/{child.name}"]
    return folders, empty


def _children(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        every = sorted(path.iterdir())
    except OSError:
        return []
    hidden = (".", "checkpoints", "__pycache__")
    return [
        p for p in every if p.is_dir() and not p.is_symlink() and not p.name.startswith(hidden)
    ]


def is_page(path: pathlib.Path) -> bool:
    page = path / "index.html"
    return page.is_file() and MARK.encode() in page.read_bytes()[:1000]


def _benchmarks(path: pathlib.Path) -> list[str]:
    """Names of what benchmarks wrote there: NAME.json and NAME.md."""
    return sorted(p.stem for p in path.glob("*.json") if p.with_suffix(".md").exists())


def read(path: pathlib.Path, name: str, benchmarks: Sequence[str]) -> Folder:
    """What is in a folder of results; what cannot be read is said in it, not raised."""
    folder = Folder(name, path)
    for part in (_read_records, _read_files):
        try:
            part(folder, benchmarks)
        except OSError as error:
            folder.damaged.append(f"{error.filename or path}: {error.strerror}")
    if not folder.damaged:
        folder.unfinished = _unfinished(folder)
    return folder


def _read_records(folder: Folder, benchmarks: Sequence[str]) -> None:
    path = folder.path
    config, results = (_object(folder, f"{n}.json") for n in ("config", "results"))
    if results is not None:
        rows = results.get("rows")
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            folder.rows = rows
        else:
            folder.damaged.append("results.json: its rows are no list of objects")
    elif (path / "results.csv").exists() and not (path / "results.json").exists():
        folder.rows = read_rows(path / "results.csv")  # of a command that still runs
    results = results or {}
    config = _dict(config) or _dict(results.get("config"))
    if config or results:
        folder.records.append(Record("", config, _dict(results.get("environment"))))
    for name in benchmarks:
        told = _object(folder, f"{name}.json") or {}
        more = {n: v for n, v in told.items() if n in ("flags", "device")}
        config = _dict(told.get("config")) | more
        folder.records.append(Record(name, config, _dict(told.get("environment"))))
    if "experiment" in folder.config:
        folder.command = f"experiments.{folder.config['experiment']}"
    elif benchmarks:
        folder.command = "benchmarks"
    elif (path / "arrivals.log").exists():
        folder.command = "farsign_jax.runtime"
    sources = [path / f"{name}.json" for name in ("results", *benchmarks, "config")]
    times = [source.stat().st_mtime for source in sources if source.exists()]
    if times:
        newest = datetime.datetime.fromtimestamp(max(times), datetime.UTC)
        folder.written = f"{newest:%Y-%m-%d %H:%M}"


def _read_files(folder: Folder, _: Sequence[str]) -> None:
    for path in sorted(folder.path.iterdir()):
        if path.suffix not in LINKED or not path.is_file():
            continue
        folder.files.append((path.name, path.stat().st_size))
        if path.suffix == ".md" and path.name != "README.md":
            folder.tables.append((path.stem, path.read_text(errors="replace")))
        elif path.suffix == ".png":
            content = path.read_bytes()
            if content.startswith(PNG) and len(content) > 24:
                folder.figures.append((path.stem, content))
            else:
                folder.damaged.append(f"{path.name} is no PNG")


def _object(folder: Folder, name: str) -> dict[str, Any] | None:
    """A JSON object; None where there is none, or it is damaged, which the folder then says."""
    path = folder.path / name
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_bytes())
        if not isinstance(told, dict):
            raise ValueError("not an object")
        return told
    except (ValueError, RecursionError) as error:
        folder.damaged.append(f"{name} is no JSON that can be read: {error}")
        return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unfinished(folder: Folder) -> str:
    """What is still to come, as far as the folder tells."""
    if not folder.tables and folder.config and not folder.rows:
        return "it has a configuration, and no results yet"
    if folder.command.startswith("experiments.") and not folder.tables:
        return "the command has not come to its tables: these are the results so far"
    parts = folder.config.get("panels") or folder.config.get("claims")
    if folder.config.get("experiment") in ("asynchrony", "rates", "brsgd") and parts:
        done = {str(row.get("figure")) for row in folder.rows} | {n for n, _ in folder.tables}
        missing = [str(part) for part in parts if part not in done]
        return f"still to come: {', '.join(missing)}" if missing else ""
    return ""
