"""Milliseconds per call of every aggregation rule and pre-aggregator, beside ByzFL's.

    python -m benchmarks.aggregators           about 2 minutes on two cores
    python -m benchmarks.aggregators --rules krum,bulyan --rows 50 --dims 10000

One process; every rule is compiled before its clock starts, and the time of that is
reported apart; each figure is the median of --repeats calls, with their range. n is --rows,
f is 5, or the most that a rule admits. Random rows, the last f of them far away.

If byzfl is installed, its rule of the same name runs on the same numbers, as a PyTorch
tensor (from its default setting unless the number of steps differs: then with ours).

Writes aggregators.json and aggregators.md under --out (default results/aggregators).
"""

import functools
import importlib.util
import inspect
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.timing import take_turns
from farsign_jax import aggregators
from farsign_jax.aggregators.preaggregators import PREAGGREGATORS
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.harness.timing import spread
from farsign_jax.io import files, provenance, tables
from farsign_jax.validation import lookup, require

flags.DEFINE_integer("rows", 25, "n, vectors to aggregate.", lower_bound=7)
flags.DEFINE_list("dims", ["100000", "1000000"], "d, numbers per vector.")
flags.DEFINE_list("rules", None, "Which to time (default: all).")

LIARS = 5
# Ours -> ByzFL's name and how its parameters are called; what it has no rule for is left out.
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
    """f: 5, or what the rule admits for so many rows, or what it can enumerate."""
    f = min(LIARS, (rows - 3) // (4 if name == "bulyan" else 2))
    if name == "mda":
        while math.comb(rows, f) > aggregators.MDA_SUBSETS:
            f -= 1
    return f


def needs_f(name: str) -> bool:
    takes = inspect.signature((aggregators.AGGREGATORS | PREAGGREGATORS)[name]).parameters
    return "f" in takes


def ours(name: str, x: jax.Array) -> Callable[[], Any]:
    options = {"f": tolerated(name, len(x))} if needs_f(name) else {}
    if name in PREAGGREGATORS:
        return functools.partial(PREAGGREGATORS[name](**options), x)
    return functools.partial(aggregators.make(name, **options), x)


def byzfl_peer(name: str, x: np.ndarray) -> Callable[[], Any] | None:
    """ByzFL's rule on the same numbers, where there is one."""
    if name not in PEERS or not importlib.util.find_spec("byzfl"):
        return None
    import byzfl  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    peer, options = PEERS[name]
    options = {k: tolerated(name, len(x)) if v == "f" else v for k, v in options.items()}
    rule = getattr(byzfl, peer)(**options)
    kept = torch.from_numpy(x.copy())

    def call():
        # Clipping and ARC write to their argument: they get a copy, which is timed.
        result = rule(kept.clone() if name in ("clipping", "arc") else kept)
        return np.asarray(result[0, :1] if result.ndim == 2 else result[:1])

    return call


def measure(name: str, x: jax.Array) -> dict[str, Any]:
    """One row of the table: milliseconds of ours, and of ByzFL's with the ratio."""
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
    machine = record["environment"]
    text = [f"{machine['device']}, {machine['cpu']}, {machine['cpu_cores']} CPU cores\n"]
    header = ["rule", "n", "f", "d", "ms", "range", "first call, s", "ByzFL, ms", "times ours"]
    lines = []
    for r in record["rules"]:
        line = [r["rule"], str(r["n"]), "" if r["f"] is None else str(r["f"]), f"{r['d']:,}"]
        line += [f"{r['ms']:.1f}", f"{r['ms_min']:.1f}-{r['ms_max']:.1f}"]
        line += [f"{r['first_call_s']:.1f}"]
        peer = "byzfl_ms" in r
        line += [f"{r['byzfl_ms']:.1f}", f"{r['times_ours']:.1f}"] if peer else ["", ""]
        lines.append(line)
    text.append(tables.markdown_table(header, lines))
    return "\n".join(text)


def benchmark() -> pathlib.Path:
    known = [*aggregators.AGGREGATORS, *PREAGGREGATORS]
    names = known if FLAGS.rules is None else FLAGS.rules
    require(len(names) > 0, "--rules names none")
    for name in names:
        lookup("rule", name, dict.fromkeys(known))
    require(len(FLAGS.dims) > 0, "--dims names none")
    for dim in FLAGS.dims:
        require(dim.isdigit() and int(dim) > 0, f"--dims are positive numbers: got {dim!r}")
    rows = []
    for d in map(int, FLAGS.dims):
        x = np.random.default_rng(0).normal(size=(FLAGS.rows, d)).astype(np.float32)
        x[-LIARS:] += 3
        x = jnp.asarray(x)
        for name in names:
            rows.append(measure(name, x))
            print(f"{name}, d = {d:,}: {rows[-1]['ms']:.1f} ms", flush=True)
    record = {"environment": provenance.environment(), "rules": rows}
    out = pathlib.Path(FLAGS.out or "results/aggregators")
    files.write_text(out / "aggregators.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "aggregators.md", report(record))
    print(f"\n{report(record)}\nwritten to {out}")
    return out


if __name__ == "__main__":
    main(benchmark, own=("rows", "dims", "rules", "repeats"), reads=("out",))
