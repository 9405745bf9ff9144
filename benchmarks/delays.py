"""What it costs to simulate delays: answers under way, and schedules with a clock.

    python -m benchmarks.delays            about 1.5 minutes on two cores
    python -m benchmarks.delays --methods far_sign,kardam --workers 100

One process; everything is compiled and run once before the clock starts; each figure is the
median of --repeats timings. Two questions:

1. an event of every asynchronous method with 1 and with 16 questions open at each worker, in
   times the same event in fresh delivery, and the bytes that wait for delivery;
2. seconds to draw a schedule of a million events for 25 workers, from every model of delays.

Writes delays.json and delays.md under --out (default results/delays).
"""

import json
import pathlib
import statistics
import time
from typing import Any

import jax
from absl import flags

from benchmarks.timing import take_turns
from farsign_jax import arrivals, sweeps
from farsign_jax.arrivals import delays as delays_lib
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.io import files, provenance, tables
from farsign_jax.methods import METHODS
from farsign_jax.validation import require

EVENTS = 1_000_000
CONFIG = PanelConfig(
    dataset="mnist_subset",
    methods=tuple(name for name, method in METHODS.items() if not method.works_in_rounds),
    aggregators=("median",),
    attacks=("sign_flip",),
    seeds=(0,),
)
DELIVERIES = ("fresh", "outstanding", "outstanding:16")


def _advancing(build: Any, lanes: sweeps.RunBatch, delivery: str, events: int) -> Any:
    """A call that advances a run of its own, and what is on its way in that run."""
    args = (lanes.problem, lanes.seeds, lanes.hyper, lanes.byzantine)
    held = [sweeps.start(build, delivery, *args[:3])]
    waiting = sum(leaf.nbytes for leaf in jax.tree.leaves(held[0].inbox))
    chunk = lanes.schedules[:, :events]

    def call():
        held[0], _ = sweeps.advance(build, delivery, *args, held[0], chunk)
        return held[0]

    return call, waiting


def deliveries(config: PanelConfig) -> list[dict[str, Any]]:
    """Question 1."""
    setting, rows = prepare(config, FLAGS.data_dir), []
    for job in sweep_specs(config):
        build, lanes = job.alone(setting, 0)
        events = 35 if job.method == "cyber0" else FLAGS.timed_events
        calls, waiting = zip(
            *(_advancing(build, lanes, d, events) for d in DELIVERIES), strict=True
        )
        fresh, one, many = take_turns(calls, events)
        row = {"method": job.method, "fresh_us": statistics.median(fresh)}
        for name, times in (("times_1", one), ("times_16", many)):  # of pairs side by side
            pairs = zip(times, fresh, strict=True)
            row[name] = statistics.median(late / now for late, now in pairs)
        rows.append(row | {"bytes_1": waiting[1], "bytes_16": waiting[2]})
        print(rows[-1], flush=True)
    return rows


def schedules() -> list[dict[str, Any]]:
    """Question 2."""
    key, rows = jax.random.key(0), []
    for name, model in delays_lib.DELAYS.items():
        fleet = [model().at_speed(v) for v in delays_lib.geometric_speeds(25, 4.0)]
        times = []
        for _ in range(FLAGS.repeats):
            begin = time.perf_counter()
            arrivals.by_time(key, fleet, EVENTS)
            times.append(time.perf_counter() - begin)
        rows.append({"model": name, "seconds": statistics.median(times)})
        print(rows[-1], flush=True)
    return rows


def report(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = record["environment"]
    text = [f"{machine['device']}, {machine['cpu']}, {machine['cpu_cores']} CPU cores\n"]
    header = ["method", "fresh, µs / event", "1 open, times", "16 open, times"]
    lines = [
        [r["method"], f"{r['fresh_us']:,.0f}", f"{r['times_1']:.2f}", f"{r['times_16']:.2f}"]
        + [f"{r['bytes_1']:,}", f"{r['bytes_16']:,}"]
        for r in record["deliveries"]
    ]
    text.append(tables.markdown_table([*header, "bytes under way, 1", "16"], lines))
    lines = [[r["model"], f"{r['seconds']:.2f}"] for r in record["schedules"]]
    text.append(tables.markdown_table(["delays", f"seconds for {EVENTS:,} events"], lines))
    return "\n".join(text)


def delays() -> pathlib.Path:
    config = configure(CONFIG)
    rule = f"servers that wait have nothing under way: got {', '.join(config.methods)}"
    require(not config.in_rounds, rule)
    out = pathlib.Path(FLAGS.out or "results/delays")
    record = {
        "config": provenance.plain(config),
        "environment": provenance.environment(),
        "deliveries": deliveries(config),
        "schedules": schedules(),
    }
    files.write_text(out / "delays.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "delays.md", report(record))
    print(f"\n{report(record)}\nwritten to {out}")
    return out


if __name__ == "__main__":
    flags.FLAGS.set_default("timed_events", 200)
    main(delays, base=CONFIG, own=("repeats", "timed_events"), reads=BENCHMARKS)
