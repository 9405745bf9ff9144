"""The command that makes a folder of results again, from its configuration.

Not an experiment itself: what `experiments.report` shows beside the configuration.
"""

import dataclasses
import importlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from farsign_jax.config.panel_config import PRESETS, PanelConfig
from farsign_jax.io import provenance

# Commands whose folders hold a `Config`, and flags of their own that they add to it.
SWEEPS = {
    "quickstart": (),
    "table3": (),
    "tune": (),
    "compare": (),
    "ablation": ("variants",),
    "asynchrony": ("panels",),
    "asynrsa": ("claims", "rounds_run"),
}


# Others, and what they are told.
OTHERS = {
    "rates": ("preset", "claims"),
    "brsgd": ("preset", "claims"),
    "cluster": ("workers", "byzantine", "attacks", "behaviours", "events", "seed"),
}


def command(config: Mapping[str, Any]) -> str | None:
    """The command line, or None where it cannot be known: runs of `farsign_jax.runtime`,
    benchmarks, configurations of another version."""
    name, varied = str(config.get("experiment")), config.get("varied")
    varied = varied if isinstance(varied, dict) else {}
    if name in SWEEPS:
        flags = _sweep(name, config, varied) | _own(SWEEPS[name], config)
    elif name in OTHERS:
        flags = _own(OTHERS[name], config)
        if flags.get("preset") == "full":
            del flags["preset"]
    else:
        return None
    told = [f"--{flag} {shlex.quote(_said(value))}" for flag, value in flags.items()]
    for setting, values in varied.items():
        told.append(f"--vary {shlex.quote(f'{setting}={_said(values)}')}")
    known = all(value is not None for value in flags.values())
    return " ".join([f"python -m experiments.{name}", *told]) if known else None


def _own(names: Sequence[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Flags by their names, which are those of the configuration but for one."""
    return {"seeds" if n == "seed" else n: config[n] for n in names if n in config}


def _sweep(name: str, config: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of what differs from the command's own settings, by the preset that says most."""
    own = importlib.import_module(f"experiments.{name}").CONFIG
    fixed = {field.name for field in dataclasses.fields(PanelConfig)} - set(varied)
    if "partition" in varied:
        fixed.discard("heterogeneity")  # it is one of its options
    found: list[dict[str, Any]] = []
    for preset in ("", *PRESETS):
        settings = PRESETS[preset].settings if preset else {}
        base = provenance.plain(dataclasses.replace(own, **settings))
        flags = {n: config[n] for n in base if n in fixed & config.keys()}
        flags = {n: value for n, value in flags.items() if value != base[n]}
        if "preset" not in flags:  # it leads there
            found.append(({"preset": preset} if preset else {}) | flags)
    fewest: dict[str, Any] = min(found, key=len, default={"preset": None})
    if "seeds" in fewest:
        fewest["seeds"] = _seeds(fewest["seeds"])
    return fewest


def _seeds(seeds: Any) -> str:
    """As --seeds takes them: how many, or which."""
    if isinstance(seeds, list) and seeds == list(range(len(seeds))):
        return str(len(seeds))
    return _said(seeds) + ","


def _said(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
