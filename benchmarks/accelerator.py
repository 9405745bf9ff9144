"""What an accelerator makes of the runs of Table 3, in one record.

    python -m benchmarks.accelerator                       about 6 minutes on a GPU
    python -m benchmarks.accelerator --timed_events 100    shorter timings

On any device but a CPU, the record has

    lanes       FAR-SIGN's events per second for 1 to 4,096 runs side by side, among them the 25
                and the 625 runs of a row of Table 3, and how long that row would take
    cyber0      an event of CYBER-0's 35 runs in lock-step (7 aggregators, 5 attacks) for one
                seed, and for five seeds side by side
    finetune    answers in a subspace of a transformer beside inference (`benchmarks.finetune`)
    launches    the instructions of an event, each a launch on a GPU, and the time of an event
                of one run divided by them
    bits        a run on this device beside the same one on the CPU

Programs are compiled without the cache, once before the clock starts; compile times are listed.
On a CPU there are fewer lanes, one seed, the small transformer and fewer events: one minute.

Writes accelerator.json and accelerator.md under --out (default results/accelerator).
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ceilings, events, finetune, launches, panel
from benchmarks.cases import Case, problem_of
from benchmarks.timing import FLAGS, machine, write
from farsign_jax import sweeps
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import configure
from farsign_jax.io import provenance, tables

CONFIG = PanelConfig(dataset="mnist_subset", methods=("far_sign", "cyber0"))
SIZE = 25_450  # d of the network of Table 3
TABLE_EVENTS = 10_000


class Extent(NamedTuple):
    """How much is measured."""

    lanes: tuple[int, ...]
    seeds: tuple[int, ...]  # of CYBER-0, side by side
    networks: tuple[str, ...]
    events: int  # of the run whose bits are compared


FULL = Extent((1, 5, 25, 125, 625, 4096), (1, 5), ("small", "minilm"), 1000)
REDUCED = Extent((1, 5, 25), (1,), ("small",), 100)


def bits(config: PanelConfig, problem: Problem, count: int) -> dict[str, Any]:
    """One run of FAR-SIGN on this device and on the CPU.

    Returns:
        The share of equal parameters, and the largest and the root mean square difference, in
        steps of the first step size: a sign that differs once moves one parameter by two.
    """
    case = Case("far_sign", "", False, "fresh", 1, SIZE)
    program, batch = case.program(config), case.run_batch(config, problem, 1, count)
    ends = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            own = jax.device_put(batch.on(None), device)
            run = sweeps.start(program, "fresh", *own)
            run, _ = sweeps.advance(program, "fresh", *own, run, jnp.asarray(batch.schedules))
            ends.append(np.asarray(run.server.params[0], np.float64))
    here, there = ends
    steps = np.abs(here - there) / float(batch.hyper["step_size"][0])
    return {
        "events": count,
        "equal": float(np.mean(here == there)),
        "largest": float(steps.max()),
        "root_mean_square": float(np.sqrt(np.mean(steps**2))),
    }


def measure(config: PanelConfig, extent: Extent) -> dict[str, Any]:
    """The record of this device."""
    alone = dataclasses.replace(config, attacks=("none",), seeds=(0,))
    problem = problem_of(alone, None, SIZE)
    limits = events.Limits(FLAGS.timed_events, FLAGS.repeats, budget_s=30.0)
    clock = events.Clock(alone, ceilings.measure(), limits)
    lanes = [Case("far_sign", "", False, "fresh", count, SIZE) for count in extent.lanes]
    record: dict[str, Any] = {"lanes": [clock.row(case, problem) for case in lanes]}
    record["cyber0"] = [panel.measure(alone, problem, seeds) for seeds in extent.seeds]
    record["finetune"] = [
        row for name in extent.networks for row in finetune.rows_of(name, finetune.CASES[name])
    ]
    counted = dataclasses.replace(config, seeds=(0,), aggregators=("median",))
    setting = prepare(counted, None)
    record["launches"] = [
        launches.count(job, setting, counted, None)
        for job in sweep_specs(counted)
        if job.lockstep or job.runs[0][1] == "none"
    ]
    record["bits"] = bits(alone, problem, extent.events)
    return record


def _table_of_lanes(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["FAR-SIGN, runs", "µs per event and run", "events/s", "a row of Table 3, s"]
    lines = []
    for row in rows:
        if "skipped" in row:
            lines.append([f"{row['runs']:,}", row["skipped"], "", "", ""])
            continue
        seconds = TABLE_EVENTS * row["runs"] * row["us"] / 1e6
        cells = [f"{row['us']:.3g}", f"{row['events_per_s']:,.0f}", f"{seconds:.3g}"]
        lines.append([f"{row['runs']:,}", *cells, f"{row['compile_s']:.1f}"])
    return tables.markdown_table([*header, "compile, s"], lines)


def _table_of_panels(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["CYBER-0 in lock-step, runs", "µs per event of all", "times one run"]
    lines = [
        [f"{r['runs']}", f"{r['all_us']:,.0f}", f"{r['times']:.2f}", f"{r['compile_s']:.1f}"]
        for r in rows
    ]
    return tables.markdown_table([*header, "compile, s"], lines)


def _table_of_launches(rows: Sequence[Mapping[str, Any]], one_us: float | None) -> str:
    """`one_us`: the time of FAR-SIGN's event of a single run."""
    lines = []
    for row in rows:
        ours = row["sweep"].startswith("far_sign") and one_us is not None
        each = f"{one_us / row['least']:.2f}" if ours else ""
        lines.append([row["sweep"], f"{row['least']}", f"{row['most']}", each])
    return tables.markdown_table(
        ["sweep", "instructions per event", "at most", "µs each"], lines
    )


def report(record: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    found, lanes = record["bits"], record["lanes"]
    agreement = (
        f"After {found['events']:,} events, {found['equal']:.2%} of the parameters have the "
        f"bits of the CPU; the others differ by at most {found['largest']:.3g} steps (root "
        f"mean square of all: {found['root_mean_square']:.2g}).\n"
    )
    parts = [
        machine(record["environment"]) + "\n",
        _table_of_lanes(lanes),
        _table_of_panels(record["cyber0"]),
        finetune.table(record["finetune"]),
        _table_of_launches(record["launches"], lanes[0].get("us")),
        agreement,
    ]
    return "\n".join(parts)


def accelerator() -> pathlib.Path:
    jax.config.update("jax_enable_compilation_cache", False)
    config = configure(CONFIG)
    extent = REDUCED if jax.default_backend() == "cpu" else FULL
    record = {"config": provenance.plain(config), "environment": provenance.environment()}
    record |= {"extent": extent._asdict()} | measure(config, extent)
    return write("accelerator", record, report(record))


if __name__ == "__main__":
    main(accelerator, base=CONFIG, own=("repeats", "timed_events"), reads=("out",))
