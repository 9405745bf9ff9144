"""The real thing on one machine: a server and 8 workers as processes, two of them hostile.

    python -m experiments.cluster
    python -m experiments.cluster --attacks none,sign_flip,gaussian,constant,alie --behaviours none

On the embedded digits, over TLS on loopback addresses. Of the hostile ones, the last does what
--behaviours says, one thing after the other (`adversarial_client`), and the others lie (--attacks);
with --behaviours none all of them lie. Nobody is heard before all have loaded data and compiled.
About half a minute per attack on two cores.

While it runs: answers heard, answers per second, accuracy, the largest staleness, strikes. In
the end, for every attack: the log is replayed, which must lead the simulator to the same bits.
With --behaviours none, where the simulator's liars do the same, it runs from the recorded schedule
alone, too, with five seeds, and its accuracy stands beside the real one.

Writes table.md, workers.md, results.csv, results.json and curves.png under --out.
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from farsign_jax import attacks, simulation
from farsign_jax.cli import commands
from farsign_jax.cli.settings import split
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import plots, summary
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files, provenance, run_folder, tables
from farsign_jax.runtime import journal, replay
from farsign_jax.validation import InvalidConfig, lookup, require

try:
    from farsign_jax.runtime import metrics
    from farsign_jax.runtime.testing.adversarial_client import BEHAVIOURS
    from farsign_jax.runtime.testing.local_cluster import Fleet
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

flags.DEFINE_string(
    "behaviours",
    "lies,nonfinite,stall,garbage,pipeline",
    "What the last of them does, or none.",
)

CONFIG = PanelConfig(
    workers=8, byzantine=2, attacks=("sign_flip:scale=10",), events=8000, seeds=(0,)
)
SEEDS = range(5)
READ = ("out", "workers", "byzantine", "attacks", "events", "data_dir", "seeds")
READ += ("tensorboard",)


def told() -> dict[str, Any]:
    """What the flags say.

    Raises:
        InvalidConfig: where that cannot be.
    """
    workers, q, events = (
        getattr(CONFIG if getattr(FLAGS, name) is None else FLAGS, name)
        for name in ("workers", "byzantine", "events")
    )
    require(workers > 0, f"need workers > 0: got {workers}")
    attacks.byzantine_mask(workers, q)
    require(FLAGS.seeds is None or FLAGS.seeds.isdecimal(), "--seeds is one seed of the run")
    names = split(FLAGS.attacks or CONFIG.attacks, "attacks")
    for name in names:
        attacks.parse(name)
    deeds = [] if FLAGS.behaviours == "none" or not q else FLAGS.behaviours.split(",")
    for deed in deeds:
        lookup("deed", deed, BEHAVIOURS)
    require(len(names) > 0, "--attacks names none")
    require(events > 0, f"need events > 0: got {events}")
    return {
        "workers": workers,
        "byzantine": q,
        "attacks": list(names),
        "behaviours": deeds,
        "events": events,
        "seed": int(FLAGS.seeds or CONFIG.seeds[0]),
    }


def watch(fleet: Fleet, events: int) -> dict[str, dict[str, float]]:
    """Says how far the server is until it ends; what its metrics were last."""
    last = fleet.seen()
    before, at = 0.0, time.monotonic()
    while fleet.server.poll() is None:
        time.sleep(1.0)
        if not (seen := fleet.seen()):
            continue
        last, now = seen, time.monotonic()
        heard = seen["farsign_events_total"][""]
        rate, before, at = (heard - before) / (now - at), heard, now
        accuracy = 100 * seen.get("farsign_test_accuracy", {}).get("", float("nan"))
        stale = max(seen["farsign_staleness"].values())
        strikes = {k.split('"')[1]: int(v) for k, v in seen["farsign_strikes"].items() if v}
        line = f"{heard:5.0f} of {events} answers, {rate:4.0f}/s, accuracy {accuracy:4.1f} %, "
        line += f"staleness {stale:.0f}, strikes {strikes or 'none'}"
        print(line, file=sys.stderr, flush=True)
    return last


def run(config: dict[str, Any], attack: str, folder: pathlib.Path) -> dict[str, Any]:
    """One cluster, from its first process to its last; metrics of its server."""
    q, m, kinds = config["byzantine"], config["workers"], {}
    with Fleet(folder, config["workers"]) as fleet:
        there = pathlib.Path(FLAGS.data_dir or "").expanduser().absolute()
        known = [f"--data_dir={there}"] if FLAGS.data_dir else []
        steps = [f"--events={config['events']}", f"--seed={config['seed']}", "--eval_every=1"]
        bad = q - 1 if config["behaviours"] else None
        ready = m - (bad is not None)
        fleet.serve(*steps, "--silence=10", f"--wait_for={ready}", *known)
        for worker in range(m):
            if worker == bad:
                kinds[worker] = "misbehaves"
            elif worker < q and attack != "none":
                kinds[worker] = "lies"
                fleet.work(worker, f"--attack={attack}", *known)
            else:
                kinds[worker] = "honest"
                fleet.work(worker, *known)
        hostile: Any = None
        if bad is not None:
            deeds = [f"--behaviours={','.join(config['deeds'])}", "--seconds=2", "--times=1"]
            hostile = fleet.work(
                bad,
                *deeds,
                "--prompted",
                module="farsign_jax.runtime.testing.adversarial_client",
            )
        wait(fleet, ready)
        if hostile is not None:
            print("begin", file=hostile.stdin, flush=True)
        seen = watch(fleet, config["events"])
        if fleet.server.wait() != 0:
            raise InvalidConfig(f"the server of {attack} failed: see above")
    return {"seen": seen, "kinds": kinds}


def wait(fleet: Fleet, count: int) -> None:
    """Until so many workers have joined and the first answer is heard.

    Raises:
        InvalidConfig: where one ends before.
    """
    before = ""
    while fleet.server.poll() is None:
        seen = fleet.seen() or {"farsign_sessions": {"": 0}, "farsign_events_total": {"": 0}}
        if seen["farsign_events_total"][""]:
            return
        joined = min(round(seen["farsign_sessions"][""]), count)
        said = f"{joined} of {count} workers have joined"
        said += ", and compile" if joined == count else ""
        if said != before:
            print(said, file=sys.stderr, flush=True)
        before = said
        require(not (why := fleet.failure()), why)
        time.sleep(0.1)


def simulated(
    config: dict[str, Any], attack: str, folder: pathlib.Path, schedule: np.ndarray
) -> list[float]:
    """Final accuracies of the simulator, led by a recorded schedule alone, one per seed."""
    name, options = attacks.parse(attack)
    recorded = replay.load_config(folder)
    found = []
    for seed in SEEDS:
        one = dataclasses.replace(recorded, seed=seed)
        problem, measure = one.problem(FLAGS.data_dir)
        system = one.system(problem)._replace(attack=attacks.make(name, **options))
        more = {"seed": seed, "byzantine": config["byzantine"], "delivery": "outstanding"}
        _, records = simulation.run(problem, system, schedule, measure=measure, **more)
        found.append(records[-1]["test_accuracy"])
    return found


def judged(
    config: dict[str, Any], attack: str, folder: pathlib.Path
) -> tuple[list[str], list[dict[str, Any]]]:
    """A line of the table and its rows: what was recorded, replayed and simulated again.

    Raises:
        InvalidConfig: where the replay ends with other bits than the server.
    """
    verdict = replay.verify(folder, FLAGS.data_dir)
    rule = f"{attack}: replayed, {', '.join(verdict.differing)} differ"
    require(not verdict.differing, rule)
    arrivals, curve = journal.read(folder / "arrivals.log"), replay.recorded_rows(folder)
    times = arrivals["seconds"]
    rate = verdict.events / max(times[-1] - times[0], 1e-9)
    real = summary.percent(curve[-1]["test_accuracy"])
    line = [attack, f"{verdict.events}", f"{rate:.0f}", real, "equal"]
    rows = [row | {"attack": attack, "method": "real processes"} for row in curve]
    if not config["behaviours"]:
        schedule = arrivals["worker"].astype(np.int32)
        accuracies = simulated(config, attack, folder, schedule)
        spread = float(np.std(accuracies, ddof=1))
        line.insert(-1, summary.percent(float(np.mean(accuracies)), spread))
        end = {"event": verdict.events, "seconds": curve[-1]["seconds"], "attack": attack}
        rows += [
            end | {"method": "simulator", "seed": seed, "test_accuracy": accuracy}
            for seed, accuracy in zip(SEEDS, accuracies, strict=True)
        ]
    return line, rows


def by_worker(
    seen: dict[str, dict[str, float]], kinds: dict[int, str], folder: pathlib.Path
) -> list[list[str]]:
    """A line per worker: what it is, what was heard, what was not, how stale, strikes."""
    workers = journal.read(folder / "arrivals.log")["worker"]
    heard, lines = np.bincount(workers, minlength=len(kinds)), []
    for worker, kind in kinds.items():
        mine = f'worker="{worker}",verdict="'
        told = seen.get(metrics.ANSWERS, {})
        verdicts = {k[len(mine) : -1]: v for k, v in told.items() if mine in k}
        verdicts.pop("accepted", 0)
        refused = ", ".join(f"{v:.0f} {k}" for k, v in verdicts.items()) or "none"
        own = f'worker="{worker}"'
        stale, strikes = (seen[f"farsign_{n}"][own] for n in ("staleness", "strikes"))
        numbers = [f"{heard[worker]}", refused, f"{stale:.0f}", f"{strikes:.0f}"]
        lines.append([str(worker), kind, *numbers])
    return lines


def cluster() -> pathlib.Path:
    config = told()
    described = {"experiment": "cluster"} | config
    out = FLAGS.out or f"results/cluster-{provenance.fingerprint(described)[:8]}"
    folder = run_folder.open_folder(out, described)
    folder.claim()
    rows, lines, workers = [], [], []
    for attack in config["attacks"]:
        mine = folder.path / attack.replace(":", "-").replace("=", "").replace(",", "-")
        print(f"{attack}: starting {config['workers']} workers", file=sys.stderr, flush=True)
        ran = run(config, attack, mine)
        line, recorded = judged(config, attack, mine)
        lines.append(line)
        rows += recorded
        workers += [[attack, *line] for line in by_worker(ran["seen"], ran["kinds"], mine)]
    header = ["attack", "answers", "per second", "real, %", "replayed bits"]
    if not config["behaviours"]:
        header.insert(-1, "simulator, %")
    table = tables.markdown_table(header, lines)
    if config["behaviours"]:
        table += (
            "\nNo simulator beside it: none does these deeds. --behaviours none compares.\n"
        )
    header = ["attack", "worker", "it", "heard", "refused", "staleness", "strikes"]
    told_of = tables.markdown_table(header, workers)
    files.write_text(folder.path / "table.md", table)
    files.write_text(folder.path / "workers.md", told_of)
    folder.write_rows(rows)
    shown = [row | {"aggregator": ""} for row in rows if row["method"] == "real processes"]
    plots.curves(shown, folder.path / "curves.png", ("event",))
    print(f"\n{told_of}\n{table}\nall of it is in {folder.path}")
    return folder.path


if __name__ == "__main__":
    main(cluster, base=CONFIG, own=("behaviours",), reads=READ)
