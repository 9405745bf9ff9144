"""Weak scaling: the time of an event when every device adds as many runs.

    python -m benchmarks.devices            about 1.5 minutes on two cores
    python -m benchmarks.devices --device_counts 1,2 --runs_per_device 8

There is one process for each number of devices, one after the other. If every device is
separate hardware, an event of all runs should take as long as on one device. On a CPU, the
devices are simulated and share its cores: n of them have n times the work for the same cores,
and the benchmark shows whether dividing the runs has a cost of its own.

Each process sweeps FAR-SIGN with --runs_per_device runs on each device, compiled before. The
figure is the median over pieces of --timed_events events, without measurements and checkpoints.

Writes devices.json and devices.md under --out (default results/devices).
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.timing import machine, write
from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.harness.timing import spread
from farsign_jax.io import files, provenance, tables
from farsign_jax.validation import require

flags.DEFINE_list("device_counts", ["1", "2", "4", "8"], "Numbers of devices.")
flags.DEFINE_integer("runs_per_device", 4, "Number of runs on each device.", lower_bound=1)
flags.DEFINE_integer("child", None, "Number of devices in a process that this command starts.")

OWN = ("device_counts", "runs_per_device", "repeats", "timed_events")

CONFIG = PanelConfig(
    dataset="mnist_subset", methods=("far_sign",), attacks=("sign_flip",), seeds=(0, 1)
)


def timed(config: PanelConfig, count: int) -> dict[str, Any] | None:
    """Microseconds of an event of all runs; None if there are fewer devices."""
    local = jax.local_devices()[:count]
    if len(local) < count:
        return None
    total = count * FLAGS.runs_per_device
    (job,) = sweep_specs(config)
    batch = job.run_batch(prepare(config, FLAGS.data_dir))
    batch = batch.take(np.arange(total) % len(batch))
    columns, _ = sweeps.sweep(
        job.program,
        batch,
        every=FLAGS.timed_events,
        measure=lambda params: {"first": params[:, 0]},
        max_parallel_runs=FLAGS.runs_per_device,
        devices=local,
    )
    pieces = np.diff(columns["seconds"][0])  # seconds per run; the first piece is the warm-up
    times = (1e6 * total / FLAGS.timed_events * pieces).tolist()
    row = {"devices": count, "runs": total} | spread(times)
    return row | {"environment": provenance.environment()}


def in_a_process(count: int) -> dict[str, Any] | None:
    """`timed` in a process that has this number of devices."""
    forced = f"--xla_force_host_platform_device_count={count}"
    command = [sys.executable, "-m", "benchmarks.devices", *sys.argv[1:], f"--child={count}"]
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {forced}".strip()
    environment = os.environ | {"XLA_FLAGS": xla_flags}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(done.returncode)  # the process has printed why
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    first = rows[0]
    lines = [
        [f"{r['devices']}", f"{r['runs']}", f"{r['us']:,.0f}"]
        + [f"{r['us'] / first['us']:.2f}", f"{r['us'] / r['runs']:,.0f}"]
        for r in rows
    ]
    header = [
        "devices",
        "runs",
        "µs / event of all runs",
        "times the first",
        "µs / event and run",
    ]
    where = machine(first["environment"])
    if "(cpu)" in first["environment"]["device"]:
        where += "; the devices are simulated and share the cores"
    return f"{where}\n\n{tables.markdown_table(header, lines)}"


def devices() -> pathlib.Path | None:
    counts = [int(text) for text in FLAGS.device_counts if text.isdigit() and int(text) > 0]
    good = len(counts) == len(FLAGS.device_counts) > 0
    require(good, f"--device_counts needs whole numbers > 0: got {FLAGS.device_counts}")
    require(FLAGS.events is None, "the number of events is --timed_events: leave --events out")
    events = (FLAGS.repeats + 1) * FLAGS.timed_events
    config = dataclasses.replace(configure(CONFIG), events=events)
    if FLAGS.child:
        print(files.json_text(timed(config, FLAGS.child)))
        return None
    rows = [row for row in map(in_a_process, counts) if row is not None]
    require(len(rows) > 0, f"need at least {min(counts)} devices: got fewer")
    record = {"config": provenance.plain(config), "rows": rows}
    return write("devices", record, report(rows))


if __name__ == "__main__":
    main(devices, base=CONFIG, own=OWN, reads=BENCHMARKS)
