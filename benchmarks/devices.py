"""Weak scaling: what an event costs when every device brings as many runs as it adds.

    python -m benchmarks.devices            about 1.5 minutes on two cores
    python -m benchmarks.devices --device_counts 1,2 --lanes 8

One process for each number of devices, one after the other. Where every device has its own
silicon, all runs together should take as long as those of one device. On a CPU the devices are
forced ones that share its cores: n of them have n times the work for the same cores, and what
is seen is whether the split itself costs anything.

Each process sweeps FAR-SIGN, --lanes runs on each device, all compiled before; the figure is
the median over pieces of --timed_events events, measuring and checkpoints apart.

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

from benchmarks import timing  # noqa: F401  (its flags)
from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.harness.timing import spread
from farsign_jax.io import files, provenance, tables
from farsign_jax.validation import require

flags.DEFINE_list("device_counts", ["1", "2", "4", "8"], "How many devices.")
flags.DEFINE_integer("lanes", 4, "Runs on each device.", lower_bound=1)
flags.DEFINE_integer("alone", None, "Of the process that this command starts: its devices.")

OWN = ("device_counts", "lanes", "repeats", "timed_events")

CONFIG = PanelConfig(
    dataset="mnist_subset", methods=("far_sign",), attacks=("sign_flip",), seeds=(0, 1)
)


def clocked(config: PanelConfig, count: int) -> dict[str, Any] | None:
    """Microseconds that all runs take for an event; None where there are fewer devices."""
    local = jax.local_devices()[:count]
    if len(local) < count:
        return None
    total = count * FLAGS.lanes
    (job,) = sweep_specs(config)
    lanes = job.run_batch(prepare(config, FLAGS.data_dir))
    lanes = lanes.take(np.arange(total) % len(lanes))
    columns, _ = sweeps.sweep(
        job.program,
        lanes,
        every=FLAGS.timed_events,
        measure=lambda params: {"first": params[:, 0]},
        max_parallel_runs=FLAGS.lanes,
        devices=local,
    )
    pieces = np.diff(columns["seconds"][0])  # a run's share; the first piece warms up
    times = (1e6 * total / FLAGS.timed_events * pieces).tolist()
    told = {"devices": count, "lanes": total} | spread(times)
    return told | {"environment": provenance.environment()}


def in_a_process(count: int) -> dict[str, Any] | None:
    """`clocked`, where there are so many devices."""
    forced = f"--xla_force_host_platform_device_count={count}"
    told = f"{os.environ.get('XLA_FLAGS', '')} {forced}".strip()
    command = [sys.executable, "-m", "benchmarks.devices", *sys.argv[1:], f"--alone={count}"]
    environment = os.environ | {"XLA_FLAGS": told}
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if made.returncode:
        sys.exit(made.returncode)  # it has said why
    return json.loads(made.stdout.splitlines()[-1])


def report(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    machine, first = rows[0]["environment"], rows[0]
    lines = [
        [f"{r['devices']}", f"{r['lanes']}", f"{r['us']:,.0f}"]
        + [f"{r['us'] / first['us']:.2f}", f"{r['us'] / r['lanes']:,.0f}"]
        for r in rows
    ]
    header = [
        "devices",
        "runs",
        "µs / event of all runs",
        "times the first",
        "µs / event and run",
    ]
    where = f"{machine['device']}, {machine['cpu']}, {machine['cpu_cores']} CPU cores"
    if "(cpu)" in machine["device"]:
        where += "; devices are forced and share the cores"
    return f"{where}\n\n{tables.markdown_table(header, lines)}"


def devices() -> pathlib.Path | None:
    counts = [int(text) for text in FLAGS.device_counts if text.isdigit() and int(text) > 0]
    good = len(counts) == len(FLAGS.device_counts) > 0
    require(good, f"--device_counts are whole numbers > 0: got {FLAGS.device_counts}")
    require(FLAGS.events is None, "--timed_events says how many events, not --events")
    events = (FLAGS.repeats + 1) * FLAGS.timed_events
    config = dataclasses.replace(configure(CONFIG), events=events)
    if FLAGS.alone:
        print(json.dumps(clocked(config, FLAGS.alone)))
        return None
    rows = [row for row in map(in_a_process, counts) if row is not None]
    require(len(rows) > 0, f"there are fewer devices than {min(counts)}")
    out = pathlib.Path(FLAGS.out or "results/devices")
    record = {"config": provenance.plain(config), "rows": rows}
    files.write_text(out / "devices.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "devices.md", report(rows))
    print(f"{report(rows)}\nwritten to {out}")
    return out


if __name__ == "__main__":
    main(devices, base=CONFIG, own=OWN, reads=BENCHMARKS)
