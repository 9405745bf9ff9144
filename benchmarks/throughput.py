"""How many events and loss evaluations per second, and how far from what the device can do.

    python -m benchmarks.throughput                           about 4 minutes on two cores
    python -m benchmarks.throughput --full --runs 1,5,25,125,625 \\
        --sizes 25450,1000000,10000000 --budget_s 120         all of it
    python -m benchmarks.throughput --compare old.json        then, times those of old.json
    python -m benchmarks.throughput --compare old.json,new.json    these two, nothing timed
    python -m benchmarks.throughput --methods far_sign --profile DIR    a trace of its events

One process; everything is compiled, without the cache of compiled programs, and run once
before the clock starts; each figure is the median of --repeats timings, with their range. One
file each for:

    events       microseconds per event and run of every method, number of runs side by side,
                 number of parameters (the first layer grows) and delivery
    counts       the work of an event, by hand and by XLA's cost analysis
    ceilings     what the device can do; with the counts, the floor of an event
    base_pass    the part of FAR-SIGN's event that any method must pay
    panel        all aggregators and attacks of CYBER-0 in lock-step
    torch_peer   the same event in PyTorch, where that is installed

Runs side by side are seeds, shared out among all devices, of which a CPU has one per core; of
methods with buffers, step sizes of one seed in lock-step. Without --full, other deliveries than
the first are timed for FAR-SIGN only, and other aggregators than the first only at the first of
--sizes and --runs. What is too large or too slow is in the table, too, with the reason.

Writes throughput.json, .md, .png and .pdf under --out (default results/throughput).
"""

import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from benchmarks import base_pass, ceilings, events, panel, plots, report, torch_peer
from benchmarks.cases import Case, grid, problem_of, usual
from farsign_jax import simulation
from farsign_jax.config.panel_config import PAPER_AGGREGATORS, PanelConfig
from farsign_jax.harness.command import main, one_device_per_core
from farsign_jax.harness.flags import FLAGS, configure, refuse_others
from farsign_jax.harness.timing import running
from farsign_jax.io import files, provenance
from farsign_jax.validation import require

flags.DEFINE_list("runs", ["1", "5", "25"], "Runs side by side.")
flags.DEFINE_list("sizes", ["25450", "1000000"], "d, about; the first layer grows.")
flags.DEFINE_list("deliveries", ["fresh", "outstanding"], "fresh, outstanding, outstanding:L.")
flags.DEFINE_bool("full", False, "Every combination, not only those that say most.")
flags.DEFINE_float("budget_s", 15.0, "Seconds per row, compiling apart.", lower_bound=0.0)
flags.DEFINE_list("compare", [], "One record to compare with, or two to compare.")
flags.DEFINE_string(
    "profile", None, "Folder for a jax.profiler trace of the first row; no figures."
)

CONFIG = PanelConfig(
    dataset="mnist_subset",
    methods=("far_sign", "far_sign_first_order", "async_sgd", "cyber0"),
    aggregators=("median", *(rule for rule in PAPER_AGGREGATORS if rule != "median")),
    attacks=("sign_flip",),
    seeds=(0,),
)
OWN = ("runs", "sizes", "deliveries", "full", "budget_s", "compare", "profile", "repeats")
OWN += ("timed_events",)
READ = ("out", "data_dir", "preset", "methods", "aggregators", "buffers", "attacks", "dataset")
READ += ("model", "workers", "byzantine", "batch_size", "directions", "delta")


def _numbers(name: str) -> list[int]:
    values = getattr(FLAGS, name)
    good = bool(values) and all(value.isdecimal() and int(value) > 0 for value in values)
    require(good, f"--{name} are positive whole numbers: got {','.join(values) or 'none'}")
    return sorted(set(map(int, values)))


def check_flags() -> None:
    """Raises `InvalidConfig` on flags that this command does not read, or not so."""
    refuse_others(*READ)
    require(len(FLAGS.compare) <= 2, f"--compare takes one or two files: got {FLAGS.compare}")
    require(
        len(FLAGS.deliveries) > 0,
        "--deliveries are fresh, outstanding or outstanding:L: got none",
    )
    for delivery in FLAGS.deliveries:
        simulation.depth(delivery)  # refuses what is none


def plan(config: PanelConfig) -> list[Case]:
    """What is to be timed."""
    require(len(config.attacks) == 1, f"one attack at a time: got {', '.join(config.attacks)}")
    cases = grid(config, _numbers("sizes"), FLAGS.deliveries, _numbers("runs"))
    return cases if FLAGS.full else usual(cases)


def profile(config: PanelConfig, case: Case) -> None:
    """A trace of one piece of a run, warm."""
    problem, piece = problem_of(config, FLAGS.data_dir, case.size), FLAGS.timed_events
    program, lanes = case.program(config), case.lanes(config, problem, case.runs, 2 * piece)
    _, _, pieces = running(program, lanes, piece, case.delivery)
    next(pieces)
    with jax.profiler.trace(FLAGS.profile):
        next(pieces)
    print(f"{piece} events of {case.name}: {FLAGS.profile}")


class Clock:
    """Times one case after the other."""

    def __init__(self, config: PanelConfig, rates: dict[str, Any]):
        self.config, self.rates = config, rates
        self.limits = events.Limits(FLAGS.timed_events, FLAGS.repeats, FLAGS.budget_s)
        self.distances: dict[str, float] = {}  # of the last row of each name: plan the next

    def row(self, case: Case, problem: Any) -> dict[str, Any]:
        guess = self.distances.get(case.name, events.GUESS)
        row = events.row_of(case, self.config, problem, self.rates, self.limits, guess)
        print(report.line(row), flush=True)
        self.distances[case.name] = row.get("distance") or guess
        return row


def measure(config: PanelConfig, cases: Sequence[Case]) -> dict[str, Any]:
    """Everything, one size after the other: one data set at a time."""
    rates = ceilings.measure()
    print(ceilings.report(rates), flush=True)
    record: dict[str, Any] = {"ceilings": rates, "rows": [], "base_pass": []}
    record |= {"panel": None, "torch": []}
    clock = Clock(config, rates)
    first, delivery = cases[0].size, FLAGS.deliveries[0]
    for size, some in itertools.groupby(cases, lambda case: case.size):
        problem = problem_of(config, FLAGS.data_dir, size)
        for case in some:
            row = clock.row(case, problem)
            record["rows"].append(row)
            alone = case.runs == 1 and case.delivery == delivery and "us" in row
            if alone and case.name == "far_sign":
                record["base_pass"].append(base_pass.measure(config, problem, row["us"]))
        if size == first and any(case.method == "cyber0" for case in cases):
            record["panel"] = panel.measure(config, problem)
        if size == first and record["base_pass"]:
            record["torch"] = torch_peer.measure(config, cases[0].sizes(config, problem))
        jax.clear_caches()
    return record


def throughput() -> pathlib.Path | None:
    one_device_per_core()
    check_flags()
    config = configure(CONFIG)
    old = [report.read(path) for path in FLAGS.compare]
    if len(old) == 2:
        print(report.compare(*old))
        return None
    cases = plan(config)
    if FLAGS.profile is not None:
        files.check_writable(FLAGS.profile, "--profile")
        profile(config, cases[0])
        return None
    problem_of(config, FLAGS.data_dir, cases[0].size)  # refuses what cannot be
    # Read back from the cache, nothing would take its time to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    record = {"config": provenance.plain(config), "environment": provenance.environment()}
    record["flags"] = {
        name: getattr(FLAGS, name)
        for name in (
            "runs",
            "sizes",
            "deliveries",
            "full",
            "budget_s",
            "repeats",
            "timed_events",
        )
    }
    record |= measure(config, cases)
    out = pathlib.Path(FLAGS.out or "results/throughput")
    files.write_text(out / "throughput.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "throughput.md", report.report(record))
    plots.scaling(record["rows"], out / "throughput")
    print(f"\n{report.report(record)}")
    for before in old:
        print(report.compare(before, record))
    print(f"written to {out}")
    return out


if __name__ == "__main__":
    main(throughput, base=CONFIG, own=OWN, reads=READ)
