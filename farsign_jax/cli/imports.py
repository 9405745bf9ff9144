"""The flag --import: modules outside the package that register names of their own."""

import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from farsign_jax.io import provenance
from farsign_jax.validation import InvalidConfig

FLAG = "import"


def define(values: flags.FlagValues) -> None:
    """Defines the flag."""
    flags.DEFINE_multi_string(
        FLAG,
        [],
        "Modules that register names. They are imported, from the current folder or the Python "
        "path, before names are looked up; several are separated by commas.",
        flag_values=values,
    )


def asked(values: Any) -> list[str]:
    """The names of the modules."""
    if FLAG not in values:
        return []
    texts = values[FLAG].value or []
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def load(names: Sequence[str], flag: str = FLAG) -> None:
    """Imports the modules, whose files are from then on part of `provenance.code`.

    Args:
        names: of the modules.
        flag: that names them, for messages.

    Raises:
        InvalidConfig: if there is no module of that name.
    """
    if names and not {"", os.getcwd()} & {*sys.path}:  # where a script started the command
        sys.path.append(os.getcwd())
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # of a module that it imports
            rule = "it is the name of a module in the current folder or on the Python path"
            raise InvalidConfig(f"--{flag} {name}: no such module: {rule}") from None
        except (TypeError, ValueError):
            if all(part.isidentifier() for part in name.split(".")):
                raise
            raise InvalidConfig(f"--{flag} is the name of a module: got {name!r}") from None
        file = getattr(module, "__file__", None)  # built-in modules have none
        if file is not None:
            provenance.add_own(name, pathlib.Path(file))


def again(values: Any) -> list[str]:
    """The flags with which another command imports the same modules."""
    return [f"--{FLAG}={name}" for name in asked(values)]
