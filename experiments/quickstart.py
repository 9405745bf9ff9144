"""Who survives liars? FAR-SIGN and plain asynchronous SGD on the embedded digits.

    python -m experiments.quickstart
    python -m experiments.quickstart --attacks none,alie --byzantine 8 --seeds 1

25 workers with 400 images each, 5 of them Byzantine; no attack, and sign_flip times 10.
About 15 seconds on two cores, compilation included. Expected: without attack both learn
(86.2 % and 92.2 %); under attack FAR-SIGN keeps learning (81.0 %) and SGD ends at chance
(10.0 %). Writes results.csv, results.json, table.md and curves.png under --out.
"""

import pathlib

from experiments import figures
from experiments.command import main, run_panel
from experiments.config import Config
from farsign_jax import results

CONFIG = Config(
    methods=("far_sign", "async_sgd"),
    attacks=("none", "sign_flip:scale=10"),
    seeds=(0, 1),
    dataset="mnist_subset",
    events=1000,
)


def quickstart() -> pathlib.Path:
    _, folder, rows, summary = run_panel("quickstart", CONFIG)
    lines = [
        [e["method"], e["attack"], figures.percent(e["final"]), _verdict(e["final"])]
        for e in summary
    ]
    table = results.markdown_table(["method", "attack", "test accuracy, %", "verdict"], lines)
    results.write_text(folder.path / "table.md", table)
    xs = ("event", "virtual_seconds") if "virtual_seconds" in rows[0] else ("event",)
    figures.curves(rows, folder.path / "curves.png", xs)
    print(f"\n{table}\n{folder.path}/curves.png shows how they got there")
    return folder.path


def _verdict(accuracy: float) -> str:
    return "survives" if accuracy > 0.5 else "does not survive"


if __name__ == "__main__":
    main(quickstart, many=True, base=CONFIG)
