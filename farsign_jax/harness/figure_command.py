"""The command that runs some of the figures of an experiment, see `figure_grid`."""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import figure_grid, multi_host, plan
from farsign_jax.harness.command import folder_for
from farsign_jax.harness.figure_grid import Cell, Figure
from farsign_jax.harness.flags import FLAGS, is_short
from farsign_jax.harness.progress import Progress
from farsign_jax.io import processes
from farsign_jax.validation import lookup, require

flags.DEFINE_list("panels", None, "The panels to run. Default: all of them.")


def _cells(figure: Figure, base: PanelConfig) -> list[Cell]:
    """The cells of a figure; of --preset smoke, those at the last place of its axis."""
    cells = list(figure.cells(base))
    return [cell for cell in cells if cell.x == cells[-1].x] if is_short() else cells


def run_figures(
    name: str, base: PanelConfig, figures: Mapping[str, Figure]
) -> pathlib.Path | None:
    """Runs the figures of --panels, and writes and prints what they show.

    Args:
        name: the name of the experiment.
        base: the configuration that the cells change.
        figures: all figures of the experiment, by name.

    Returns:
        The folder of the results; None for --dry_run.

    Raises:
        InvalidConfig, DataError: on what cannot run.
    """
    names = list(figures) if FLAGS.panels is None else FLAGS.panels
    require(len(names) > 0, f"--panels is empty: known: {', '.join(figures)}")
    panels = {panel: lookup("panel", panel, figures) for panel in names}
    folder = folder_for(name, base, panels=list(panels))
    groups = {
        n: figure_grid.prepare(_cells(f, base), FLAGS.data_dir) for n, f in panels.items()
    }
    for panel, found in groups.items():
        require(len(found) > 0, f"panel {panel} has no line of those that were asked for")
    if FLAGS.dry_run:
        every = ((name, *pair) for name, mine in groups.items() for pair in enumerate(mine))
        plan.print_plan((figure_grid.planned(*each, folder) for each in every), folder)
        return None
    folder.claim()
    progress = Progress(sum(group.answers for every in groups.values() for group in every))
    rows: list[dict[str, Any]] = []
    for panel, figure in panels.items():
        mine = figure_grid.run(panel, groups[panel], folder, progress)
        rows += mine
        folder.write_rows(rows)
        if processes.first():
            figure_grid.show(panel, figure, mine, folder)
    progress.close()
    multi_host.part()
    print(f"The results are in {folder.path}.")
    return folder.path
