"""Results on disk: tidy rows, written whole or not at all, and how they were made."""

import contextlib
import csv
import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, BinaryIO

import jax
import numpy as np

from farsign_jax import processes, readme
from farsign_jax.base import InvalidConfig

# fmt: off
COLUMNS = (
    "method", "aggregator", "attack", "partition", "arrivals", "seed", "event", "evaluations",
    "seconds", "virtual_seconds", "bits_up", "test_accuracy", "test_loss",
)
# fmt: on

# What the user's disk refuses, not what a programmer got wrong.
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
DENIED += (errno.EISDIR, errno.ENAMETOOLONG)


class ConfigMismatch(InvalidConfig):
    """The folder holds results of another configuration, or is no folder."""


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Lets `write(file)` fill a new file, which then takes the place of `path` at once.

    A reader, or a run that is killed at any moment, sees the old file or the new one.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(new, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:  # a full disk does not say of which file
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
    finally:
        new.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    atomic_write(path, lambda file: file.write(text.encode()))


def save_state(path: str | os.PathLike, state: Any) -> None:
    """Writes the arrays of a pytree as .npz, one by one: no second copy of them in memory."""
    leaves: Any = {str(i): np.asarray(a) for i, a in enumerate(jax.tree.leaves(state))}
    atomic_write(path, lambda file: np.savez(file, **leaves))


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as .npz, one by one."""
    atomic_write(path, lambda file: np.savez(file, **dict(arrays)))  # pyright: ignore


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidConfig(f"{path} is damaged ({error}): delete it to start anew") from error


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote.

    Raises:
        InvalidConfig: where the file is damaged.
    """
    with _opened(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load_leaf(path: str | os.PathLike, number: int) -> np.ndarray:
    """One leaf of what `save_state` wrote; the others are not read.

    Raises:
        InvalidConfig: where the file is damaged.
    """
    with _opened(path) as arrays:
        return arrays[str(number)]


def load_state(path: str | os.PathLike, like: Any) -> Any:
    """Reads what `save_state` wrote into the structure of `like`.

    Raises:
        InvalidConfig: where it is damaged, or leaves are missing, of another shape or type.
    """
    leaves, tree = jax.tree.flatten(like)
    with _opened(path) as arrays:
        loaded = [arrays[name] for name in arrays.files]
    if len(loaded) != len(leaves):
        raise InvalidConfig(f"{path} holds {len(loaded)} arrays where {len(leaves)} are needed")
    for i, (got, want) in enumerate(zip(loaded, leaves, strict=True)):
        if got.shape != np.shape(want) or got.dtype != want.dtype:
            raise InvalidConfig(
                f"{path}: array {i} is {got.dtype}{list(got.shape)} where "
                f"{want.dtype}{list(np.shape(want))} is needed"
            )
    return jax.tree.unflatten(tree, loaded)


@functools.cache  # it starts git, and rows are written at every checkpoint
def environment() -> dict[str, Any]:
    """Versions, device and revision: what a reader needs to run it again."""
    packages = ("farsign_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = jax.local_devices()[0]
    return {
        "python": platform.python_version(),
        "versions": versions,
        "device": f"{device.device_kind} ({device.platform})",
        "devices": jax.device_count(),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "git_revision": code()["revision"],
    }


@functools.cache
def code() -> dict[str, str]:
    """The code that runs: git's revision, and a digest of the files of the package and, where
    they lie beside it, of the experiments.

    Files that are not committed, or not under git, have a digest, too.
    """
    here, digest = pathlib.Path(__file__).parent, hashlib.sha256()
    for folder in (here, here.parent / "experiments"):
        for path in sorted(folder.rglob("[!.]*.py")):  # without the lock files of editors
            told = path.relative_to(here.parent).as_posix().encode()
            digest.update(told + b"\0" + path.read_bytes())
    return {"revision": _revision(), "digest": digest.hexdigest()[:16]}


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        here = pathlib.Path(__file__).parent
        answer = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
        return answer.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def check_writable(path: str | os.PathLike, flag: str = "--out") -> None:
    """Raises `InvalidConfig` where no folder of that name can be made or written to; where a
    file is in its place, `ConfigMismatch`."""
    if not str(path):
        raise InvalidConfig(f"{flag} names a folder: got ''")
    path = pathlib.Path(path).expanduser()
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ConfigMismatch(f"{there} is a file: {flag} names a folder, got {path}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InvalidConfig(f"no permission to write in {there}: {flag} is {path}")


def describe(path: str | os.PathLike) -> None:
    """Writes README.md of a folder of results as it is now; one of somebody else stays."""
    path = pathlib.Path(path)
    file = path / "README.md"
    if not processes.first():
        return
    if file.exists() and not file.read_text(errors="replace").startswith(readme.MARK):
        return
    revisions = [one["revision"] for one in codes(path)]
    write_text(file, readme.text(path, environment(), revisions))


def plain(config: Any) -> Any:
    """A dataclass as what JSON can say."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(config: Mapping[str, Any]) -> str:
    """A short name for a configuration."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Folder:
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
        if _other_code(before) or not (before or known.exists()):
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


def codes(path: pathlib.Path) -> list[dict[str, str]]:
    """Each `code` that has written to a folder of results, the first one first; none where
    nobody knows."""
    try:
        found = json.loads((path / "code.json").read_text())
        return [{name: str(one[name]) for name in ("revision", "digest")} for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _other_code(before: Sequence[Mapping[str, str]]) -> bool:
    """Whether the last of these `codes`, if there is one, is not what runs."""
    return bool(before) and before[-1]["digest"] != code()["digest"]


def open_folder(path: str | os.PathLike, config: Mapping[str, Any]) -> Folder:
    """A folder of results; says on stderr where other code has begun what is there.

    Raises:
        ConfigMismatch, InvalidConfig: as `Folder`.
    """
    folder = Folder(path, config)
    before = codes(folder.path)
    if processes.first() and _other_code(before):
        then, now = before[-1]["revision"], code()["revision"]
        since = "changed since" if now == then else f"now {now}"
        print(
            f"note: {folder.path} is of other code (revision {then}, {since}); what is there "
            "is kept. Another --out runs all of it anew",
            file=sys.stderr,
        )
    return folder


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells):
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)]) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells):
        escaped = (cell.replace("_", r"\_").replace("%", r"\%") for cell in cells)
        return " & ".join(escaped).replace("±", r"$\pm$") + r" \\"

    body = "\n".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\n\\hline\n{body}\n"
        "\\hline\n\\end{tabular}\n"
    )
