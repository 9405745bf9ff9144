"""The command line that makes a results folder again, from the configuration in it."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from farsign_jax.config.checks import seeds_text
from farsign_jax.config.panel_config import PRESETS, PanelConfig
from farsign_jax.io import provenance


class Recipe(NamedTuple):
    """What is known of a command.

    Attributes:
        flags: The names of its own flags that the configuration records.
        base: The configuration that its other flags change, if they do.
    """

    flags: Sequence[str]
    base: PanelConfig | None = None


def command(config: Mapping[str, Any], recipe_of: Callable[[str], Recipe | None]) -> str | None:
    """The command line, as short as possible.

    Args:
        config: The configuration in a results folder.
        recipe_of: Maps the name of a command of `experiments` to its recipe; None for others.

    Returns:
        None where the command line cannot be known, as for runs of `farsign_jax.runtime`, for
        benchmarks, and for configurations of another version.
    """
    name, varied = str(config.get("experiment")), config.get("varied")
    varied = varied if isinstance(varied, dict) else {}
    recipe = recipe_of(name)
    if recipe is None:
        return None
    flags = {n: config[n] for n in recipe.flags if n in config}
    if "seed" in flags:
        flags["seeds"] = seeds_text([flags.pop("seed")])
    if recipe.base is not None:
        flags = _changes(recipe.base, config, varied) | flags
    elif flags.get("preset") == "full":
        del flags["preset"]
    if any(value is None for value in flags.values()):
        return None
    words = [f"--{flag} {shlex.quote(_text(value))}" for flag, value in flags.items()]
    for setting, values in varied.items():
        words.append(f"--vary {shlex.quote(f'{setting}={_text(values)}')}")
    return " ".join([f"python -m experiments.{name}", *words])


def _changes(
    base: PanelConfig, config: Mapping[str, Any], varied: Mapping[str, Any]
) -> dict[str, Any]:
    """The flags of what differs from `base`, with the preset that leaves the fewest."""
    fixed = {field.name for field in dataclasses.fields(PanelConfig)} - set(varied)
    if "partition" in varied:
        fixed.discard("heterogeneity")  # an option of the partition
    found: list[dict[str, Any]] = []
    for preset in ("", *PRESETS):
        settings = PRESETS[preset].settings if preset else {}
        usual = provenance.plain(dataclasses.replace(base, **settings))
        flags = {n: config[n] for n in usual if n in fixed & config.keys()}
        flags = {n: value for n, value in flags.items() if value != usual[n]}
        if "preset" not in flags:  # else this preset does not lead there
            found.append(({"preset": preset} if preset else {}) | flags)
    fewest: dict[str, Any] = min(found, key=len, default={"preset": None})
    if "seeds" in fewest:
        fewest["seeds"] = seeds_text(fewest["seeds"])
    return fewest


def _text(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
