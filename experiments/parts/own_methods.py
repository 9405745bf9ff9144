"""A method of one's own, named on a command line as MODULE:NAME."""

import sys

from farsign_jax.cli import imports
from farsign_jax.methods import METHODS, Method
from farsign_jax.methods.method import step_size_presets
from farsign_jax.validation import require


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
    module, _, name = text.partition(":")
    require(name.isidentifier(), f"--method is MODULE:NAME: got {text!r}")
    imports.load([module], "method")
    there = hasattr(sys.modules[module], name)
    require(there, f"--method {text}: there is no {name} in {module}")
    found = getattr(sys.modules[module], name)
    require(name not in METHODS, f"--method {text}: there is a method {name!r} already")
    METHODS[name] = (
        found if isinstance(found, Method) else Method(found, step_size_presets(0.1))
    )
    return name
