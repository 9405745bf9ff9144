"""Seconds of a method alone on the machine: compiled before, nothing measured in between.

Runs that advance side by side share work and memory, so a panel says nothing about the time
of one of them. Here each run of a panel has the machine to itself.
"""

import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import summary
from farsign_jax.harness.jobs import jobs_of, prepare
from farsign_jax.harness.plan import Beside, span
from farsign_jax.io import files, provenance, run_folder
from farsign_jax.sweeps import devices

EVENTS = 105  # eleven buffers are full three times, on average over pieces


REPEATS = 5


def running(
    program: Any, lanes: sweeps.RunBatch, events: int, delivery: str = "fresh"
) -> tuple[Any, float, Iterator[float]]:
    """All lanes, spread over all devices as in a sweep, at their first event.

    Returns the program that advances them by `events` events, the seconds it took to compile,
    and the seconds of one such piece after the other: the first one warms up. Where the
    schedule ends, it begins again.
    """
    local = devices.local()[: len(lanes)]
    width = -(-len(lanes) // len(local)) * len(local)  # the last lane makes them even
    own = lanes.take(np.minimum(np.arange(width), len(lanes) - 1))
    mesh = devices.mesh_of(local)
    args, schedules = own.on(mesh), np.asarray(own.schedules)
    run = sweeps.start(program, delivery, *args[:3], mesh=mesh)
    begin = time.perf_counter()
    chunk = devices.split(mesh, schedules[:, :events])
    lowered = sweeps.advance.lower(program, delivery, *args, run, chunk, mesh=mesh)
    advance = lowered.compile()
    compile_s = time.perf_counter() - begin

    def pieces(run):
        run = jax.block_until_ready(run)
        for piece in itertools.count():
            at = piece * events % (schedules.shape[1] - events + 1)
            chunk = devices.split(mesh, schedules[:, at : at + events])
            begin = time.perf_counter()
            run, _ = jax.block_until_ready(advance(*args, run, chunk))
            yield time.perf_counter() - begin

    return advance, compile_s, pieces(run)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Microseconds: the median and the range."""
    return {"us": statistics.median(times), "us_min": min(times), "us_max": max(times)}


def clock(
    program: Any, lanes: sweeps.RunBatch, events: int, repeats: int, delivery: str = "fresh"
) -> dict[str, float]:
    """Microseconds per event and run: median and range of `repeats` pieces of a run."""
    events = min(events, lanes.schedules.shape[1])
    _, compile_s, pieces = running(program, lanes, events, delivery)
    per = len(lanes) * events
    times = [1e6 * seconds / per for seconds in itertools.islice(pieces, repeats + 1)]
    return spread(times[1:]) | {"compile_s": compile_s}


def _read(folder: run_folder.RunFolder) -> dict[tuple[str, str], dict[str, Any]]:
    """What is in clock.json, if it was clocked on this machine, with these versions."""
    path = folder.path / "clock.json"
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    if record["environment"] != provenance.environment():
        print("clock.json is of another machine or version: clocked anew", file=sys.stderr)
        return {}
    return {(entry["method"], entry["aggregator"]): entry for entry in record["clock"]}


def _write(folder: run_folder.RunFolder, known: dict[tuple[str, str], dict[str, Any]]) -> None:
    record = {"environment": provenance.environment(), "clock": list(known.values())}
    files.write_text(folder.path / "clock.json", json.dumps(record, indent=1) + "\n")


def alone(
    config: PanelConfig, folder: run_folder.RunFolder, data_dir: str | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """`clock` of each (method, aggregator); what is in clock.json is not clocked again.

    Without attack: what an adversary computes is not a cost of the method.
    """
    known = _read(folder)
    jobs = jobs_of(dataclasses.replace(config, attacks=("none",)))
    todo = [
        (job, number)
        for job in jobs
        for number in range(len(job.runs))
        if (job.method, job.runs[number][0]) not in known
    ]
    if not todo:
        return known
    if known:
        print(f"clock.json: {len(known)} methods of an earlier sitting", file=sys.stderr)
    setting = prepare(config, data_dir)
    for job, number in todo:
        build, lanes = job.alone(setting, number)
        aggregator = job.runs[number][0]
        took = clock(build, lanes, EVENTS, REPEATS, job.delivery(config))
        for method in job.methods:
            entry = {"method": method, "aggregator": aggregator} | took
            known[method, aggregator] = entry
            said = f"alone: {summary.label(entry)}: {entry['us']:,.0f} µs an event"
            print(said, file=sys.stderr)
        _write(folder, known)
    return known


def expected(config: PanelConfig, data_dir: str | None) -> Beside:
    """How long `alone` takes, from the first aggregator of each method."""
    seconds, number, setting = 0.0, 0, prepare(config, data_dir)
    for job in jobs_of(dataclasses.replace(config, attacks=("none",))):
        build, lanes = job.alone(setting, 0)
        took = clock(build, lanes, EVENTS, 1, job.delivery(config))
        events = min(EVENTS, lanes.schedules.shape[1]) * (REPEATS + 1)
        seconds += len(job.runs) * (1e-6 * took["us"] * events + took["compile_s"])
        number += len(job.runs)
    text = f"{span(seconds)} of it to clock {number} methods, each alone on the machine; those "
    return Beside(seconds, f"{text}that are then run to 80 % are not counted.")


def end_to_end(
    config: PanelConfig,
    folder: run_folder.RunFolder,
    data_dir: str | None,
    run: tuple[str, str],
    events: int,
) -> float:
    """Seconds of the first `events` events of (method, aggregator), really run, alone.

    From the first event to the last, without attack, nothing measured in between. Kept in
    clock.json.
    """
    known = alone(config, folder, data_dir)
    entry = known[run]
    if entry.get("end_to_end_events") != events:
        quiet = dataclasses.replace(config, attacks=("none",), methods=(run[0],))
        quiet = dataclasses.replace(quiet, aggregators=(run[1],) if run[1] else ())
        (job,) = jobs_of(quiet)
        build, lanes = job.alone(prepare(config, data_dir), 0)
        first = lanes.schedules[:, :events]
        lanes = dataclasses.replace(lanes, schedules=first, times=None)
        columns, _ = sweeps.sweep(
            build,
            lanes,
            every=min(config.eval_every, events),
            measure=lambda params: {"first": params[:, 0]},
            delivery=job.delivery(config),
        )
        seconds = float(columns["seconds"][0, -1])
        entry |= {"end_to_end_events": events, "end_to_end_seconds": seconds}
        _write(folder, known)
    return entry["end_to_end_seconds"]
