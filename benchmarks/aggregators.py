"""Milliseconds per call of every aggregator and pre-aggregator, compared with ByzFL's.

    python -m benchmarks.aggregators           about 2 minutes on two cores
    python -m benchmarks.aggregators --rules krum,bulyan --rows 50 --dims 10000

Every rule is compiled before its clock starts; the time of its first call is reported
separately. Each figure is the median of --repeats calls and is shown with their range. The
number of vectors n is --rows, and f is 5 or the largest number that the rule admits. The
vectors are random, and the last f of them are far away.

If byzfl is installed, its rule of the same name is called with the same numbers as a PyTorch
tensor. It has its default parameters, except for the number of iterations, which is ours.

Writes aggregators.json and aggregators.md under --out (default results/aggregators).
"""

import functools
import importlib.util
import inspect
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.timing import machine, take_turns, write
from farsign_jax import aggregators
from farsign_jax.aggregators.preaggregators import PREAGGREGATORS
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.harness.timing import spread
from farsign_jax.io import provenance, tables
from farsign_jax.validation import lookup, require

flags.DEFINE_integer("rows", 25, "Number of vectors n to aggregate.", lower_bound=7)
flags.DEFINE_list("dims", ["100000", "1000000"], "Numbers d of coordinates per vector.")
flags.DEFINE_list("rules", None, "Rules to time. Default: all.")

BYZANTINE = 5
# Our name -> the name in ByzFL and its parameters, for the rules that ByzFL has.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("Average", {}),
    "median": ("Median", {}),
    "trimmed_mean": ("TrMean", {"f": "f"}),
    "meamed": ("Meamed", {"f": "f"}),
    "krum": ("Krum", {"f": "f"}),
    "multi_krum": ("MultiKrum", {"f": "f"}),
    "mda": ("MDA", {"f": "f"}),
    "rfa": ("GeometricMedian", {"nu": 1e-6, "T": 4}),
    "centered_clipping": ("CenteredClipping", {"tau": 10.0, "L": 1}),
    "nnm": ("NNM", {"f": "f"}),
    "bucketing": ("Bucketing", {"s": 2}),
    "clipping": ("Clipping", {"c": 2.0}),
    "arc": ("ARC", {"f": "f"}),
}


def tolerated(name: str, rows: int) -> int:
    """f: 5, or the largest number that the rule admits or whose subsets it enumerates."""
    f = min(BYZANTINE, (rows - 3) // (4 if name == "bulyan" else 2))
    if name == "mda":
        while math.comb(rows, f) > aggregators.MDA_SUBSETS:
            f -= 1
    return f


def needs_f(name: str) -> bool:
    factory = (aggregators.AGGREGATORS | PREAGGREGATORS)[name]
    return "f" in inspect.signature(factory).parameters


def ours(name: str, x: jax.Array) -> Callable[[], Any]:
    options = {"f": tolerated(name, len(x))} if needs_f(name) else {}
    if name in PREAGGREGATORS:
        return functools.partial(PREAGGREGATORS[name](**options), x)
    return functools.partial(aggregators.make(name, **options), x)


def byzfl_peer(name: str, x: np.ndarray) -> Callable[[], Any] | None:
    """ByzFL's rule on the same numbers, if it is installed and has the rule."""
    if name not in PEERS or not importlib.util.find_spec("byzfl"):
        return None
    import byzfl  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    peer, options = PEERS[name]
    options = {k: tolerated(name, len(x)) if v == "f" else v for k, v in options.items()}
    rule = getattr(byzfl, peer)(**options)
    tensor = torch.from_numpy(x.copy())

    def call():
        # Clipping and ARC modify their argument, so that they need a copy, which is timed.
        result = rule(tensor.clone() if name in ("clipping", "arc") else tensor)
        return np.asarray(result[0, :1] if result.ndim == 2 else result[:1])

    return call


def measure(name: str, x: jax.Array) -> dict[str, Any]:
    """One row of the table: the milliseconds of our rule, of ByzFL's, and their ratio."""
    call = ours(name, x)
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    peer = byzfl_peer(name, np.asarray(x))
    timings = take_turns([call, peer] if peer else [call], 1)
    row: dict[str, Any] = {"rule": name, "n": x.shape[0], "d": x.shape[1]}
    row |= {"f": tolerated(name, len(x)) if needs_f(name) else None, "first_call_s": first}
    row |= {k.replace("us", "ms"): v / 1e3 for k, v in spread(timings[0]).items()}
    if peer:
        row |= {k.replace("us", "byzfl_ms"): v / 1e3 for k, v in spread(timings[1]).items()}
        row["times_ours"] = row["byzfl_ms"] / row["ms"]
    return row


def report(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    header = ["rule", "n", "f", "d", "ms", "range", "first call, s", "ByzFL, ms", "times ours"]
    lines = []
    for r in record["rules"]:
        cells = [r["rule"], str(r["n"]), "" if r["f"] is None else str(r["f"]), f"{r['d']:,}"]
        cells += [f"{r['ms']:.1f}", f"{r['ms_min']:.1f}-{r['ms_max']:.1f}"]
        cells += [f"{r['first_call_s']:.1f}"]
        peer = "byzfl_ms" in r
        cells += [f"{r['byzfl_ms']:.1f}", f"{r['times_ours']:.1f}"] if peer else ["", ""]
        lines.append(cells)
    return f"{machine(record['environment'])}\n\n{tables.markdown_table(header, lines)}"


def benchmark() -> pathlib.Path:
    known = [*aggregators.AGGREGATORS, *PREAGGREGATORS]
    names = known if FLAGS.rules is None else FLAGS.rules
    require(len(names) > 0, "--rules names none")
    for name in names:
        lookup("rule", name, dict.fromkeys(known))
    require(len(FLAGS.dims) > 0, "--dims names none")
    for dim in FLAGS.dims:
        require(dim.isdigit() and int(dim) > 0, f"--dims needs positive numbers: got {dim!r}")
    rows = []
    for d in map(int, FLAGS.dims):
        x = np.random.default_rng(0).normal(size=(FLAGS.rows, d)).astype(np.float32)
        x[-BYZANTINE:] += 3
        x = jnp.asarray(x)
        for name in names:
            rows.append(measure(name, x))
            print(f"{name}, d = {d:,}: {rows[-1]['ms']:.1f} ms", flush=True)
    record = {"environment": provenance.environment(), "rules": rows}
    return write("aggregators", record, report(record))


if __name__ == "__main__":
    main(benchmark, own=("rows", "dims", "rules", "repeats"), reads=("out",))
