"""Flags made from the fields of a configuration, and configurations made from flags."""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from farsign_jax.cli import spec_file
from farsign_jax.config.checks import parse_seeds
from farsign_jax.config.panel_config import PRESETS, PanelConfig, check, usual
from farsign_jax.config.settings import RunSettings, convert, hints, members
from farsign_jax.validation import lookup, require

Settings = TypeVar("Settings", bound=RunSettings)


def names_of(kind: type[RunSettings]) -> dict[str, list[str]]:
    """The settings by the heading under which --help lists them, those of `kind` first."""
    found: dict[str, list[str]] = {}
    shared = {field.name for field in dataclasses.fields(RunSettings)}
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name in shared):
        found.setdefault(field.metadata["group"], []).append(field.name)
    return found


def define(
    values: flags.FlagValues,
    kind: type[RunSettings],
    names: Sequence[str] | None = None,
    base: RunSettings | None = None,
) -> None:
    """Defines a flag for each setting, with the name, type and help of its field.

    Args:
        values: where the flags are defined.
        kind: whose settings they are.
        names: which of them, in order; None: all.
        base: whose values are the defaults; None: flags have none, so that one can tell which
            were given.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    for field in (known[name] for name in names or known):
        text = field.metadata["help"]
        if registry := field.metadata.get("names"):
            text += f" Names: {', '.join(registry)}."
        default = None if base is None else getattr(base, field.name)
        where = {"flag_values": values, "module_name": __name__}
        allowed = members(field.type)
        if field.type == tuple[str, ...]:
            flags.DEFINE_multi_string(field.name, default, text, **where)
        elif int in allowed:
            flags.DEFINE_integer(field.name, default, text, **where)
        elif float in allowed:
            flags.DEFINE_float(field.name, default, text, **where)
        else:
            flags.DEFINE_string(field.name, default, text, **where)


def given(values: flags.FlagValues, kind: type[RunSettings]) -> dict[str, Any]:
    """What the flags of `define` say, by setting; those that are None say nothing."""
    found = {name: getattr(values, name) for name in hints(kind) if name in values}
    return {name: value for name, value in found.items() if value is not None}


def configured(base: Settings, given: Mapping[str, Any]) -> Settings:
    """`base`, then the preset, then every setting that was given.

    Args:
        base: the settings of a command.
        given: values of flags or of a JSON file, by setting.

    Raises:
        InvalidConfig: on what is unknown, of another type, or cannot run.
    """
    if "preset" in given:
        preset = lookup("preset", str(given["preset"]), PRESETS)
        base = dataclasses.replace(base, **preset.settings)
    known, made = hints(type(base)), {}
    for name, value in given.items():
        if name == "preset":
            continue
        hint = lookup("setting", name, known)
        made[name] = _list(name, hint, value) if _is_list(hint) else convert(name, hint, value)
    if ":" in made.get("partition", ""):
        made = {"heterogeneity": None} | made  # it is an option of the partition
    config = dataclasses.replace(base, **made)
    if isinstance(config, PanelConfig):
        check(config)
    return config


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _list(name: str, hint: Any, value: Any) -> tuple[Any, ...]:
    """Several names, or seeds: a text of a flag, or a list."""
    kind = typing.get_args(hint)[0]
    if kind is int:
        if isinstance(value, list | tuple):
            good = bool(value) and all(type(one) is int for one in value)
            require(good, f"{name} is a list of integers: got {value!r}")
            value = ",".join(map(str, value)) + ","
        good = isinstance(value, str | int) and not isinstance(value, bool)
        require(good, f"{name} is a list of integers: got {value!r}")
        return parse_seeds(str(value))
    texts = [value] if isinstance(value, str) else value
    good = isinstance(texts, list | tuple) and all(isinstance(one, str) for one in texts)
    require(good, f"{name} is a list of names: got {value!r}")
    return tuple(usual(name, text) for text in split(texts, name))


def split(texts: Sequence[str], name: str = "") -> tuple[str, ...]:
    """`none,alie:z=1.5,ddof=1,sign_flip` as three names: option=value belongs to the last,
    also where the value is a name with options, as in `far_sign:soft=1,vote=nnm:f=5`.

    With the `name` of their flag, a text may hold dictionaries of ByzFL (`spec_file`) instead,
    and blanks separate names, too. Values without it may be paths, in which blanks stand for
    themselves.
    """
    found: list[str] = []
    separators = r"[,\s]+" if name else r"\s*,\s*"
    for text in texts:
        if name and text.lstrip()[:1] in ("{", "["):
            found += spec_file.listed(name, text)
            continue
        rule = f"names and dictionaries each have a --{name} of their own: got {text}"
        require(not name or "{" not in text, rule)
        if name:
            text = re.sub(r"\s*([+:=])\s*", r"\1", text)  # a + b is one name
        names: list[str] = []
        for item in re.split(separators, text.strip()):
            if "=" in item.partition(":")[0] and names:
                names[-1] += f",{item}"
            elif item:
                names.append(item)
        found += names
    return tuple(found)
