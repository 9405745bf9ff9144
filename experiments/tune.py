"""Chooses the step sizes of `--preset tuned`, with the same search budget for every method.

    python -m experiments.tune --methods far_sign        about 6 minutes on two cores

Each method tries the same seven multiples of its `paper` step size, under every attack, with
a sixth of the training set held out for validation; the test set is not looked at. The best
multiple is the one with the highest accuracy in its worst attack (to 0.1 %, then on average
over attacks). Expected for far_sign: 0.035, 88.8 % in its worst attack; 0.0175 is as good up to
noise, 88.7 %. All multiples and seeds of an attack are one program. Writes table.md,
results.csv and results.json.
"""

import dataclasses

import numpy as np

from experiments import figures, panel
from experiments.command import FLAGS, configure, folder_for, main
from farsign_jax import results, sweeps
from farsign_jax.base import require
from farsign_jax.methods import METHODS, Build

CONFIG = panel.Config(seeds=(100, 101, 102), validation=1 / 6)
MULTIPLES = tuple(2.0**i for i in range(-3, 4))


def search(config, setting, folder, method, rows):
    """Mean accuracy over seeds, f64[multiples, attacks], and the step sizes tried."""
    lanes, num_seeds = setting.lanes, len(config.seeds)
    hyper = METHODS[method].presets["paper"]
    steps = np.repeat(np.asarray(MULTIPLES) * hyper["step_size"], num_seeds)
    grid = {k: np.full(len(steps), v, np.float32) for k, v in hyper.items()}
    grid["step_size"] = steps.astype(np.float32)
    lanes = lanes.take(np.tile(np.arange(num_seeds), len(MULTIPLES)))
    lanes = dataclasses.replace(lanes, hyper=grid)
    progress = panel.Progress(len(config.attacks) * len(lanes) * config.events)
    scores = []
    for number, attack in enumerate(config.attacks):
        progress.start(f"{method} {attack}")
        columns, _ = sweeps.sweep(
            Build(method, *panel.parse_attack(attack), config.feedback),
            lanes,
            every=config.eval_every,
            measure=setting.measure,
            delivery=config.delivery,
            max_lanes=FLAGS.max_lanes,
            checkpoint=folder.checkpoint(f"{method}-{number}"),
            checkpoint_every=FLAGS.checkpoint_every,
            progress=progress,
        )
        best = columns["test_accuracy"].max(axis=1)
        seeds = config.seeds * len(MULTIPLES)
        for seed, step, value in zip(seeds, steps.tolist(), best.tolist(), strict=True):
            row = {"method": method, "attack": attack, "partition": config.partition}
            row |= {"seed": seed, "step_size": step, "test_accuracy": value}
            rows.append(row | {"event": config.events})
        folder.write_rows(rows)
        scores.append(best.reshape(len(MULTIPLES), num_seeds).mean(axis=1))
    progress.close()
    return np.stack(scores, axis=1), steps[::num_seeds]


def tune() -> None:
    config = configure(CONFIG)
    require(config.step_size is None, "tune chooses the step size: leave --step_size out")
    require(config.validation > 0, "tune needs --validation > 0")
    folder = folder_for("tune", config)
    setting = panel.prepare(config, FLAGS.data_dir)
    folder.claim()
    header = ["method", "step size", *config.attacks, "worst"]
    lines, rows = [], []
    for method in config.methods:
        scores, steps = search(config, setting, folder, method, rows)
        order = [(round(row.min(), 3), row.mean()) for row in scores]
        chosen = max(range(len(order)), key=order.__getitem__)
        for i, (step, row) in enumerate(zip(steps, scores, strict=True)):
            mark = " (chosen)" if i == chosen else ""
            cells = [figures.percent(score) for score in (*row, row.min())]
            lines.append([method, f"{step:.4g}{mark}", *cells])
    table = results.markdown_table(header, lines)
    results.write_text(folder.path / "table.md", table)
    print(f"\n{table}\nall of it is in {folder.path}")


if __name__ == "__main__":
    main(tune)
