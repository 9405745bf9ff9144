"""One HTML page of everything: results folders with tables and interactive curves.

For every folder, of any command, the page has tables that can be sorted, curves that show
the method, the attack and the values of all seeds under the pointer, figures, the
configuration, the environment, and links to the data. Filters by method, aggregator and
attack apply to all tables and curves. Unfinished, empty and damaged folders are marked. The
page is one file and needs no network.

Needs `pip install 'farsign_jax[report]'`. Writes index.html under --out (default:
results/report); the same folders give the same bytes.

    python -m experiments.report
    python -m experiments.report results/table3-12ab34cd elsewhere/runs --out page
"""

import functools
import importlib
import pathlib

from absl import flags

from farsign_jax.cli import commands
from farsign_jax.harness import plan
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.harness.report import reproduce
from farsign_jax.io import files
from farsign_jax.validation import require

try:
    from farsign_jax.harness.report import page, reader
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

flags.DEFINE_list("from", ["results"], "Results folders, or folders that contain some.")

# The flags that a command adds to those of its configuration, which is its CONFIG ...
CONFIGURED = {
    "quickstart": (),
    "table3": (),
    "tune": (),
    "compare": (),
    "ablation": ("variants",),
    "asynchrony": ("panels",),
    "asynrsa": ("claims", "rounds_run"),
}
# ... and all flags of a command that has no such configuration.
OTHERS = {
    "rates": ("preset", "claims"),
    "brsgd": ("preset", "claims"),
    "cluster": ("workers", "byzantine", "attacks", "behaviours", "events", "seed"),
}


def recipe_of(name: str) -> reproduce.Recipe | None:
    """How to call the command of that name, or None where there is none."""
    if name in CONFIGURED:  # imported only if there are results of it, as it defines flags
        module = importlib.import_module(f"experiments.{name}")
        return reproduce.Recipe(CONFIGURED[name], module.CONFIG)
    return reproduce.Recipe(OTHERS[name]) if name in OTHERS else None


def report(*named: str) -> pathlib.Path:
    out = files.expanded(FLAGS.out or "results/report")
    file = out / "index.html"
    require(not out.exists() or out.is_dir(), f"{out} is a file: --out names a folder")
    rule = f"{file} was not written by this command: choose another --out"
    require(not file.exists() or reader.is_page(out), rule)
    given = FLAGS["from"]
    rule = "folders are named either by --from or without it: got both"
    require(not named or given.using_default_value, rule)
    places = [place for place in named or given.value or () if place]
    require(len(places) > 0, "--from names no folder")
    found, empty = reader.gather(places, out)
    require(len(found) > 0, f"no results in {', '.join(places)}")
    command = functools.partial(reproduce.command, recipe_of=recipe_of)
    files.write_text(file, page.render(found, empty, out, command))
    print(f"{page.count(len(found), 'folder')}: {file}, {plan.size(file.stat().st_size)}")
    return out


if __name__ == "__main__":
    main(report, own=("from",), reads=("out",), positional=True)
