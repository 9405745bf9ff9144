"""How many kernels an event launches, which decides its time on a GPU if the model is small.

    python -m benchmarks.launches                       for this machine's device
    python -m benchmarks.launches --target h200.txtpb   for a GPU that is absent: one minute
    python -m benchmarks.launches --target v5e:2x2      for a TPU that is absent

Compiles the sweeps of Table 3 as they would run there and counts the instructions in the loop
over events that do something: fusions, library calls and copies. On a GPU each of them is a
launch. With --target nothing is run: XLA compiles for the device that a file describes, such as
those in xla/backends/gpu/target_config/specs of openxla/xla (this needs the extra `cuda`), or
for a TPU that is given by its name (this needs the extra `tpu`).

Where an event has conditions, most events take the shorter branches. A method with buffers
takes the longer branch when all buffers are full; how often that happens is counted in the
schedule of one seed.

Writes launches.json and launches.md under --out (default results/launches).
"""

import functools
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.cases import updates
from benchmarks.timing import write
from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import PanelData, SweepSpec, prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.io import provenance, tables
from farsign_jax.validation import InvalidConfig

flags.DEFINE_string(
    "target", None, "File that describes an absent GPU, or the name of an absent TPU."
)
flags.DEFINE_float("launch_us", 2.5, "Microseconds that a launch takes.", lower_bound=0.0)

CONFIG = PanelConfig(dataset="mnist_subset", methods=("far_sign", "cyber0"))
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
CHUNK = 50  # events that the program is compiled for: its loop does not depend on them


class Launches(NamedTuple):
    """The instructions of one event."""

    least: int = 0  # with the shortest branch of each condition
    most: int = 0  # with the longest branch of each condition
    conditions: int = 0


def computations(text: str) -> dict[str, list[tuple[str, str]]]:
    """The (kind, text) of all instructions of an HLO module, by computation.

    The computation that is entered first is also called ENTRY.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = found[head.group(2)] = []
            if head.group(1):
                found["ENTRY"] = current
        # The kind follows the type, which may be a tuple of types with comments.
        kind = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
        if kind:
            current.append((kind.group(1), line))
    return found


def called(text: str, *attributes: str) -> list[str]:
    """The computations that an instruction calls by these attributes."""
    pattern = rf"\b(?:{'|'.join(attributes)})=(\{{[^}}]*\}}|%?[\w.\-]+)"
    return re.findall(r"[\w.\-]+", " ".join(re.findall(pattern, text)))


def launches_of(name: str, module: dict[str, list[tuple[str, str]]]) -> Launches:
    """The instructions of a computation and of all that it calls."""
    total = np.zeros(3, int)
    for kind, text in module[name]:
        if kind == "while":
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', text)
            inner = [launches_of(part, module) for part in called(text, "body", "condition")]
            # A loop of unknown length counts once.
            total += (int(trips.group(1)) if trips else 1) * np.sum(inner, axis=0)
        elif kind == "call":
            total += launches_of(called(text, "to_apply")[0], module)
        elif kind == "conditional":
            names = ("branch_computations", "true_computation", "false_computation")
            branches = [launches_of(branch, module) for branch in called(text, *names)]
            longest = max(branches, key=lambda branch: branch.most)
            least = min(branch.least for branch in branches)
            total += (least, longest.most, longest.conditions + 1)
        elif kind not in FREE:
            total += (1, 1, 0)
    return Launches(*total.tolist())


def per_event(text: str) -> Launches:
    """The instructions in the body of the longest loop of a program, the one over events."""
    module = computations(text)
    loops = [text for kind, text in module["ENTRY"] if kind == "while"]
    bodies = [launches_of(called(loop, "body")[0], module) for loop in loops]
    return max(bodies, key=lambda body: body.most)


@functools.cache
def _device(target: str | None) -> tuple[Any, dict[str, Any]]:
    """The device to compile for, and XLA's options: an absent device cannot tune anything."""
    if target is None:
        return jax.devices()[0], {}
    file, platform, topology, options = pathlib.Path(target), "tpu", {}, {}
    if file.is_file():
        platform = "cuda"
        topology = {"topology": "1x1x1", "target_config": file.read_text(encoding="utf-8")}
        options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    try:
        found = topologies.get_topology_desc(target, platform, **topology)
    except Exception as error:  # many kinds: no plugin, no such TPU, no such field
        reason = str(error).splitlines()[0]
        rule = f"--target is a file or the name of a TPU such as v5e:2x2: got {target!r}"
        raise InvalidConfig(f"{rule} ({reason})") from error
    return found.devices[0], options


def count(
    job: SweepSpec, setting: PanelData, config: PanelConfig, target: str | None
) -> dict[str, Any]:
    """The launches of one sweep, compiled as it is on an accelerator."""
    batch, delivery = job.run_batch(setting), job.delivery(config)
    runs, events = len(batch), batch.schedules.shape[1]
    if job.lockstep:
        runs *= job.points * len(job.runs)
    if job.one_seed_at_a_time:
        batch, events = batch.take(slice(0, 1)), len(batch) * events
    device, options = _device(target)
    sharding = NamedSharding(Mesh(np.array([device]), "x"), PartitionSpec())
    inputs = batch.on(None)
    run = sweeps.start(job.program, delivery, *inputs)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        (*inputs, run, jnp.asarray(batch.schedules[:, :CHUNK])),
    )
    start = time.perf_counter()
    lowered = sweeps.advance.lower(job.program, delivery, *arguments, turns=False)
    found = per_event(str(lowered.compile(options).as_text()))
    compile_s = time.perf_counter() - start
    buffers = dict(job.builds[0].options).get("buffers", 0)
    frequency = updates(config.workers, buffers) if buffers else 1.0
    row = {"sweep": job.name, "runs": runs, "events": events} | found._asdict()
    row["mean"] = found.least + frequency * (found.most - found.least)
    return row | {"compile_s": compile_s}


def report(rows: list[dict[str, Any]], name: str, launch_us: float) -> str:
    """The counts as Markdown, and the time that they predict for all sweeps together."""
    header = ["sweep", "runs", "events, one after the other", "instructions / event", "at most"]
    header += ["mean", "conditions", "compile, s"]
    lines = [
        [r["sweep"], f"{r['runs']}", f"{r['events']:,}", f"{r['least']}", f"{r['most']}"]
        + [f"{r['mean']:.0f}", f"{r['conditions']}", f"{r['compile_s']:.1f}"]
        for r in rows
    ]
    total = sum(r["events"] * r["mean"] for r in rows)
    compiling = sum(r["compile_s"] for r in rows)
    return (
        f"{name}\n\n{tables.markdown_table(header, lines)}\n"
        f"Together: {total:,.0f} instructions, {1e-6 * launch_us * total:.2g} s if each is a "
        f"launch of {launch_us:g} µs; compiled in {compiling:.0f} s.\n"
    )


def launches() -> pathlib.Path:
    config = configure(CONFIG)
    setting = prepare(config, FLAGS.data_dir)
    name = _device(FLAGS.target)[0].device_kind
    rows = []
    for job in sweep_specs(config):
        rows.append(count(job, setting, config, FLAGS.target))
        print(f"{job.name}: {rows[-1]['least']} instructions per event", flush=True)
    record = {"config": provenance.plain(config), "device": name, "rows": rows}
    return write("launches", record, report(rows, name, FLAGS.launch_us))


if __name__ == "__main__":
    main(launches, base=CONFIG, own=("target", "launch_us"), reads=BENCHMARKS)
