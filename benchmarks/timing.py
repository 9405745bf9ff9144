"""How every benchmark takes its timings and writes its record.

Programs are compiled and called once before the clock starts. Each figure is the median of
--repeats timings and is shown with their range.
"""

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from farsign_jax.io import files, provenance

FLAGS = flags.FLAGS

flags.DEFINE_integer("repeats", 5, "Number of timings behind each figure.", lower_bound=1)
flags.DEFINE_integer("timed_events", 300, "Largest number of events per timing.", lower_bound=1)


def take_turns(calls: Sequence[Callable[[], Any]], units: int) -> list[list[float]]:
    """Times several calls in turns, so that a drift of the machine's speed affects all of them.

    Args:
        calls: what to time. Each is called once before the clock starts.
        units: the units of work that one call does.

    Returns:
        For each call, the microseconds per unit of work of each of --repeats timings.
    """
    for call in calls:
        jax.block_until_ready(call())
    timings: list[list[float]] = [[] for _ in calls]
    for _ in range(FLAGS.repeats):
        for call, times in zip(calls, timings, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(1e6 * (time.perf_counter() - start) / units)
    return timings


def machine(environment: Mapping[str, Any]) -> str:
    """The device, the processor and its number of cores, in one line."""
    return (
        f"{environment['device']}, {environment['cpu']}, {environment['cpu_cores']} CPU cores"
    )


def write(name: str, record: Mapping[str, Any], text: str) -> pathlib.Path:
    """Writes a record as NAME.json and NAME.md under --out, by default results/NAME.

    Adds the environment to a record that does not have it, prints the text, and returns the
    folder.
    """
    folder = pathlib.Path(FLAGS.out or f"results/{name}")
    record = {"environment": provenance.environment()} | dict(record)
    files.write_json(folder / f"{name}.json", record)
    files.write_text(folder / f"{name}.md", text)
    print(f"\n{text}\nThe results are in {folder}.")
    return folder
