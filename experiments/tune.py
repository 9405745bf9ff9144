"""Chooses the step sizes of `--preset tuned`, with the same search budget for every method.

    python -m experiments.tune                                  20 minutes on two cores
    python -m experiments.tune --methods far_sign --seeds 2     of FAR-SIGN alone

Each method, with each aggregator, tries the same six multiples of its `paper` step size under
every attack, in runs of half the length and one seed, with a sixth of the training set held out
for validation; the test set is not looked at. The best multiple is the one with the highest
accuracy in its worst attack (to 0.1 %, then on average over attacks). Writes table.md,
results.csv and results.json.
"""

import pathlib

import numpy as np

from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import multi_host, panel, plan, summary
from farsign_jax.harness.command import folder_for, main, sweep_options
from farsign_jax.harness.flags import FLAGS, configure
from farsign_jax.harness.progress import Progress
from farsign_jax.io import files, tables
from farsign_jax.validation import require

CONFIG = PanelConfig(
    methods=("far_sign", "cyber0"), seeds=(100,), validation=1 / 6, events=5000, eval_every=250
)
MULTIPLES = tuple(2.0**i for i in range(-2, 4))


def choose(scores):
    """The row of f64[multiples, attacks] with the best worst case, to 0.1 %, then mean."""
    order = [(round(row.min(), 3), row.mean()) for row in scores]
    return max(range(len(order)), key=order.__getitem__)


def tune() -> pathlib.Path | None:
    config = configure(CONFIG)
    require(config.step_size is None, "tune chooses the step size: leave --step_size out")
    require(config.validation > 0, "tune needs --validation > 0")
    require(config.preset != "tuned", "tune starts from the preset 'paper'")
    folder = folder_for("tune", config)
    candidates = panel.ready(config, FLAGS.data_dir, MULTIPLES)
    if FLAGS.dry_run:
        plan.print_plan(candidates.planned(folder, FLAGS.max_parallel_runs), folder)
        return None
    scores, steps, rows = {}, {}, {}  # of (method, aggregator)

    def keep(job, columns):
        accuracy = columns["test_accuracy"]
        groups = len(job.hyper["step_size"])
        shape = (len(config.seeds), groups, job.points, len(job.runs) // groups)
        last = columns["event"][:, -1] == config.events
        if not last.all():
            return None
        best = accuracy.max(axis=1).reshape(shape)
        for g in range(groups):
            name, own = job.runs[g * shape[3]][0], job.hyper["step_size"][g].tolist()
            steps[job.method, name] = own
            for a in range(shape[3]):
                attack = job.runs[a][1]
                scores.setdefault((job.method, name), {})[attack] = best[:, g, :, a].mean(
                    axis=0
                )
                rows[job.method, name, attack] = [
                    {"method": job.method, "aggregator": name, "attack": attack}
                    | {"partition": config.partition, "seed": seed, "step_size": step}
                    | {"event": config.events, "test_accuracy": float(best[s, g, h, a])}
                    for s, seed in enumerate(config.seeds)
                    for h, step in enumerate(own)
                ]
        folder.write_rows([row for some in rows.values() for row in some])

    progress = Progress(candidates.answers)
    panel.sweep(candidates, folder, keep, progress, **sweep_options())
    progress.close()
    multi_host.part()
    header = ["method", "step size", *config.attacks, "worst"]
    lines = []
    for (method, name), by_attack in scores.items():
        values = np.stack([by_attack[attack] for attack in config.attacks], axis=1)
        chosen = choose(values)
        for i, (step, row) in enumerate(zip(steps[method, name], values, strict=True)):
            mark = " (chosen)" if i == chosen else ""
            cells = [summary.percent(score) for score in (*row, row.min())]
            lines.append([f"{method} {name}".strip(), f"{step:.4g}{mark}", *cells])
    table = tables.markdown_table(header, lines)
    files.write_text(folder.path / "table.md", table)
    print(f"\n{table}\nall of it is in {folder.path}")
    return folder.path


if __name__ == "__main__":
    main(tune, many=True, base=CONFIG)
