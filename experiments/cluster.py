"""Runs a server and 8 workers, two of them Byzantine, as processes of this machine.

    python -m experiments.cluster
    python -m experiments.cluster --attacks none,sign_flip,gaussian,constant,alie \\
        --behaviours none

The run uses the embedded digits and TLS over loopback addresses. The last Byzantine worker runs
the --behaviours of `farsign_jax.runtime.testing.adversarial_client`, one after the other, and
the others run the attack. With --behaviours none, all of them run the attack. No answer is
applied before all workers have loaded the data and compiled. One attack takes about half a
minute on two cores.

    python -m experiments.cluster --behaviours none --flood 5 --vote nnm:f=2+trimmed_mean:f=2

With --flood, which needs --behaviours none, Byzantine workers answer so many times as often as
the others, and all together give about 200 answers per second. --vote lets all workers decide
each step instead of the one that answered.

With --task finetune, users fine-tune a small transformer, as in `experiments.finetune`.

During the run, the command reports the number of answers, answers per second, the accuracy, the
largest staleness, and strikes. At the end of each attack it replays the journal, which must
lead the simulator to the same bits. With --behaviours none, where the simulator has the same
attack, it also simulates the recorded schedule with five seeds and compares the accuracies.

Writes table.md, workers.md, results.csv, results.json and curves.png under --out. Vertical
lines in curves.png mark strikes, which are invalid messages, and workers that were ejected.
"""

import dataclasses
import os
import pathlib
import sys
from typing import Any

import numpy as np
from absl import flags

from farsign_jax import attacks, simulation
from farsign_jax.cli import commands
from farsign_jax.cli.settings import split
from farsign_jax.config import systems
from farsign_jax.config.checks import parse_seeds
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import plots, summary
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files, provenance, run_folder, tables
from farsign_jax.methods import table_vote
from farsign_jax.runtime import journal, replay, store
from farsign_jax.validation import InvalidConfig, lookup, require

try:
    from experiments.parts.cluster_processes import TASKS, start, started
    from experiments.parts.cluster_progress import watch
    from farsign_jax.runtime import metrics
    from farsign_jax.runtime.metrics import Samples
    from farsign_jax.runtime.testing.adversarial_client import BEHAVIOURS
    from farsign_jax.runtime.testing.local_cluster import LocalCluster
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

flags.DEFINE_string(
    "behaviours",
    "outliers,nonfinite,stall,garbage,pipeline",
    "Behaviours of the last Byzantine worker, or none.",
)
flags.DEFINE_enum("task", "digits", list(TASKS), "What the workers learn.")
flags.DEFINE_string("vote", table_vote.OWN, "The option vote of far_sign.")
flags.DEFINE_float(
    "flood",
    None,
    "How many times as often as honest workers Byzantine workers answer. By default, all "
    "answer as fast as they can.",
)

CONFIG = PanelConfig(
    workers=8, byzantine=2, attacks=("sign_flip:scale=10",), events=8000, seeds=(0,)
)
SEEDS = range(5)
REAL = "real processes"
READ = ("out", "workers", "byzantine", "attacks", "events", "data_dir", "seeds")
READ += ("tensorboard",)


def experiment_config() -> dict[str, Any]:
    """Returns the configuration that the flags describe.

    Raises:
        InvalidConfig: if it is invalid.
    """
    workers, byzantine, events = (
        getattr(CONFIG if getattr(FLAGS, name) is None else FLAGS, name)
        for name in ("workers", "byzantine", "events")
    )
    require(workers > 0, f"need workers > 0: got {workers}")
    attacks.byzantine_mask(workers, byzantine)
    seeds = CONFIG.seeds if FLAGS.seeds is None else parse_seeds(FLAGS.seeds)
    require(len(seeds) == 1, f"a cluster runs one seed, as in --seeds 3,: got {FLAGS.seeds}")
    names = split(FLAGS.attacks or CONFIG.attacks, "attacks")
    for name in names:
        attacks.parse(name)
    without = FLAGS.behaviours == "none" or not byzantine
    behaviours = [] if without else FLAGS.behaviours.split(",")
    for behaviour in behaviours:
        lookup("behaviour", behaviour, BEHAVIOURS)
    require(len(names) > 0, "--attacks needs at least one attack: got none")
    require(events > 0, f"need events > 0: got {events}")
    if (flood := FLAGS.flood) is not None:
        require(0 < flood < float("inf"), f"need 0 < --flood < inf: got {flood}")
        rule = "--flood needs Byzantine workers and --behaviours none: got "
        require(byzantine > 0 and without, f"{rule}{byzantine} and {FLAGS.behaviours}")
    _, options, _ = systems.parse_method(f"far_sign:vote={FLAGS.vote}")
    table_vote.table_vote(workers, 1, **options)
    return {
        "workers": workers,
        "byzantine": byzantine,
        "attacks": list(names),
        "behaviours": behaviours,
        "events": events,
        "seed": seeds[0],
        "vote": FLAGS.vote,
        "flood": flood,
        "task": FLAGS.task,
    }


def run(
    config: dict[str, Any], attack: str, folder: pathlib.Path
) -> tuple[dict[str, Samples], list[str], list[plots.Mark]]:
    """Runs one cluster from its first process to its last.

    Returns:
        The last metrics of the server, the kind of each worker, and marks for the plot.
    """
    with LocalCluster(folder, config["workers"]) as local:
        kinds, client = start(local, config, attack)
        if client is not None:
            print("begin", file=client.stdin, flush=True)
        last, marks = watch(local, config["events"])
        if local.server.wait() != 0:
            raise InvalidConfig(f"the server of {attack} failed: see above")
    return last, kinds, marks


def simulate(
    config: dict[str, Any], attack: str, folder: pathlib.Path, schedule: np.ndarray
) -> list[float]:
    """Simulates a recorded schedule and returns the final accuracy of each seed."""
    name, options = attacks.parse(attack)
    recorded = replay.load_config(folder)
    accuracies = []
    for seed in SEEDS:
        one = dataclasses.replace(recorded, seed=seed)
        problem, measure = one.problem(FLAGS.data_dir)
        system = one.system(problem)._replace(attack=attacks.make(name, **options))
        _, records = simulation.run(
            problem,
            system,
            schedule,
            measure=measure,
            seed=seed,
            byzantine=config["byzantine"],
            delivery="outstanding",
        )
        accuracies.append(records[-1]["test_accuracy"])
    return accuracies


def evaluate(
    config: dict[str, Any], attack: str, folder: pathlib.Path
) -> tuple[list[str], list[dict[str, Any]]]:
    """Replays a run, and simulates it if the simulator has the same attack.

    Returns:
        A line of the table, and the rows of the results.

    Raises:
        InvalidConfig: if the replay does not end with the same bits as the server.
    """
    found = replay.verify(folder, FLAGS.data_dir)
    rule = f"{attack}: after the replay, {', '.join(found.differing)} differ"
    require(not found.differing, rule)
    arrivals, recorded = journal.read(folder / "arrivals.log"), replay.recorded_rows(folder)
    times = arrivals["seconds"]
    rate = found.events / max(times[-1] - times[0], 1e-9)
    accuracy = summary.percent(recorded[-1]["test_accuracy"])
    line = [attack, f"{found.events}", f"{rate:.0f}", accuracy, "equal"]
    rows = [row | {"attack": attack, "method": REAL} for row in recorded]
    if not config["behaviours"]:
        schedule = arrivals["worker"].astype(np.int32)
        accuracies = simulate(config, attack, folder, schedule)
        spread = float(np.std(accuracies, ddof=1))
        line.insert(-1, summary.percent(float(np.mean(accuracies)), spread))
        end = {"event": found.events, "seconds": recorded[-1]["seconds"], "attack": attack}
        rows += [
            end | {"method": "simulator", "seed": seed, "test_accuracy": value}
            for seed, value in zip(SEEDS, accuracies, strict=True)
        ]
    return line, rows


def worker_lines(
    last: dict[str, Samples], kinds: list[str], folder: pathlib.Path
) -> list[list[str]]:
    """Returns a line per worker: kind, accepted and rejected answers, staleness, strikes."""
    workers = journal.read(folder / "arrivals.log")["worker"]
    accepted, lines = np.bincount(workers, minlength=len(kinds)), []
    for worker, kind in enumerate(kinds):
        rejected = []
        for labels, count in last.get(metrics.ANSWERS, {}).items():
            found = dict(labels)
            if found["worker"] == str(worker) and found["verdict"] != "accepted":
                rejected.append(f"{count:.0f} {found['verdict']}")
        staleness, strikes = (
            f"{metrics.total(last, name, worker=worker):.0f}"
            for name in ("staleness", "strikes")
        )
        numbers = [f"{accepted[worker]}", ", ".join(rejected) or "none", staleness, strikes]
        lines.append([str(worker), kind, *numbers])
    return lines


def cluster() -> pathlib.Path:
    """Runs the command and returns the folder of its results."""
    config = experiment_config()
    described = {"experiment": "cluster"} | config
    out = FLAGS.out or f"results/cluster-{provenance.fingerprint(described)[:8]}"
    folder = run_folder.open_folder(out, described)
    folder.claim()
    locked = store.lock(folder.path / "lock")
    rows, lines, workers, marks = [], [], [], {}
    for attack in config["attacks"]:
        own = folder.path / attack.replace(":", "-").replace("=", "").replace(",", "-")
        print(f"{attack}: starting {started(config)}", file=sys.stderr, flush=True)
        last, kinds, marks[attack] = run(config, attack, own)
        line, recorded = evaluate(config, attack, own)
        lines.append(line)
        rows += recorded
        workers += [[attack, *line] for line in worker_lines(last, kinds, own)]
    header = ["attack", "answers", "per second", "real, %", "replayed bits"]
    if not config["behaviours"]:
        header.insert(-1, "simulator, %")
    table = tables.markdown_table(header, lines)
    if config["behaviours"]:
        table += (
            "\nThe simulator does not have these behaviours. Use --behaviours none to compare "
            "with it.\n"
        )
    header = ["attack", "worker", "kind", "accepted", "rejected", "staleness", "strikes"]
    by_worker = tables.markdown_table(header, workers)
    files.write_text(folder.path / "table.md", table)
    files.write_text(folder.path / "workers.md", by_worker)
    folder.write_rows(rows)
    os.close(locked)
    real = [row | {"aggregator": ""} for row in rows if row["method"] == REAL]
    plots.curves(real, folder.path / "curves.png", ("event",), marks)
    print(f"\n{by_worker}\n{table}\nThe results are in {folder.path}")
    return folder.path


if __name__ == "__main__":
    main(cluster, base=CONFIG, own=("behaviours", "task", "vote", "flood"), reads=READ)
