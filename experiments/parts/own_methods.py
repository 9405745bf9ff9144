"""A method of one's own, named on a command line as MODULE:NAME."""

import importlib
import os
import pathlib
import sys

from farsign_jax.io import provenance
from farsign_jax.methods import METHODS, Method
from farsign_jax.methods.method import step_size_presets
from farsign_jax.validation import InvalidConfig, require


def register(text: str) -> str:
    """Imports a method and enters it in `METHODS`.

    Args:
        text: "module:name", of a `Method`, or of a function `(problem, oracle, hyper)` that
            returns a server and an honest worker, and whose step size begins at 0.1.

    Returns:
        The name of the method.

    Raises:
        InvalidConfig: if there is no such module, or nothing of that name in it.
    """
    module_name, _, name = text.partition(":")
    require(name.isidentifier(), f"--method is MODULE:NAME: got {text!r}")
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InvalidConfig(f"--method {text}: {error}") from None
    require(name not in METHODS, f"--method {text}: there is a method {name!r} already")
    METHODS[name] = (
        found if isinstance(found, Method) else Method(found, step_size_presets(0.1))
    )
    if module.__file__ is not None:
        provenance.add_own(module_name, pathlib.Path(module.__file__))
    return name
