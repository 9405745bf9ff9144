"""The cost of simulating delays: answers on their way, and schedules with a clock.

    python -m benchmarks.delays            about 1.5 minutes on two cores
    python -m benchmarks.delays --methods far_sign,kardam --workers 100

Everything is compiled and run once before the clock starts. Each figure is the median of
--repeats timings. There are two tables:

1. the time of an event of every asynchronous method with 1 and with 16 queries outstanding at
   each worker, as a multiple of the same event with fresh delivery, and the bytes of answers
   that wait for delivery;
2. the seconds that it takes to draw a schedule of a million events for 25 workers, for every
   model of delays.

Writes delays.json and delays.md under --out (default results/delays).
"""

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from benchmarks.timing import machine, take_turns, write
from farsign_jax import arrivals, sweeps
from farsign_jax.arrivals import delays as delays_lib
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.io import provenance, tables
from farsign_jax.methods.registry import METHODS
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


def _advancing(
    build: Any, batch: sweeps.RunBatch, delivery: str, events: int
) -> tuple[Callable[[], Any], int]:
    """A call that advances a run, and the bytes that wait for delivery in that run."""
    args = (batch.problem, batch.seeds, batch.hyper, batch.byzantine)
    held = [sweeps.start(build, delivery, *args)]
    waiting = sum(leaf.nbytes for leaf in jax.tree.leaves(held[0].inbox))
    chunk = batch.schedules[:, :events]

    def call():
        held[0], _ = sweeps.advance(build, delivery, *args, held[0], chunk)
        return held[0]

    return call, waiting


def deliveries(config: PanelConfig) -> list[dict[str, Any]]:
    """The rows of the first table."""
    setting, rows = prepare(config, FLAGS.data_dir), []
    for job in sweep_specs(config):
        build, batch = job.alone(setting, 0)
        events = 35 if job.method == "cyber0" else FLAGS.timed_events
        calls, waiting = zip(
            *(_advancing(build, batch, d, events) for d in DELIVERIES), strict=True
        )
        fresh, one, many = take_turns(calls, events)
        row = {"method": job.method, "fresh_us": statistics.median(fresh)}
        for name, times in (("times_1", one), ("times_16", many)):  # of pairs timed in turn
            pairs = zip(times, fresh, strict=True)
            row[name] = statistics.median(late / now for late, now in pairs)
        rows.append(row | {"bytes_1": waiting[1], "bytes_16": waiting[2]})
        print(rows[-1], flush=True)
    return rows


def schedules() -> list[dict[str, Any]]:
    """The rows of the second table."""
    key, rows = jax.random.key(0), []
    for name, model in delays_lib.DELAYS.items():
        workers = [model().at_speed(v) for v in delays_lib.geometric_speeds(25, 4.0)]
        times = []
        for _ in range(FLAGS.repeats):
            begin = time.perf_counter()
            arrivals.by_time(key, workers, EVENTS)
            times.append(time.perf_counter() - begin)
        rows.append({"model": name, "seconds": statistics.median(times)})
        print(rows[-1], flush=True)
    return rows


def report(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    header = ["method", "fresh, µs / event", "1 open, times", "16 open, times"]
    lines = [
        [r["method"], f"{r['fresh_us']:,.0f}", f"{r['times_1']:.2f}", f"{r['times_16']:.2f}"]
        + [f"{r['bytes_1']:,}", f"{r['bytes_16']:,}"]
        for r in record["deliveries"]
    ]
    times = tables.markdown_table([*header, "bytes under way, 1", "16"], lines)
    lines = [[r["model"], f"{r['seconds']:.2f}"] for r in record["schedules"]]
    drawing = tables.markdown_table(["delays", f"seconds for {EVENTS:,} events"], lines)
    return f"{machine(record['environment'])}\n\n{times}\n{drawing}"


def delays() -> pathlib.Path:
    config = configure(CONFIG)
    rule = "methods that work in rounds have no answers under way"
    require(not config.in_rounds, f"{rule}: got {', '.join(config.methods)}")
    record = {
        "config": provenance.plain(config),
        "environment": provenance.environment(),
        "deliveries": deliveries(config),
        "schedules": schedules(),
    }
    return write("delays", record, report(record))


if __name__ == "__main__":
    flags.FLAGS.set_default("timed_events", 200)
    main(delays, base=CONFIG, own=("repeats", "timed_events"), reads=BENCHMARKS)
