"""Compares FAR-SIGN and asynchronous SGD under attack, on the embedded digits.

    python -m experiments.quickstart
    python -m experiments.quickstart --attacks none,alie --byzantine 8 --seeds 1

There are 25 workers with 400 images each. Five of them are Byzantine; they do not attack, or
flip the sign of their messages and multiply them by 10. The command takes about 15 seconds on
two cores, compilation included. Without attack, both methods learn (FAR-SIGN reaches 86.2 %
accuracy and SGD 92.2 %); under attack, FAR-SIGN still learns (81.0 %) and SGD ends at the level
of chance (10.0 %). The table says that a method survives where its accuracy after the last
event is above 50 %.

Writes results.csv, results.json, table.md and curves.png under --out.
"""

import pathlib

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import captions, plots
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.command import main, run_panel
from farsign_jax.io import files, tables

CONFIG = PanelConfig(
    methods=("far_sign", "async_sgd"),
    attacks=("none", "sign_flip:scale=10"),
    seeds=(0, 1),
    dataset="mnist_subset",
    events=1000,
)


def quickstart() -> pathlib.Path:
    given, folder, rows, summary = run_panel("quickstart", CONFIG)
    lines = [
        [e["method"], e["attack"], summary_lib.accuracy(e, "last"), _verdict(e["last"])]
        for e in summary
    ]
    table = tables.markdown_table(["method", "attack", "last accuracy, %", "verdict"], lines)
    table += f"\n{captions.of_accuracies(given, best=False)}"
    table += "A method survives an attack if this is above 50 %; guessing gives 10 %.\n"
    files.write_text(folder.path / "table.md", table)
    xs = ("event", "virtual_seconds") if "virtual_seconds" in rows[0] else ("event",)
    plots.curves(rows, folder.path / "curves.png", xs)
    print(f"\n{table}\nThe learning curves are in {folder.path}/curves.png.")
    return folder.path


def _verdict(accuracy: float) -> str:
    return "survives" if accuracy > 0.5 else "does not survive"


if __name__ == "__main__":
    main(quickstart, many=True, base=CONFIG)
