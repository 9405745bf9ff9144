"""What a command would run, and about how long: --dry_run.

Counted, not guessed: runs, answers, evaluations, bytes. Seconds are those of the first records
of each sweep, really run, on this machine, now.
"""

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from farsign_jax import sweeps
from farsign_jax.io import run_folder, tables
from farsign_jax.problems.metrics import Measure
from farsign_jax.sweeps import chunks, devices
from farsign_jax.sweeps.inspection import bytes_per_run

BUDGET_S = 60.0  # of timing; what is left then is taken to be like what was timed


ENOUGH_S = 0.5  # of each sweep


RECORDS = 2  # of each sweep, at least


class Sweep(NamedTuple):
    """Arguments of `sweeps.sweep`, and what its rows say of it.

    Attributes:
        runs: per lane: several in lock-step.
        evaluations, bits: per answer.
    """

    name: str
    program: Any
    lanes: sweeps.RunBatch
    every: int
    measure: Measure
    delivery: str
    max_parallel_runs: int | None
    checkpoint: Any
    runs: int
    evaluations: int
    bits: int

    def run(self, **options: Any) -> tuple[dict[str, np.ndarray], sweeps.FinalRuns]:
        """All of it; `options` are other arguments of `sweeps.sweep`."""
        return sweeps.sweep(
            self.program,
            self.lanes,
            every=self.every,
            measure=self.measure,
            delivery=self.delivery,
            max_parallel_runs=self.max_parallel_runs,
            **options,
        )

    @property
    def events(self) -> int:
        """Of all lanes."""
        return len(self.lanes) * self.lanes.schedules.shape[1]

    @property
    def answers(self) -> int:
        return int((self.lanes.schedules >= 0).sum()) * self.runs

    def shares(self) -> list[chunks.Chunk]:
        """As the sweep cuts its lanes."""
        told = self.program, self.lanes, self.delivery, self.max_parallel_runs, self.checkpoint
        return sweeps.cut(*told, devices.local())


class Timing(NamedTuple):
    """Seconds until a sweep is at its first event, those of XLA's compiler apart, and seconds
    per event of a lane."""

    begin: float
    compiling: float
    each: float


class Beside(NamedTuple):
    """What a command does beside its sweeps: seconds, 0 where unknown, and a line."""

    seconds: float
    says: str


_compiled: list[float] = []  # seconds


@functools.cache  # there is no public way to unregister it
def _listen() -> None:
    def heard(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            _compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(heard)


class _Enough(Exception):
    pass


def timed(sweep: Sweep) -> Timing:
    """Runs the first records of a sweep, and keeps nothing of it."""
    _listen()
    _compiled.clear()
    began = time.perf_counter()
    seen: list[tuple[float, int]] = []

    def look(events):
        seen.append((time.perf_counter(), events))
        if len(seen) > RECORDS and seen[-1][0] - seen[0][0] > ENOUGH_S:
            raise _Enough

    with contextlib.suppress(_Enough):
        sweep.run(progress=look)
    pairs = [(b[0] - a[0]) / b[1] for a, b in itertools.pairwise(seen)]
    each = float(np.median(pairs)) if pairs else (seen[0][0] - began) / seen[0][1]
    begin, compiling = seen[0][0] - began - each * seen[0][1], sum(_compiled)
    return Timing(max(begin - compiling, 0.0), compiling, each)


class Line(NamedTuple):
    """A sweep in numbers; `timing` is None where there is none of it or its like."""

    sweep: Sweep
    done: int  # events of all lanes
    on_device: int  # bytes
    timing: Timing | None

    def seconds(self, typical: Timing) -> float:
        """Of the events that are left."""
        return (self.timing or typical).each * (self.sweep.events - self.done)


def look_at(every: Iterable[Sweep]) -> list[Line]:
    """Each sweep in numbers. Those that are alike are timed once, those that are done or come
    after `BUDGET_S` seconds of timing never."""
    known: dict[Any, Timing] = {}
    began, found = time.perf_counter(), []
    for sweep in every:
        cut = sweep.shares()
        for share in cut:
            own = sweep.lanes.take(share.ids)
            told = sweep.program, own, sweep.delivery, sweep.every
            if share.path is not None and share.path.exists():
                chunks.check(share, chunks.fingerprint(*told))
        done = sum(share.count * chunks.done(share) for share in cut)
        width = len(cut[0].ids)
        key = sweep.program, sweep.delivery, sweep.every, width
        late = time.perf_counter() - began > BUDGET_S
        if key not in known and done < sweep.events and not late:
            print(f"timing {sweep.name}", file=sys.stderr, flush=True)
            known[key] = timed(sweep)
            timing = known[key]
        else:
            timing = known[key]._replace(compiling=0.0) if key in known else None
        on_device = width * bytes_per_run(sweep.program, sweep.lanes, sweep.delivery)
        found.append(Line(sweep, done, on_device, timing))
    return found


def span(seconds: float) -> str:
    """5.4 s, 12 min, 3.2 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def size(count: float) -> str:
    """1234567 bytes as 1.2 MB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def tell(
    every: Iterable[Sweep], folder: run_folder.RunFolder, beside: Sequence[Beside] = ()
) -> None:
    """Prints what would run.

    Args:
        every: the sweeps of a command.
        folder: where they would leave their results.
        beside: what else the command does.
    """
    began = time.process_time()  # all of it went into imports and data
    found = look_at(every)
    timings = [line.timing for line in found if line.timing is not None] or [Timing(0, 0, 0)]
    typical = Timing(*np.mean(timings, axis=0).tolist())
    print(_table(found, typical))
    data = max(_bytes(line.sweep.lanes.problem.data) for line in found)
    local = devices.local()
    kind = f"{local[0].device_kind} ({local[0].platform})"
    print(f"Data: {size(data)} on each device, {len(local)} x {kind}.")
    there = "is there" if folder.path.exists() else "would be made"
    print(f"Folder: {folder.path}, which {there}.")
    begin = began + sum((line.timing or typical).begin for line in found)
    runs = sum(line.seconds(typical) for line in found)
    whole = begin + runs + sum(one.seconds for one in beside)
    told = f"About {span(whole)}, as timed just now: {span(begin)} to begin and {span(runs)} of"
    print(f"{told} runs; drawing comes on top.")
    for one in beside:
        print(one.says)
    compiling = sum(line.timing.compiling for line in found if line.timing)
    print(f"Compiling took {span(compiling)}: programs are kept in the cache.")
    untimed = sum(line.timing is None and line.done < line.sweep.events for line in found)
    if untimed:
        print(f"{untimed} of {len(found)} sweeps were not timed: taken to be like the others.")
    print("Nothing was written.")


def _table(found: Sequence[Line], typical: Timing) -> str:
    header = ["sweep", "runs", "answers each", "evaluations", "workers send", "on a device"]
    header += ["done, %", "left"]
    rows, total, done, events = [], np.zeros(4), 0, 0
    for line in found:
        sweep, answers = line.sweep, line.sweep.answers
        numbers = len(sweep.lanes) * sweep.runs, answers, answers * sweep.evaluations
        numbers = np.array([*numbers, answers * sweep.bits / 8], float)
        total += numbers
        done, events = done + line.done * sweep.runs, events + sweep.events * sweep.runs
        rows.append(_row(sweep.name, numbers, line.on_device))
        rows[-1] += [f"{100 * line.done / sweep.events:.0f}", span(line.seconds(typical))]
    rows.append(_row("all", total, max(line.on_device for line in found)))
    left = sum(line.seconds(typical) for line in found)
    rows[-1] += [f"{100 * done / events:.0f}", span(left)]
    return tables.markdown_table(header, rows)


def _row(name: str, numbers: Iterable[float], on_device: int) -> list[str]:
    runs, answers, evaluations, sent = numbers
    each = f"{answers / runs:,.0f}"
    return [name, f"{runs:,.0f}", each, f"{evaluations:,.0f}", size(sent), size(on_device)]
