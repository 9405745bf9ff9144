"""The wall-clock time of a method that has the machine to itself.

Runs that advance side by side share work and memory, so a panel does not show the time of one
of them. Here each run of a panel is timed alone, after it was compiled, and nothing is
measured in between.
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
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness import summary
from farsign_jax.harness.flags import is_short
from farsign_jax.io import files, provenance, run_folder
from farsign_jax.sweeps import devices

EVENTS = 105  # eleven buffers are full three times, on average over pieces
REPEATS = 5

Clocked = dict[tuple[str, str], dict[str, Any]]  # by (method, aggregator)


def running(
    program: Any, batch: sweeps.RunBatch, events: int, delivery: str = "fresh"
) -> tuple[Any, float, Iterator[float]]:
    """Starts all runs of a batch, spread over all devices as in a sweep.

    Returns:
        The program that advances them by `events` events; the seconds it took to compile; and
        an iterator over the seconds of one such piece after the other, of which the first one
        warms up. Where the schedule ends, it begins again.
    """
    local = devices.local()[: len(batch)]
    width = -(-len(batch) // len(local)) * len(local)  # the last run is repeated to fill it
    own = batch.take(np.minimum(np.arange(width), len(batch) - 1))
    mesh = devices.mesh_of(local)
    args, schedules = own.on(mesh), np.asarray(own.schedules)
    run = sweeps.start(program, delivery, *args, mesh=mesh)
    begin = time.perf_counter()
    chunk = devices.split(mesh, schedules[:, :events])
    lowered = sweeps.advance.lower(program, delivery, *args, run, chunk, mesh=mesh)
    advance = lowered.compile()
    compile_s = time.perf_counter() - begin

    def pieces(run: Any) -> Iterator[float]:
        run = jax.block_until_ready(run)
        for piece in itertools.count():
            at = piece * events % (schedules.shape[1] - events + 1)
            chunk = devices.split(mesh, schedules[:, at : at + events])
            begin = time.perf_counter()
            run, _ = jax.block_until_ready(advance(*args, run, chunk))
            yield time.perf_counter() - begin

    return advance, compile_s, pieces(run)


def spread(times: Sequence[float]) -> dict[str, float]:
    """The median and the range of times in microseconds."""
    return {"us": statistics.median(times), "us_min": min(times), "us_max": max(times)}


def clock(
    program: Any, batch: sweeps.RunBatch, events: int, repeats: int, delivery: str = "fresh"
) -> dict[str, float]:
    """Microseconds per event and run: the median and the range of `repeats` pieces of a run."""
    events = min(events, batch.schedules.shape[1])
    _, compile_s, pieces = running(program, batch, events, delivery)
    per = len(batch) * events
    times = [1e6 * seconds / per for seconds in itertools.islice(pieces, repeats + 1)]
    return spread(times[1:]) | {"compile_s": compile_s}


def _read(folder: run_folder.RunFolder) -> Clocked:
    """The content of clock.json, if it was measured on this machine with these versions."""
    path = folder.path / "clock.json"
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = {(entry["method"], entry["aggregator"]): entry for entry in record["clock"]}
        reason = "was measured on another machine or version"
        if record["environment"] == provenance.environment():
            return known
    except (ValueError, KeyError, TypeError) as error:
        reason = f"is damaged ({type(error).__name__})"
    print(f"clock.json {reason}: measuring again", file=sys.stderr)
    return {}


def _write(folder: run_folder.RunFolder, known: Clocked) -> None:
    record = {"environment": provenance.environment(), "clock": list(known.values())}
    files.write_json(folder.path / "clock.json", record)


def alone(config: PanelConfig, folder: run_folder.RunFolder, data_dir: str | None) -> Clocked:
    """`clock` of each (method, aggregator); what clock.json holds is not measured again.

    There is no attack: what an adversary computes is not a cost of the method.
    """
    known = _read(folder)
    missing = [
        (spec, number)
        for spec in sweep_specs(dataclasses.replace(config, attacks=("none",)))
        for number in range(len(spec.runs))
        if (spec.method, spec.runs[number][0]) not in known
    ]
    if not missing:
        return known
    if known:
        print(f"clock.json holds {len(known)} methods already", file=sys.stderr)
    data = prepare(config, data_dir)
    for spec, number in missing:
        build, batch = spec.alone(data, number)
        aggregator = spec.runs[number][0]
        repeats = 1 if is_short() else REPEATS
        took = clock(build, batch, EVENTS, repeats, spec.delivery(config))
        for method in spec.methods:
            entry = {"method": method, "aggregator": aggregator} | took
            known[method, aggregator] = entry
            line = f"alone: {summary.label(entry)}: {entry['us']:,.0f} µs per event"
            print(line, file=sys.stderr)
        _write(folder, known)
    return known


def end_to_end(
    config: PanelConfig,
    folder: run_folder.RunFolder,
    data_dir: str | None,
    run: tuple[str, str],
    events: int,
) -> float:
    """Seconds of the first `events` events of (method, aggregator), run to the end, alone.

    From the first event to the last, without attack, nothing measured in between. The result
    is kept in clock.json.
    """
    known = alone(config, folder, data_dir)
    entry = known[run]
    if entry.get("end_to_end_events") != events:
        quiet = dataclasses.replace(config, attacks=("none",), methods=(run[0],))
        quiet = dataclasses.replace(quiet, aggregators=(run[1],) if run[1] else ())
        (spec,) = sweep_specs(quiet)
        build, batch = spec.alone(prepare(config, data_dir), 0)
        first = batch.schedules[:, :events]
        columns, _ = sweeps.sweep(
            build,
            dataclasses.replace(batch, schedules=first, times=None),
            every=min(config.eval_every, events),
            measure=lambda params: {"first": params[:, 0]},
            delivery=spec.delivery(config),
        )
        seconds = float(columns["seconds"][0, -1])
        entry |= {"end_to_end_events": events, "end_to_end_seconds": seconds}
        _write(folder, known)
    return entry["end_to_end_seconds"]
