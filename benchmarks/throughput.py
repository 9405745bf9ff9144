"""Events and loss evaluations per second, and the distance to what the device can do.

    python -m benchmarks.throughput                           about 4 minutes on two cores
    python -m benchmarks.throughput --full --runs 1,5,25,125,625 \\
        --sizes 25450,1000000,10000000 --budget_s 120         all combinations
    python -m benchmarks.throughput --compare old.json        compare with an earlier record
    python -m benchmarks.throughput --compare old.json,new.json    compare two records only
    python -m benchmarks.throughput --check                   ratios only: one minute
    python -m benchmarks.throughput --methods far_sign --profile DIR    trace some events

The process compiles everything without the cache of compiled programs and runs it once before
the clock starts. Each figure is the median of --repeats timings and is shown with their range.
The parts are

    events       microseconds per event and run of every method, number of runs side by side,
                 number of parameters (the first layer grows) and delivery
    counts       the work of an event
    ceilings     the highest rates of the device; with the counts, the floor of an event
    base_pass    the part of FAR-SIGN's event that any method needs
    panel        all aggregators and attacks of CYBER-0 in lock-step
    torch_peer   the same event in PyTorch, if that is installed

Runs side by side have different seeds and are divided among all devices; a CPU has one device
per core. Runs of methods with buffers have one seed and different step sizes, and advance in
lock-step. Without --full, deliveries other than the first are timed for FAR-SIGN only, and
aggregators other than the first only at the first of --sizes and --runs. A case that is too
large or too slow is listed with the reason.

Writes throughput.json, .md, .png and .pdf under --out (default results/throughput). With
--check it writes nothing: it prints ratios of times that were measured in turns beside the
bands in which they should be, so that a slow change is noticed on any machine.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from benchmarks import base_pass, ceilings, events, panel, plots, ratios, report, torch_peer
from benchmarks.cases import Case, grid, problem_of, usual
from benchmarks.timing import write
from farsign_jax import simulation
from farsign_jax.config.panel_config import PAPER_AGGREGATORS, PanelConfig
from farsign_jax.harness.command import main, one_device_per_core
from farsign_jax.harness.flags import FLAGS, configure, refuse_others
from farsign_jax.harness.timing import running
from farsign_jax.io import files, provenance
from farsign_jax.validation import require

flags.DEFINE_list("runs", ["1", "5", "25"], "Numbers of runs side by side.")
flags.DEFINE_list(
    "sizes",
    ["25450", "1000000"],
    "Approximate numbers of parameters; the first layer grows.",
)
flags.DEFINE_list(
    "deliveries", ["fresh", "outstanding"], "fresh, outstanding:L or inconsistent:L."
)
flags.DEFINE_bool("full", False, "Time all combinations instead of the most informative ones.")
flags.DEFINE_float("budget_s", 15.0, "Seconds per row, without compilation.", lower_bound=0.0)
flags.DEFINE_bool("check", False, "Compare ratios of times with the bands of `ratios`.")
flags.DEFINE_list("compare", [], "An earlier record to compare with, or two records.")
flags.DEFINE_string(
    "profile", None, "Folder for a jax.profiler trace of the first row, instead of figures."
)

CONFIG = PanelConfig(
    dataset="mnist_subset",
    methods=("far_sign", "far_sign_first_order", "async_sgd", "cyber0"),
    aggregators=("median", *(rule for rule in PAPER_AGGREGATORS if rule != "median")),
    attacks=("sign_flip",),
    seeds=(0,),
)
OWN = ("runs", "sizes", "deliveries", "full", "budget_s", "compare", "profile", "repeats")
OWN += ("timed_events", "check")
READ = ("out", "data_dir", "preset", "methods", "aggregators", "buffers", "attacks", "dataset")
READ += ("model", "workers", "byzantine", "batch_size", "directions", "delta")


def _numbers(name: str) -> list[int]:
    values = getattr(FLAGS, name)
    good = bool(values) and all(value.isdecimal() and int(value) > 0 for value in values)
    require(good, f"--{name} needs positive whole numbers: got {','.join(values) or 'none'}")
    return sorted(set(map(int, values)))


def check_flags() -> None:
    """Raises `InvalidConfig` for flags that this command does not read, or invalid values."""
    refuse_others(*READ)
    require(len(FLAGS.compare) <= 2, f"--compare takes one or two files: got {FLAGS.compare}")
    require(
        len(FLAGS.deliveries) > 0,
        "--deliveries needs fresh, outstanding:L or inconsistent:L: got none",
    )
    for delivery in FLAGS.deliveries:
        simulation.depth(delivery)  # raises if it is invalid


def plan(config: PanelConfig) -> list[Case]:
    """The cases to time."""
    require(len(config.attacks) == 1, f"need one attack: got {', '.join(config.attacks)}")
    cases = grid(config, _numbers("sizes"), FLAGS.deliveries, _numbers("runs"))
    return cases if FLAGS.full else usual(cases)


def profile(config: PanelConfig, case: Case) -> None:
    """Writes a trace of some events, after a warm-up."""
    problem, piece = problem_of(config, FLAGS.data_dir, case.size), FLAGS.timed_events
    program, batch = case.program(config), case.run_batch(config, problem, case.runs, 2 * piece)
    _, _, pieces = running(program, batch, piece, case.delivery)
    next(pieces)
    with jax.profiler.trace(FLAGS.profile):
        next(pieces)
    print(f"The trace of {piece} events of {case.name} is in {FLAGS.profile}.")


def measure(config: PanelConfig, cases: Sequence[Case]) -> dict[str, Any]:
    """Measures everything, one size after the other, so that one data set is kept at a time."""
    rates = ceilings.measure()
    print(ceilings.report(rates), flush=True)
    record: dict[str, Any] = {"ceilings": rates, "rows": [], "base_pass": []}
    record |= {"panel": None, "torch": []}
    limits = events.Limits(FLAGS.timed_events, FLAGS.repeats, FLAGS.budget_s)
    clock = events.Clock(config, rates, limits)
    first, delivery = cases[0].size, FLAGS.deliveries[0]
    for size, group in itertools.groupby(cases, lambda case: case.size):
        problem = problem_of(config, FLAGS.data_dir, size)
        for case in group:
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
    here = old[-1]["environment"] if len(old) == 2 else provenance.environment()
    for record in old:
        report.check_device(record, here)
    if len(old) == 2:
        print(report.compare(*old))
        return None
    if FLAGS.check:
        problem = problem_of(config, FLAGS.data_dir, _numbers("sizes")[0])
        print(ratios.report(ratios.measure(config, problem)))
        return None
    cases = plan(config)
    if FLAGS.profile is not None:
        files.check_writable(FLAGS.profile, "--profile")
        profile(config, cases[0])
        return None
    problem_of(config, FLAGS.data_dir, cases[0].size)  # raises if the size is impossible
    # With the cache, compilation would take no time.
    jax.config.update("jax_enable_compilation_cache", False)
    names = ("runs", "sizes", "deliveries", "full", "budget_s", "repeats", "timed_events")
    record = {"config": provenance.plain(config), "environment": provenance.environment()}
    record |= {"flags": {name: getattr(FLAGS, name) for name in names}}
    record |= measure(config, cases)
    folder = write("throughput", record, report.report(record))
    plots.scaling(record["rows"], folder / "throughput")
    for before in old:
        print(report.compare(before, record))
    return folder


if __name__ == "__main__":
    main(throughput, base=CONFIG, own=OWN, reads=READ)
