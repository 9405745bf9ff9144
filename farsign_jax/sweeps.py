"""Many runs at once: one compiled program over seeds and hyper-parameters.

A *lane* is one run: a seed and a point of hyper-parameters. Lanes that share their structure
(method, attack, model, sizes) advance together under `vmap`; what differs in structure, the
attack above all, is a Python loop over sweeps. `build` is called inside the compiled program,
so hyper-parameters are tracers and a whole grid compiles once.

Between compiled segments a sweep measures, reports progress and writes a checkpoint. It can
be killed at any moment; called again with the same checkpoint file it continues where the
last one was written, and ends with the same bits as an uninterrupted run.
"""

import dataclasses
import functools
import glob
import hashlib
import operator
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import arrivals, attacks, results, simulate
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Problem, System, require
from farsign_jax.metrics import Measure
from farsign_jax.staleness import Staleness

Build = Callable[[Problem, Any], System]


class Final(NamedTuple):
    """What is left of L lanes in the end."""

    params: np.ndarray  # f32[L, d], or f32[L, runs, d] where a lane is several runs
    staleness: Staleness  # leaves [L, m, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """L runs of one structure.

    Attributes:
        problem: `data` shared by all lanes; rows i32[L, m, n], sizes i32[L, m], x0 f32[L, d].
        seeds: i32[L].
        hyper: hyper-parameters, leaves [L], handed to `build` one lane at a time.
        byzantine: bool[L, m], or bool[L, P, m] where it changes (`simulate.run`).
        schedules: i32[L, T] or i32[L, T, s]; stays on the host, like
        times: f64[L, T], virtual seconds of the events, or None.
    """

    problem: Problem
    seeds: Array
    hyper: Any
    byzantine: Array
    schedules: np.ndarray
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    @staticmethod
    def repeated(problem: Problem, count: int) -> Problem:
        """The `problem` of `count` lanes that share it."""
        spread = lambda a: jnp.broadcast_to(a, (count, *a.shape))  # noqa: E731
        return dataclasses.replace(
            problem,
            rows=spread(problem.rows),
            sizes=spread(problem.sizes),
            x0=spread(problem.x0),
        )

    def take(self, lanes: Any) -> "Lanes":
        """Some of the lanes (an index, a slice or an array of ids), data still shared."""
        pick = functools.partial(jax.tree.map, lambda a: a[lanes])
        p = self.problem
        rest = dataclasses.replace(p, rows=p.rows[lanes], sizes=p.sizes[lanes], x0=p.x0[lanes])
        return Lanes(
            rest,
            self.seeds[lanes],
            pick(self.hyper),
            self.byzantine[lanes],
            self.schedules[lanes],
            None if self.times is None else self.times[lanes],
        )

    def check(self, build: Build, delivery: str) -> None:
        """Builds every lane's system once outside the program: bad values fail here."""
        simulate.depth(delivery)  # refuses what is none
        for lane in range(len(self)):
            one = self.take(lane)
            system = build(one.problem, one.hyper)
            simulate.check_batch(system, one.problem.sizes)
            attacks.byzantine_mask(one.problem.num_workers, one.byzantine)
            schedule = arrivals.Schedule(one.schedules, one.times)
            arrivals.check_schedule(schedule, one.problem.num_workers)
        needed, there = lane_bytes(build, self, delivery), _memory()
        rule = f"a run needs {needed / 2**30:.3g} GiB, the device has {there / 2**30:.3g}"
        require(needed <= there, rule)


def _over_lanes(f: Callable, problem: Problem, *rest: Any) -> Any:
    """f of every lane; a single lane stays free of a batch axis, so its conditions branch."""
    per_lane = dataclasses.replace(problem, data=None, rows=0, sizes=0, x0=0)
    if len(problem.sizes) > 1:
        return jax.vmap(f, in_axes=(per_lane, *(0 for _ in rest)))(problem, *rest)
    one = {name: getattr(problem, name)[0] for name in ("rows", "sizes", "x0")}
    out = f(dataclasses.replace(problem, **one), *jax.tree.map(lambda a: a[0], rest))
    return jax.tree.map(lambda a: a[None], out)


@functools.partial(jax.jit, static_argnames=("build", "delivery"))
def _start(build, delivery, problem, seeds, hyper):
    def one(problem, seed, hyper):
        return simulate.start(build(problem, hyper), problem, keys_lib.split(seed), delivery)

    return _over_lanes(one, problem, seeds, hyper)


@functools.partial(jax.jit, static_argnames=("build", "delivery"), donate_argnames=("run",))
def _advance(build, delivery, problem, seeds, hyper, byzantine, run, schedule):
    def one(problem, seed, hyper, byzantine, run, schedule):
        system, keys = build(problem, hyper), keys_lib.split(seed)
        return simulate.advance(system, problem, byzantine, keys, delivery, run, schedule)

    return _over_lanes(one, problem, seeds, hyper, byzantine, run, schedule)


def lane_bytes(build: Build, lanes: Lanes, delivery: str = "fresh") -> int:
    """Bytes one lane keeps on the device while it runs, data and scratch apart."""
    one = lanes.take(slice(0, 1))
    shapes = jax.eval_shape(
        functools.partial(_start, build, delivery), one.problem, one.seeds, one.hyper
    )
    own = (one.problem.rows, one.problem.sizes, one.problem.x0, shapes)
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(own))


def _memory() -> int:
    """Bytes of the device, in use or not."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def lanes_that_fit(num_lanes: int, bytes_per_lane: int) -> int:
    """How many lanes may run side by side: half of the free memory is theirs."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(np.clip(free // 2 // max(bytes_per_lane, 1), 1, num_lanes))


def sweep(
    build: Build,
    lanes: Lanes,
    *,
    every: int,
    measure: Measure,
    delivery: str = "fresh",
    max_lanes: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    progress: Callable[[int], Any] | None = None,
    on_checkpoint: Callable[[dict[str, np.ndarray]], Any] | None = None,
    of: Callable[[simulate.Run], Any] = operator.attrgetter("server.params"),
) -> tuple[dict[str, np.ndarray], Final]:
    """Runs all lanes.

    Args:
        build: `(problem, hyper) -> System`; hashable by value, or one object for all calls:
            the program is compiled once for each.
        lanes: the runs.
        every: events between two records.
        measure: of params f32[lanes, d], for each record.
        delivery: "fresh" or "outstanding".
        max_lanes: lanes side by side; default: what fits into half of the free memory.
        checkpoint: file that makes the sweep resumable; None, not resumable.
        checkpoint_every: events between two checkpoints, rounded up to a record.
        progress: called with the number of run-events done since the last call.
        on_checkpoint: called with the columns so far, NaN where nothing is recorded yet.
        of: what of the runs, leaves [lanes, ...], `measure` is given.

    Returns:
        Columns [L, E] for E records a lane: `event`, `seconds` (a lane's share of the time
        its batch spent in the loop), `virtual_seconds` (where the lanes have times),
        `staleness` (largest since the last record), `nonfinite` (messages with NaN or inf in
        them) and the measures; and what is left in the end. Where a lane is several runs in
        lock-step, `nonfinite` and the measures are [L, E, runs].

    Raises:
        InvalidConfig: before the loop starts, on anything that cannot run as asked, or on a
            checkpoint of another sweep.
    """
    require(every > 0, f"need every > 0 events between records: got {every}")
    require(checkpoint_every > 0, f"need checkpoint_every > 0: got {checkpoint_every}")
    require(max_lanes is None or max_lanes > 0, f"need max_lanes > 0: got {max_lanes}")
    lanes.check(build, delivery)
    total = len(lanes)
    fit = max_lanes or lanes_that_fit(total, lane_bytes(build, lanes, delivery))
    batches = -(-total // min(fit, total))
    if checkpoint is not None and max_lanes is None:
        batches = _batches_begun(pathlib.Path(checkpoint)) or batches
    width = -(-total // batches)  # even batches: one program serves them all
    columns: dict[str, np.ndarray] = {}
    finals = []
    for batch in range(batches):
        ids = np.arange(batch * width, min((batch + 1) * width, total))

        def record(part, ids=ids):
            for name, column in part.items():
                empty = np.full((total, *column.shape[1:]), np.nan)
                whole = columns.setdefault(name, empty)
                whole[ids] = column[: len(ids)]
            if on_checkpoint:
                on_checkpoint(columns)

        path = None
        if checkpoint is not None:
            path = _batch_file(pathlib.Path(checkpoint), batch, batches)
        spare = np.full(width - len(ids), ids[-1])  # the last batch repeats its last lane
        final = _batch(
            build,
            lanes.take(np.concatenate([ids, spare])),
            every,
            measure,
            delivery,
            path,
            checkpoint_every,
            progress,
            record,
            len(ids),
            of,
        )
        finals.append(jax.tree.map(np.asarray, final))
    return columns, jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *finals)


def _batch_file(checkpoint: pathlib.Path, batch: int | str, batches: int | str) -> pathlib.Path:
    return checkpoint.with_name(f"{checkpoint.stem}-{batch}of{batches}{checkpoint.suffix}")


def _batches_begun(checkpoint: pathlib.Path) -> int | None:
    """Into how many batches an earlier call cut the lanes: free memory may have changed."""
    pattern = _batch_file(pathlib.Path(glob.escape(checkpoint.name)), 0, "*").name
    for path in sorted(checkpoint.parent.glob(pattern)):
        return int(path.stem.rpartition("of")[2])
    return None


def _fingerprint(build: Build, lanes: Lanes, delivery: str, every: int) -> np.ndarray:
    """u8[16], a digest of everything that a checkpoint depends on.

    A dataclass says all that it builds; of a function only the name is known.
    """
    program = repr(build) if dataclasses.is_dataclass(build) else getattr(build, "__name__", "")
    digest = hashlib.blake2b(f"{program} {delivery} {every}".encode(), digest_size=16)
    for leaf in jax.tree.leaves(lanes):
        digest.update(np.asarray(leaf).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _batch(
    build, lanes, every, measure, delivery, path, checkpoint_every, progress, record, count, of
) -> Final:
    """The lanes that run side by side, from their checkpoint to their last event.

    Hands the columns to `record` at every checkpoint. The first `count` lanes are not spare
    ones.
    """
    problem, width = lanes.problem, len(lanes)
    seeds, hyper = jnp.asarray(lanes.seeds), jax.tree.map(jnp.asarray, lanes.hyper)
    byzantine = jnp.asarray(lanes.byzantine)
    schedules = lanes.schedules
    events = schedules.shape[1]
    num_records = -(-events // every)
    begin = _start(build, delivery, problem, seeds, hyper)

    shapes = jax.eval_shape(lambda run: measure(of(run)), begin)
    inner = begin.server.params.shape[1:-1]
    sizes = {"event": (), "seconds": (), "staleness": (), "nonfinite": inner}
    if lanes.times is not None:
        sizes["virtual_seconds"] = ()
    sizes |= {name: value.shape[1:] for name, value in sorted(shapes.items())}
    columns = {n: np.full((width, num_records, *size), np.nan) for n, size in sizes.items()}
    done = 0
    inputs = None if path is None else _fingerprint(build, lanes, delivery, every)
    if path is not None and path.exists():
        saved = results.load_state(path, (inputs, np.zeros((), np.int64), columns, begin))
        require(
            saved[0] == inputs,
            f"{path} belongs to a sweep of another method, attack, data, seeds or settings",
        )
        done, columns = int(saved[1]), jax.tree.map(np.array, saved[2])
        begin = jax.tree.map(jnp.asarray, saved[3])
        if progress:
            progress(done * count)

    args = (build, delivery, problem, seeds, hyper, byzantine)
    for chunk in simulate.chunks(schedules, every, done, axis=1):  # before the clock runs
        _advance.lower(*args, begin, chunk).compile()
    step = functools.partial(_advance, *args)
    run = begin
    seconds = columns["seconds"][0, -(-done // every) - 1] if done else 0.0
    before = done
    for end, run, info, took in simulate.drive(step, begin, schedules, every, done, axis=1):
        seconds += took / width
        row = {
            "event": end,
            "seconds": seconds,
            "staleness": np.asarray(info["staleness"]).reshape(width, -1).max(axis=1),
            "nonfinite": np.asarray(info["nonfinite"]).sum(axis=1),
        }
        if lanes.times is not None:
            row["virtual_seconds"] = lanes.times[:, end - 1]
        row |= {name: np.asarray(v) for name, v in measure(of(run)).items()}
        for name, value in row.items():
            columns[name][:, -(-end // every) - 1] = value
        due = end // checkpoint_every > (end - every) // checkpoint_every or end == events
        if path is not None and due:
            results.save_state(path, (inputs, np.asarray(end), columns, run))
        if due:
            record(columns)
        if progress:
            progress((end - before) * count)
        before = end
    if done == events:  # nothing was left to do
        record(columns)
    return Final(run.server.params, run.staleness)
