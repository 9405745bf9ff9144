"""The cost of an event against the number of workers, from 25 to 100,000.

    python -m benchmarks.workers --data_dir DIR         about 3 minutes on two cores
    python -m benchmarks.workers --counts 25,1000 --methods far_sign

A fifth of the workers is Byzantine. Each worker has 64 examples of the training set, drawn
with replacement, so that the data do not limit their number. Methods that work in rounds
receive the answers of 1,000 workers in a round, or of all of them if there are fewer, and their
time is that of one answer. Everything is compiled and run once before the clock starts.

Memory is that of the state of a run and of its program, without the data. What does not fit is
listed with the memory that it would need.

Writes workers.json and workers.md under --out (default results/workers).
"""

import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.timing import machine, write
from farsign_jax import attacks, models, problems, sweeps
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import sweep_specs
from farsign_jax.data import datasets
from farsign_jax.harness import timing
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.io import provenance, tables
from farsign_jax.validation import InvalidConfig, require

flags.DEFINE_list("counts", ["25", "1000", "10000", "100000"], "The numbers of workers, m.")

EXAMPLES = 64  # of each worker
AT_ONCE = 1000  # answers in a round
CONFIG = PanelConfig(
    methods=(
        "far_sign",
        "far_sign:storage=hashed,slots=4096",
        "far_sign:seeded=256",
        "basgd:buffers=100",
        "sgd",
    ),
    aggregators=("median",),
    attacks=("sign_flip",),
    seeds=(0,),
)


def problem_of(config: PanelConfig, data: datasets.Dataset, workers: int) -> Problem:
    """The classification of all examples, of which each worker has a few."""
    module = models.make(config.model, data.num_classes)
    count = len(data.train_labels)
    rows = np.random.default_rng(0).integers(0, count, (workers, EXAMPLES)).astype(np.int32)
    sizes = np.full(workers, EXAMPLES, np.int32)
    images, labels = data.train_images, data.train_labels
    return problems.classification(module, images, labels, rows, sizes, jax.random.key(0))


def run_batch(
    config: PanelConfig, spec: Any, problem: Problem, pieces: int
) -> tuple[sweeps.RunBatch, int]:
    """One run, and the answers of an event of it."""
    m, rng = config.workers, np.random.default_rng(1)
    answers = min(m, AT_ONCE) if spec.in_rounds else 1
    if spec.in_rounds:
        drawn = [rng.choice(m, answers, replace=False) for _ in range(pieces)]
        order = np.stack(drawn).astype(np.int32)
    else:
        order = rng.integers(0, m, pieces * FLAGS.timed_events).astype(np.int32)
    mask = attacks.byzantine_mask(m, config.byzantine)
    batch = sweeps.RunBatch(
        problem=sweeps.RunBatch.repeated(problem, 1),
        seeds=jnp.zeros(1, jnp.int32),
        hyper={name: jnp.asarray(values[0, :1]) for name, values in spec.hyper.items()},
        byzantine=jnp.asarray(mask[None]),
        schedules=order[None],
    )
    return batch, answers


def row_of(method: str, base: PanelConfig, data: datasets.Dataset, m: int) -> dict[str, Any]:
    """One row of the table: microseconds per answer, and bytes; or why there are none."""
    config = dataclasses.replace(base, methods=(method,), workers=m, byzantine=m // 5)
    row = {"method": method, "workers": m}
    try:
        return row | _measured(config, problem_of(config, data, m))
    except InvalidConfig as reason:
        return row | {"skipped": str(reason)}


def _measured(config: PanelConfig, problem: Problem) -> dict[str, Any]:
    (spec,), (method,) = sweep_specs(config), config.methods
    pieces = 1 + FLAGS.repeats
    batch, answers = run_batch(config, spec, problem, pieces)
    program = spec.builds[0]
    state = sweeps.bytes_per_run(program, batch, "fresh")
    needed, room = 2 * state / 2**30, sweeps.memory(1)[1] / 2**30  # it is made, then handed on
    require(needed <= room, f"a run needs {needed:.3g} GiB, and {room:.3g} GiB are available")
    events = 1 if spec.in_rounds else FLAGS.timed_events
    if "seeded" in method:  # whose answers are passes through the whole network
        events = max(events // 40, 1)
    advance, compile_s, times = timing.running(program, batch, events)
    found = [1e6 * s / (events * answers) for s in itertools.islice(times, pieces)]
    temporary = getattr(advance.memory_analysis(), "temp_size_in_bytes", 0)
    of_program = {"compile_s": compile_s, "temporary_bytes": temporary}
    return timing.spread(found[1:]) | of_program | {"state_bytes": state}


def report(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = []
    for r in record["rows"]:
        cells = ["", "", "", "", r.get("skipped", "")]
        if "us" in r:
            sizes = (f"{r[name] / 1e6:,.1f}" for name in ("state_bytes", "temporary_bytes"))
            cells = [*sizes, f"{r['us']:,.1f}", f"{r['compile_s']:.1f}", ""]
        lines.append([r["method"], f"{r['workers']:,}", *cells])
    header = ["method", "workers", "state, MB", "of the program, MB", "µs / answer"]
    table = tables.markdown_table([*header, "compile, s", "why not"], lines)
    return f"{machine(record['environment'])}\n\n{table}"


def workers() -> pathlib.Path:
    base = configure(CONFIG)
    rule = f"--counts are whole numbers from 5 on: got {','.join(FLAGS.counts)}"
    require(all(text.isdecimal() and int(text) >= 5 for text in FLAGS.counts), rule)
    data = datasets.load(base.dataset, FLAGS.data_dir)
    # With the cache, compilation would take no time.
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for method, m in itertools.product(base.methods, map(int, FLAGS.counts)):
        rows.append(row_of(method, base, data, m))
        print(rows[-1], flush=True)
        jax.clear_caches()
    record = {"config": provenance.plain(base), "environment": provenance.environment()}
    record["rows"] = rows
    return write("workers", record, report(record))


if __name__ == "__main__":
    flags.FLAGS.set_default("timed_events", 200)
    own = ("counts", "repeats", "timed_events")
    main(workers, base=CONFIG, own=own, reads=BENCHMARKS)
