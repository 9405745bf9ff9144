"""Seconds of a method alone on the machine: compiled before, nothing measured in between.

Runs that advance side by side share work and memory, so a panel says nothing about the time
of one of them. Here each run of a panel has the machine to itself.
"""

import dataclasses
import json
import statistics
import sys
import time
from typing import Any

import jax

from experiments import figures, panel
from experiments.config import Config
from farsign_jax import results, sweeps

EVENTS = 105  # three sets of eleven buffers on average
REPEATS = 5


def clock(
    program: Any, lanes: sweeps.Lanes, events: int, repeats: int, delivery: str = "fresh"
) -> dict[str, float]:
    """Microseconds per event and run: median and range of `repeats` pieces of a run.

    Each piece has `events` events and follows the one before; the first, unclocked, warms up.
    """
    args = (lanes.problem, lanes.seeds, lanes.hyper, lanes.byzantine)
    run = sweeps._start(program, delivery, *args[:3])
    chunk = lanes.schedules[:, :events]
    begin = time.perf_counter()
    advance = sweeps._advance.lower(program, delivery, *args, run, chunk).compile()
    compile_s = time.perf_counter() - begin
    times = []
    for repeat in range(repeats + 1):
        begin = time.perf_counter()
        run, _ = jax.block_until_ready(advance(*args, run, chunk))
        if repeat:
            times.append(1e6 * (time.perf_counter() - begin) / chunk.size)
    figures = {"us": statistics.median(times), "us_min": min(times), "us_max": max(times)}
    return figures | {"compile_s": compile_s}


def alone(
    config: Config, folder: results.Folder, data_dir: str | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """`clock` of each (method, aggregator); what is in clock.json is not clocked again.

    Without attack: what an adversary computes is not a cost of the method.
    """
    path = folder.path / "clock.json"
    known: dict[tuple[str, str], dict[str, Any]] = {}
    if path.exists():
        entries = json.loads(path.read_text())
        known = {(entry["method"], entry["aggregator"]): entry for entry in entries}
    jobs = panel.jobs_of(dataclasses.replace(config, attacks=("none",)))
    todo = [
        (job, number)
        for job in jobs
        for number in range(len(job.runs))
        if (job.method, job.runs[number][0]) not in known
    ]
    if not todo:
        return known
    setting = panel.prepare(config, data_dir)
    for job, number in todo:
        build, lanes = job.alone(setting, number)
        aggregator = job.runs[number][0]
        entry = {"method": job.method, "aggregator": aggregator}
        entry |= clock(build, lanes, EVENTS, REPEATS, config.delivery)
        known[job.method, aggregator] = entry
        print(f"alone: {figures.label(entry)}: {entry['us']:,.0f} µs an event", file=sys.stderr)
        results.write_text(path, json.dumps(list(known.values()), indent=1) + "\n")
    return known


def end_to_end(
    config: Config, data_dir: str | None, job: panel.Job, number: int, events: int
) -> float:
    """Seconds that the first `events` events of a run take when they are really run, alone."""
    setting = panel.prepare(config, data_dir)
    build, lanes = job.alone(setting, number)
    lanes = dataclasses.replace(lanes, schedules=lanes.schedules[:, :events])
    columns, _ = sweeps.sweep(
        build,
        lanes,
        every=min(config.eval_every, events),
        measure=lambda params: {"first": params[:, 0]},
        delivery=config.delivery,
    )
    return float(columns["seconds"][0, -1])
