"""Provenance: which code made a result, and on which machine."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax


@functools.cache  # it starts git
def environment() -> dict[str, Any]:
    """Returns versions, device and revision: what it takes to reproduce a result."""
    # Not from metadata: another version may be installed than the one that runs.
    versions = {"farsign_jax": sys.modules["farsign_jax"].__version__}
    for package in ("jax", "jaxlib", "flax", "optax", "numpy"):
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


_own: dict[str, pathlib.Path] = {}  # the files of modules outside the package, by name


def add_own(module: str, file: pathlib.Path) -> None:
    """Makes a module that registers names of its own part of the code.

    Args:
        module: its name.
        file: its file; if it is a package, all Python files of its folder count.
    """
    _own[module] = file
    code.cache_clear()


def _files(file: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file.parent.rglob("[!.]*.py")) if file.name == "__init__.py" else [file]


@functools.cache
def code() -> dict[str, str]:
    """Returns the revision of the code in git, and a digest of its files.

    The digest covers the files of the package, where it runs from its sources, of the
    experiments, and of the modules that `add_own` names, whether they are committed or not.
    `imports` are these modules, each with a digest of its own; it is missing if there are none.
    """
    here, digest = pathlib.Path(__file__).parents[1], hashlib.sha256()
    from_sources = (here.parent / "pyproject.toml").exists()  # else "experiments" is another's
    for folder in (here, here.parent / "experiments") if from_sources else (here,):
        for path in sorted(folder.rglob("[!.]*.py")):  # without the lock files of editors
            name = path.relative_to(here.parent).as_posix().encode()
            digest.update(name + b"\0" + path.read_bytes())
    imports = []
    for module, file in sorted(_own.items()):
        one = hashlib.sha256(b"".join(path.read_bytes() for path in _files(file))).hexdigest()
        imports.append(f"{module} {one[:16]}")
        digest.update(imports[-1].encode())
    own = {"imports": ", ".join(imports)} if imports else {}
    return {"revision": _revision(), "digest": digest.hexdigest()[:16]} | own


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision(here: pathlib.Path = pathlib.Path(__file__).parents[1]) -> str:
    """The revision of a package in git; "unknown" where git does not track its files.

    An installed package may lie inside the repository of another project.
    """
    tracked = _git(here, "ls-files", "--error-unmatch", "__init__.py")
    found = _git(here, "describe", "--always", "--dirty", "--abbrev=12") if tracked else ""
    return found or "unknown"


def _git(here: pathlib.Path, *arguments: str) -> str:
    """What git says in a folder, "" if it fails; variables such as GIT_DIR do not count."""
    environment = {n: text for n, text in os.environ.items() if not n.startswith("GIT_")}
    options = {"cwd": here, "env": environment, "capture_output": True, "timeout": 10}
    try:
        done = subprocess.run(["git", *arguments], text=True, **options)
        return done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""


def plain(config: Any) -> Any:
    """Returns a dataclass as JSON represents it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(config: Mapping[str, Any]) -> str:
    """Returns a digest of a configuration, as a short name for it."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def codes(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns each `code` that has written to a folder of results, in the order of writing.

    The list is empty if code.json is missing or damaged.
    """
    try:
        found = json.loads((path / "code.json").read_text(encoding="utf-8"))
        names = ("revision", "digest", "imports")
        needed = [(one["revision"], one["digest"]) and one for one in found]
        return [{name: str(one[name]) for name in names if name in one} for one in needed]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def is_other_code(before: Sequence[Mapping[str, str]]) -> bool:
    """Returns whether the last of these `codes`, if there is one, differs from this code."""
    return bool(before) and before[-1]["digest"] != code()["digest"]
