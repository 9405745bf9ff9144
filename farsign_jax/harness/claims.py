"""Claims of a paper, what was measured of each, and what follows.

Not an experiment itself: the command that goes through groups of claims, and what it writes.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from farsign_jax.harness import plots
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files, provenance, run_folder, tables
from farsign_jax.validation import lookup, require

flags.DEFINE_list("claims", None, "Which groups. Default: all.")


READ = ("out", "preset")


class Finding(NamedTuple):
    """One line of the table."""

    source: str
    claim: str
    measured: str
    verdict: str


class Group(NamedTuple):
    """What was found, and the figure of it."""

    findings: list[Finding]
    rows: list[dict[str, Any]]  # tidy
    entries: list[dict[str, Any]]  # of the figure
    axes: tuple[str, str, str] | None  # its title, x and y; None: it is drawn already


def table(findings: Sequence[Finding]) -> str:
    return tables.markdown_table(["source", "claim", "measured", "verdict"], findings)


def too_short(findings: Sequence[Finding]) -> list[Finding]:
    """Of a run that is only to see whether everything works."""
    return [one._replace(verdict="too short to judge") for one in findings]


def asked(known: Sequence[str]) -> list[str]:
    """--claims, or all of them."""
    names = list(known) if FLAGS.claims is None else FLAGS.claims
    require(len(names) > 0, f"--claims names none: known: {', '.join(known)}")
    for name in names:
        lookup("group of claims", name, dict.fromkeys(known))
    return list(dict.fromkeys(names))


def tell(
    experiment: str,
    groups: Mapping[str, Callable[[Any, run_folder.RunFolder], Group]],
    sizes: Mapping[str, Any],
) -> pathlib.Path:
    """The command: --claims of all groups, in the size that --preset names.

    Writes table.md, results.csv, results.json and a figure per group, after each group.
    Returns the folder.
    """
    preset = FLAGS.preset or "full"
    size = lookup("preset", preset, sizes)
    names = asked(list(groups))
    described = {"experiment": experiment, "preset": preset, "claims": names}
    described |= dataclasses.asdict(size)
    name = f"{experiment}-{provenance.fingerprint(described)[:8]}"
    folder = run_folder.open_folder(FLAGS.out or f"results/{name}", described)
    folder.claim()
    findings: list[Finding] = []
    rows: list[dict[str, Any]] = []
    for name in names:
        found = groups[name](size, folder)
        mine = too_short(found.findings) if preset == "smoke" else found.findings
        findings += mine
        rows += found.rows
        folder.write_rows(rows)
        if found.axes is not None:
            plots.powers(found.entries, folder.path / f"{name}.png", *found.axes)
        files.write_text(folder.path / "table.md", table(findings))
        print(table(mine))
    print(f"all of it is in {folder.path}")
    return folder.path
