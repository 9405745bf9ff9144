"""Chooses the step sizes of `--preset tuned` with the same search budget for every method.

    python -m experiments.tune                                  30 minutes on two cores
    python -m experiments.tune --methods far_sign --seeds 2     FAR-SIGN only

Each method, with each aggregator, runs with the same eight multiples of its `paper` step size
under every attack. The runs have half the usual length and one seed, and a sixth of the
training set is held out for validation; the test set is not used. A run is judged by its
validation accuracy after the last event. The chosen multiple has the highest accuracy under its
worst attack, rounded to 0.1 %, and then the highest mean over attacks; with --criterion=mean,
the highest mean, which tells step sizes of methods apart that no step size protects. A choice
at an end of the grid is marked "at the edge": a step size beyond it may be better.

Writes table.md, results.csv and results.json under --out.
"""

import itertools
import pathlib
from typing import Any

import numpy as np
from absl import flags

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import captions, multi_host, panel, plan, summary
from farsign_jax.harness.command import folder_for, main, sweep_options
from farsign_jax.harness.flags import FLAGS, configure
from farsign_jax.harness.progress import Progress
from farsign_jax.io import files, tables
from farsign_jax.validation import require

flags.DEFINE_enum(
    "criterion", "worst", ("worst", "mean"), "What decides: the worst attack, or the mean."
)

CONFIG = PanelConfig(
    methods=("far_sign", "cyber0"), seeds=(100,), validation=1 / 6, events=5000, eval_every=250
)
MULTIPLES = tuple(2.0**i for i in range(-2, 6))


def choose(scores: np.ndarray, criterion: str = "worst") -> int:
    """The row of f64[multiples, attacks] with the best worst case, to 0.1 %, then mean."""
    by_worst = criterion == "worst"
    order = [(round(row.min(), 3) if by_worst else 0, row.mean()) for row in scores]
    return max(range(len(order)), key=order.__getitem__)


def tune() -> pathlib.Path | None:
    config = configure(CONFIG)
    require(config.step_size is None, "tune chooses the step size: leave --step_size out")
    require(config.validation > 0, f"tune needs --validation > 0: got {config.validation:g}")
    require(config.preset != "tuned", "tune starts from the preset 'paper': got --preset=tuned")
    folder = folder_for("tune", config)
    candidates = panel.ready(config, FLAGS.data_dir, MULTIPLES)
    if FLAGS.dry_run:
        plan.print_plan(candidates.planned(folder, FLAGS.max_parallel_runs), folder)
        return None
    scores, lost, steps, rows = {}, {}, {}, {}  # by (method, aggregator)

    def keep(job: Any, columns: dict[str, np.ndarray]) -> None:
        if np.isnan(columns["event"][:, -1]).any():  # the sweep has not ended
            return
        groups, points = job.hyper["step_size"].shape
        attacks = len(job.runs) // groups
        last = columns["test_accuracy"][:, -1]  # of the examples held out for validation
        last = last.reshape(len(config.seeds), groups, points, attacks)
        diverged = ~np.isfinite(columns["test_loss"][:, -1]).reshape(last.shape)
        for g, a in itertools.product(range(groups), range(attacks)):
            name, attack = job.runs[g * attacks][0], job.runs[a][1]
            step_sizes = job.hyper["step_size"][g].tolist()
            steps[job.method, name] = step_sizes
            mean = last[:, g, :, a].mean(axis=0)
            scores.setdefault((job.method, name), {})[attack] = mean
            lost.setdefault((job.method, name), {})[attack] = diverged[:, g, :, a].sum(axis=0)
            rows[job.method, name, attack] = [
                {"method": job.method, "aggregator": name, "attack": attack}
                | {"partition": config.partition, "seed": seed, "step_size": step}
                | {
                    "event": int(columns["event"][s, -1, 0]),
                    "test_accuracy": float(last[s, g, h, a]),
                }
                for s, seed in enumerate(config.seeds)
                for h, step in enumerate(step_sizes)
            ]
        folder.write_rows([row for group in rows.values() for row in group])

    progress = Progress(candidates.answers)
    panel.sweep(candidates, folder, keep, progress, **sweep_options())
    progress.close()
    multi_host.part()
    header = ["method", "step size", *config.attacks, "worst"]
    lines = []
    for (method, name), by_attack in scores.items():
        values = np.stack([by_attack[attack] for attack in config.attacks], axis=1)
        chosen = choose(values, FLAGS.criterion)
        for i, (step, row) in enumerate(zip(steps[method, name], values, strict=True)):
            edge = ", at the edge" if i in (0, len(values) - 1) else ""
            mark = f" (chosen{edge})" if i == chosen else ""
            count = [int(lost[method, name][attack][i]) for attack in config.attacks]
            cells = [
                summary.percent(row[a]) + summary.mark(count[a], len(config.seeds))
                for a in (*range(len(row)), int(row.argmin()))
            ]
            lines.append([f"{method} {name}".strip(), f"{step:.4g}{mark}", *cells])
    table = tables.markdown_table(header, lines)
    table += f"\n{captions.of_accuracies(config, best=False)}"
    files.write_text(folder.path / "table.md", table)
    print(f"\n{table}\nThe results are in {folder.path}.")
    return folder.path


if __name__ == "__main__":
    main(tune, many=True, base=CONFIG, own=("criterion",))
