"""Which code, on which machine, made a result."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax


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
    here, digest = pathlib.Path(__file__).parents[1], hashlib.sha256()
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


def plain(config: Any) -> Any:
    """A dataclass as what JSON can say."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(config: Mapping[str, Any]) -> str:
    """A short name for a configuration."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def codes(path: pathlib.Path) -> list[dict[str, str]]:
    """Each `code` that has written to a folder of results, the first one first; none where
    nobody knows."""
    try:
        found = json.loads((path / "code.json").read_text())
        return [{name: str(one[name]) for name in ("revision", "digest")} for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def is_other_code(before: Sequence[Mapping[str, str]]) -> bool:
    """Whether the last of these `codes`, if there is one, is not what runs."""
    return bool(before) and before[-1]["digest"] != code()["digest"]
