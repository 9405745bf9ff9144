"""Reads the results folders of any command, and finds what is wrong with them."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from farsign_jax.harness.report.series import read_rows
from farsign_jax.io import files
from farsign_jax.validation import require

MARK = '<meta name="generator" content="experiments.report">'  # of the pages made here
PNG = b"\x89PNG\r\n\x1a\n"
LINKED = (".csv", ".json", ".md", ".tex", ".pdf", ".png")
RESULTS = ("config.json", "results.json", "results.csv")


@dataclasses.dataclass(frozen=True)
class Record:
    """How results were made. A folder of benchmarks has one for each, which `name` names."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclasses.dataclass
class Folder:
    """One folder of results.

    Attributes:
        name: Its path, as it was reached.
        path: Its path.
        command: The command whose results they are, as "experiments.table3", or "".
        records: How the results were made.
        rows: The rows of results.csv, as `series.read_rows` gives them.
        tables: (name, Markdown) of the tables that the command wrote.
        figures: (name, PNG).
        files: (name, bytes) of the files that the page links to.
        damaged: What cannot be read, and why.
        unfinished: Why more results may follow, or "".
        written: The time of the newest results in UTC, or "".
    """

    name: str
    path: pathlib.Path
    command: str = ""
    records: list[Record] = dataclasses.field(default_factory=list)
    rows: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
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
        """The settings that the command varied, and their values."""
        varied = _dict(self.config.get("varied"))
        return {name: values for name, values in varied.items() if isinstance(values, list)}


def gather(places: Sequence[str], out: pathlib.Path) -> tuple[list[Folder], list[str]]:
    """Finds the results folders at and below `places`.

    Returns:
        Every results folder once, and the names of the folders that hold no results.

    Raises:
        InvalidConfig: if a place is no folder.
    """
    found: dict[pathlib.Path, Folder] = {}
    empty: dict[pathlib.Path, str] = {}
    for place in places:
        path = files.expanded(place)
        require(path.is_dir(), f"{place}: no such folder")
        folders, others = _below(path, path.as_posix(), out.resolve())
        for folder in folders:
            found.setdefault(folder.path.resolve(), folder)
        for name in others if folders else [path.as_posix()]:
            empty.setdefault(pathlib.Path(name).resolve(), name)
    return list(found.values()), list(empty.values())


def _below(path: pathlib.Path, name: str, out: pathlib.Path) -> tuple[list[Folder], list[str]]:
    """The results folders at and below `path`, and the names of those that hold none."""
    benchmarks = sorted(p.stem for p in path.glob("*.json") if p.with_suffix(".md").exists())
    holds_results = bool(benchmarks) or any((path / known).exists() for known in RESULTS)
    folders, empty = [read(path, name, benchmarks)] if holds_results else [], []
    for child in _children(path):
        if child.resolve() == out or is_page(child):
            continue
        more, others = _below(child, f"{name}/{child.name}", out)
        folders += more
        if not holds_results:  # else the folders below belong to it, as logs do
            empty += others if more else [f"{name}/{child.name}"]
    return folders, empty


def _children(path: pathlib.Path) -> list[pathlib.Path]:
    hidden = (".", "checkpoints", "__pycache__")
    try:
        every = [p for p in sorted(path.iterdir()) if not p.name.startswith(hidden)]
        return [p for p in every if p.is_dir() and not p.is_symlink()]
    except OSError:
        return []


def is_page(path: pathlib.Path) -> bool:
    page = path / "index.html"
    return page.is_file() and MARK.encode() in page.read_bytes()[:1000]


def read(path: pathlib.Path, name: str, benchmarks: Sequence[str]) -> Folder:
    """Reads one results folder.

    What cannot be read becomes an entry of `damaged`, never an exception. `benchmarks` are the
    names of what benchmarks wrote there, NAME.json and NAME.md each.
    """
    folder = Folder(name, path)
    try:
        _read_records(folder, benchmarks)
        _read_rows(folder)
        _read_files(folder)
    except OSError as error:
        folder.damaged.append(f"{error.filename or path}: {error.strerror}")
    if not folder.damaged:
        folder.unfinished = _unfinished(folder)
    return folder


def _read_records(folder: Folder, benchmarks: Sequence[str]) -> None:
    path = folder.path
    results, config = (_read_object(folder, f"{n}.json") for n in ("results", "config"))
    config = config or _dict(results.get("config"))
    if config or results:
        folder.records.append(Record("", config, _dict(results.get("environment"))))
    for name in benchmarks:
        found = _read_object(folder, f"{name}.json")
        more = {n: v for n, v in found.items() if n in ("flags", "device")}
        config = _dict(found.get("config")) | more
        folder.records.append(Record(name, config, _dict(found.get("environment"))))
    if "experiment" in folder.config:
        folder.command = f"experiments.{folder.config['experiment']}"
    elif benchmarks:
        folder.command = "benchmarks"
    elif (path / "arrivals.log").exists():
        folder.command = "farsign_jax.runtime"
    sources = [path / name for name in (*RESULTS, *(f"{name}.json" for name in benchmarks))]
    times = [source.stat().st_mtime for source in sources if source.exists()]
    if times:
        newest = datetime.datetime.fromtimestamp(max(times), datetime.UTC)
        folder.written = f"{newest:%Y-%m-%d %H:%M}"


def _read_object(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object; {} where there is none, or where it is damaged, which is noted."""
    try:
        found = json.loads((folder.path / name).read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        folder.damaged.append(f"{name} is no JSON that can be read: {error}")
        return {}


def _read_rows(folder: Folder) -> None:
    try:
        folder.rows = read_rows(folder.path / "results.csv")
    except FileNotFoundError:
        return
    except ValueError as error:
        reason = " ".join(str(error).split())
        folder.damaged.append(f"results.csv is no CSV that can be read: {reason}")


def _read_files(folder: Folder) -> None:
    for path in sorted(folder.path.iterdir()):
        if path.suffix not in LINKED or not path.is_file():
            continue
        folder.files.append((path.name, path.stat().st_size))
        if path.suffix == ".md" and path.name != "README.md":
            folder.tables.append(
                (path.stem, path.read_text(encoding="utf-8", errors="replace"))
            )
        elif path.suffix == ".png":
            content = path.read_bytes()
            if content.startswith(PNG) and len(content) > 24:
                folder.figures.append((path.stem, content))
            else:
                folder.damaged.append(f"{path.name} is no PNG")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unfinished(folder: Folder) -> str:
    if not folder.tables and folder.config and folder.rows.empty:
        return "it has a configuration, and no results yet"
    if folder.command.startswith("experiments."):
        if not folder.tables:
            return "the command has not come to its tables: these are the results so far"
        if "results.json" not in dict(folder.files):
            return "results.json is missing"
    parts = folder.config.get("panels") or folder.config.get("claims")
    if folder.config.get("experiment") in ("asynchrony", "rates", "brsgd") and parts:
        done = {name for name, _ in folder.tables} | {*folder.rows.get("figure", ())}
        missing = [str(part) for part in parts if str(part) not in done]
        return f"still to come: {', '.join(missing)}" if missing else ""
    return ""
