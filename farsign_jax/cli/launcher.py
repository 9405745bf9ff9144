"""Starts the commands by name: `farsign compare ...`, or `python -m farsign_jax compare ...`.

The commands of experiments lie in the folder `experiments` beside the package, in a clone as
in an installed wheel. They are found there whatever the current folder contains, and are not
imported by the package.
"""

import ast
import pathlib
import runpy
import sys

from farsign_jax.io import endings
from farsign_jax.validation import lookup

BESIDE = pathlib.Path(__file__).parents[2]

RUNTIME = {
    "serve": "farsign_jax.runtime.serve",
    "work": "farsign_jax.runtime.work",
    "replay": "farsign_jax.runtime.replay",
    "tls": "farsign_jax.runtime.tls",
    "on_ray": "farsign_jax.runtime.on_ray",
}

USAGE = """Starts a command of farsign_jax by name.

    farsign COMMAND --help
    python -m farsign_jax COMMAND --help      (the same)

The commands:
"""


def names() -> dict[str, str]:
    """The module of each command, those of experiments first."""
    files = sorted((BESIDE / "experiments").glob("[!_]*.py"))
    return {path.stem: f"experiments.{path.stem}" for path in files} | RUNTIME


def _purpose(module: str) -> str:
    """The first paragraph of the docstring of a command, which is not imported for it."""
    path = BESIDE.joinpath(*module.split(".")).with_suffix(".py")
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split())


def usage() -> str:
    """What --help prints."""
    found = names()
    width = max(map(len, found))
    return USAGE + "\n".join(f"  {n:{width}}  {_purpose(m)}" for n, m in found.items())


def main() -> None:
    """Runs the command that the first argument names, with the others."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    with endings.in_one_line():
        module = lookup("command", name, names())
    sys.argv = [sys.argv[0], *arguments]
    if str(BESIDE) != sys.path[0]:
        sys.path.insert(0, str(BESIDE))  # before a folder `experiments` of the user's own
    runpy.run_module(module, run_name="__main__", alter_sys=True)
