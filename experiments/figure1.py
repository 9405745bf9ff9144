"""Figure 1 of the paper: test accuracy against evaluations (above) and seconds (below).

    python -m experiments.figure1
    python -m experiments.figure1 --preset smoke

The runs are those of `experiments.table3`. If table3 has run with the same flags, its results
are only plotted; otherwise this command takes as long. There is one column per attack; lines
are means over seeds and bands are their range. Seconds are those of each method alone on the
machine.

Writes figure1.png/pdf, results.csv and results.json under --out.
"""

import pathlib

from experiments import table3
from farsign_jax.harness import plots
from farsign_jax.harness.command import main


def figure1() -> pathlib.Path:
    _, folder, rows, _ = table3.measured()
    plots.curves(rows, folder.path / "figure1.png", ("evaluations", "seconds"))
    print(f"\nThe figure is {folder.path}/figure1.png.")
    return folder.path


if __name__ == "__main__":
    main(figure1, many=True, base=table3.CONFIG)
