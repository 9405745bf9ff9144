"""Commands that check the claims of a paper, and the table that they write.

Each claim is a `Finding`: what the paper says, what was measured, and a verdict. Claims come in
groups, one figure each, which --claims selects.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from farsign_jax.harness import plots
from farsign_jax.harness.flags import FLAGS, is_short
from farsign_jax.harness.threads import in_threads
from farsign_jax.io import files, provenance, run_folder, tables
from farsign_jax.validation import lookup, require

flags.DEFINE_list("claims", None, "The groups of claims to check. Default: all of them.")

READ = ("out", "preset")


class Finding(NamedTuple):
    """One line of the table."""

    source: str
    claim: str
    measured: str
    verdict: str


class Group(NamedTuple):
    """The result of a group of claims.

    Attributes:
        findings: The lines of the table.
        rows: The rows of results.csv.
        entries: The entries of the figure, as `draw` takes them.
        axes: The title, x and y of the figure; None if there is none.
        draw: `plots.powers`, or another function of entries, path and axes.
    """

    findings: list[Finding]
    rows: list[dict[str, Any]]
    entries: list[dict[str, Any]]
    axes: tuple[str, str, str] | None
    draw: Callable[..., None] = plots.powers


def table(findings: Sequence[Finding]) -> str:
    return tables.markdown_table(["source", "claim", "measured", "verdict"], findings)


def without_verdicts(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of a smoke test, whose runs are too short for a verdict."""
    return [finding._replace(verdict="too short to judge") for finding in findings]


def selected(known: Sequence[str]) -> list[str]:
    """The groups that --claims names, or all of them.

    Raises:
        InvalidConfig: if it names none, or one that is not known.
    """
    names = list(known) if FLAGS.claims is None else FLAGS.claims
    require(len(names) > 0, f"--claims names none: known: {', '.join(known)}")
    for name in names:
        lookup("group of claims", name, dict.fromkeys(known))
    return list(dict.fromkeys(names))


def run(
    experiment: str,
    groups: Mapping[str, Callable[[Any, run_folder.RunFolder], Group]],
    sizes: Mapping[str, Any],
) -> pathlib.Path:
    """Checks the groups of claims that --claims selects, in the size that --preset names.

    Writes table.md, results.csv, results.json and the group's figure after each group.

    Args:
        experiment: The name of the command.
        groups: Maps a name to the function that checks this group.
        sizes: Maps a preset to the dataclass of sizes that these functions take.

    Returns:
        The results folder.
    """
    preset = FLAGS.preset or "full"
    size = lookup("preset", preset, sizes)
    names = selected(list(groups))
    config = {"experiment": experiment, "preset": preset, "claims": names}
    config |= dataclasses.asdict(size)
    name = f"{experiment}-{provenance.fingerprint(config)[:8]}"
    folder = run_folder.open_folder(FLAGS.out or f"results/{name}", config)
    folder.claim()
    findings: list[Finding] = []
    rows: list[dict[str, Any]] = []
    check = lambda name: groups[name](size, folder)  # noqa: E731
    checked = in_threads(check, names) if is_short() else map(check, names)
    for name, found in zip(names, checked, strict=True):
        new = without_verdicts(found.findings) if is_short() else found.findings
        findings += new
        rows += found.rows
        folder.write_rows(rows)
        if found.axes is not None:
            found.draw(found.entries, folder.path / f"{name}.png", *found.axes)
        files.write_text(folder.path / "table.md", table(findings))
        print(table(new))
    print(f"all results are in {folder.path}")
    return folder.path
