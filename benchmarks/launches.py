"""How many kernels an event launches: on a GPU, what a small model's event costs.

    python -m benchmarks.launches                       on this machine's device
    python -m benchmarks.launches --target h200.txtpb   a GPU that is not there: one minute
    python -m benchmarks.launches --target v5e:2x2      a TPU that is not there

Compiles the sweeps of Table 3 as they would run there, and counts the instructions of the loop
over events that do something: fusions, library calls, copies. On a GPU each is a launch. With
--target nothing is run: XLA compiles for the device that a file describes, one of openxla/xla,
xla/backends/gpu/target_config/specs (needs the extra `cuda`), or for a TPU by name (`tpu`).

Where an event has conditions, most events take the shorter way: of methods with buffers, the
longer one is taken when all are full, which is counted in the schedule of a seed.

Writes launches.json and launches.md under --out (default results/launches).
"""

import collections
import functools
import json
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.cases import updates
from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import PanelData, SweepSpec, prepare, sweep_specs
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import BENCHMARKS, FLAGS, configure
from farsign_jax.io import files, provenance, tables
from farsign_jax.validation import InvalidConfig

flags.DEFINE_string("target", None, "A device that is not there: its description, or a TPU.")
flags.DEFINE_float("launch_us", 2.5, "Microseconds of a launch.", lower_bound=0.0)

CONFIG = PanelConfig(dataset="mnist_subset", methods=("far_sign", "cyber0"))
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
CHUNK = 50  # events that the program is compiled for: its loop does not depend on them


class Launches(NamedTuple):
    """Of one event."""

    least: int  # whatever happens
    most: int  # by the longest way through all conditions
    conditions: int
    kinds: dict[str, int]  # of the longest way


class Instruction(NamedTuple):
    kind: str
    text: str

    def names(self, attribute: str) -> list[str]:
        """The computations that it calls by this attribute."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.text)
        return re.findall(r"[\w.\-]+", found.group(1)) if found else []

    def name(self, attribute: str) -> str:
        """The only one."""
        (name,) = self.names(attribute)
        return name


def computations(text: str) -> dict[str, list[Instruction]]:
    """An HLO module as XLA prints it; what is entered first is called ENTRY, too."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current = found[head.group(2)] = []
            if head.group(1):
                found["ENTRY"] = current
        # A type, which may be a tuple of types with comments, stands before the kind.
        given = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
        if given:
            current.append(Instruction(given.group(1), line))
    return found


def _turns(loop: Instruction) -> int:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
    return int(known.group(1)) if known else 1  # of an unknown number, one


def _ways(condition: Instruction) -> list[str]:
    either = condition.names("true_computation") + condition.names("false_computation")
    return condition.names("branch_computations") or either


def _parts(name: str, all_of: dict[str, list[Instruction]]) -> Iterator[tuple[int, Launches]]:
    """What a computation does, and how often."""
    for one in all_of[name]:
        if one.kind == "while":
            for role in ("body", "condition"):
                yield _turns(one), _of(one.name(role), all_of)
        elif one.kind == "call":
            yield 1, _of(one.name("to_apply"), all_of)
        elif one.kind == "conditional":
            ways = [_of(way, all_of) for way in _ways(one)]
            longest, least = max(ways, key=lambda way: way.most), min(way.least for way in ways)
            yield 1, longest._replace(least=least, conditions=longest.conditions + 1)
        elif one.kind not in FREE:
            yield 1, Launches(1, 1, 0, {one.kind: 1})


def _of(name: str, all_of: dict[str, list[Instruction]]) -> Launches:
    parts, kinds = list(_parts(name, all_of)), collections.Counter()
    for times, part in parts:
        kinds.update({kind: times * n for kind, n in part.kinds.items()})
    least, most, conditions = (
        sum(times * getattr(part, field) for times, part in parts)
        for field in ("least", "most", "conditions")
    )
    return Launches(least, most, conditions, dict(kinds))


def per_event(text: str) -> Launches:
    """Of the body of the longest loop that the program runs, `lanes.advance`'s over events."""
    all_of = computations(text)
    loops = [one for one in all_of["ENTRY"] if one.kind == "while"]
    bodies = [_of(loop.name("body"), all_of) for loop in loops]
    return max(bodies, key=lambda body: body.most)


@functools.cache
def _device(target: str | None) -> tuple[Any, dict[str, Any]]:
    """Where to compile for, and XLA's options there: without a device, nothing can be tuned."""
    if target is None:
        return jax.devices()[0], {}
    file, told, options = pathlib.Path(target), {}, {}
    if file.is_file():
        told = {"topology": "1x1x1", "target_config": file.read_text()}
        options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    try:
        found = topologies.get_topology_desc(target, "cuda" if told else "tpu", **told)
    except Exception as error:  # of many kinds: no plugin, no such TPU, no such field
        reason = str(error).splitlines()[0]
        rule = f"--target is a file, or a TPU such as v5e:2x2: got {target!r}"
        raise InvalidConfig(f"{rule} ({reason})") from error
    return found.devices[0], options


def _shapes(tree: Any, put: NamedSharding) -> Any:
    def one(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=put)

    return jax.tree.map(one, tree)


def count(
    job: SweepSpec, setting: PanelData, config: PanelConfig, target: str | None
) -> dict[str, Any]:
    """The launches of one sweep, compiled as it is on an accelerator."""
    lanes, delivery = job.run_batch(setting), job.delivery(config)
    runs, events, turns = len(lanes), lanes.schedules.shape[1], 1
    if job.lockstep:
        runs *= job.points * len(job.runs)
    if job.one_seed_at_a_time:
        lanes, turns = lanes.take(slice(0, 1)), len(lanes)
    device, options = _device(target)
    put = NamedSharding(Mesh(np.array([device]), "x"), PartitionSpec())
    given = lanes.on(None)
    run = sweeps.start(job.program, delivery, *given[:3])
    args = _shapes((*given, run, jnp.asarray(lanes.schedules[:, :CHUNK])), put)
    start = time.perf_counter()
    lowered = sweeps.advance.lower(job.program, delivery, *args, turns=False)
    found = per_event(str(lowered.compile(options).as_text()))
    buffers = dict(job.builds[0].options).get("buffers", 0)
    often = updates(config.workers, buffers) if buffers else 1.0
    row = {"sweep": job.name, "runs": runs, "events": turns * events} | found._asdict()
    row["mean"] = found.least + often * (found.most - found.least)
    return row | {"compile_s": time.perf_counter() - start}


def report(rows: list[dict[str, Any]], name: str, launch_us: float) -> str:
    """The counts as Markdown, and what they make of all of these sweeps."""
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
        f"All of it: {total:,.0f} instructions, {1e-6 * launch_us * total:.2g} s if each is a "
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
    told = report(rows, name, FLAGS.launch_us)
    out = pathlib.Path(FLAGS.out or "results/launches")
    record = {"config": provenance.plain(config), "device": name, "rows": rows}
    record["environment"] = provenance.environment()
    files.write_text(out / "launches.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "launches.md", told)
    print(f"\n{told}written to {out}")
    return out


if __name__ == "__main__":
    main(launches, base=CONFIG, own=("target", "launch_us"), reads=BENCHMARKS)
