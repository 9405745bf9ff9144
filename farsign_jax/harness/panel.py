"""Panels: methods x aggregators x attacks x seeds on one data set.

Most experiments have this shape. This module runs the sweeps of `sweep_specs`, and makes
rows of what they record.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.problem import answers_so_far
from farsign_jax.config.sweep_specs import PanelData, SweepSpec, prepare, sweep_specs
from farsign_jax.harness.plan import Sweep
from farsign_jax.harness.progress import Progress
from farsign_jax.harness.threads import in_threads
from farsign_jax.io import files, processes, run_folder


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel that is ready to run.

    Attributes:
        config: the configuration.
        data: what all methods and attacks of a seed share.
        specs: the sweeps.
        name: distinguishes its checkpoints from those of other panels in the same folder.
        labels: columns of its rows beside the usual ones.
    """

    config: PanelConfig
    data: PanelData
    specs: Sequence[SweepSpec]
    name: str = ""
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def answers(self) -> int:
        """Number of answers in all runs."""
        runs = sum(len(spec.runs) * spec.points for spec in self.specs)
        return runs * len(self.config.seeds) * self.config.events

    def planned(
        self, folder: run_folder.RunFolder | None, max_parallel_runs: int | None
    ) -> Iterator[Sweep]:
        """Yields the sweeps of the panel, as `--dry_run` shows them and `sweep` runs them."""
        config, data = self.config, self.data
        for spec in self.specs:
            own = spec.run_batch(data)
            name = f"{self.name}-{spec.name}" if self.name else spec.name
            evaluations, bits = spec.cost(data)
            yield Sweep(
                name=f"{self.name} {spec.label}".strip(),
                program=spec.program,
                batch=own,
                every=spec.every(config, own),
                measure=spec.measure(data),
                delivery=spec.delivery(config),
                max_parallel_runs=1 if spec.one_seed_at_a_time else max_parallel_runs,
                checkpoint=folder.checkpoint(name) if folder else None,
                runs=len(spec.runs) * spec.points if spec.lockstep else 1,
                evaluations=evaluations,
                bits=bits,
            )


def ready(
    config: PanelConfig,
    data_dir: str | None,
    multiples: Sequence[float] = (1.0,),
    **named: Any,
) -> Panel:
    """Prepares a panel: its data and its sweeps.

    Args:
        config: the configuration.
        data_dir: folder of data sets, or None.
        multiples: of the step sizes, each a run of its own.
        **named: fields of `Panel`.

    Raises:
        InvalidConfig: if some run cannot run as configured.
    """
    panel = Panel(config, prepare(config, data_dir), sweep_specs(config, multiples), **named)
    for spec in panel.specs:
        spec.run_batch(panel.data).check(spec.program, spec.delivery(config))
    return panel


def sweep(
    panel: Panel,
    folder: run_folder.RunFolder | None,
    keep: Callable[[SweepSpec, dict[str, np.ndarray]], Any],
    progress: Progress,
    *,
    checkpoint_every: int = 1000,
    max_parallel_runs: int | None = None,
) -> list[sweeps.FinalRuns]:
    """Runs all sweeps of a panel.

    Args:
        panel: ready to run.
        folder: keeps the checkpoints, or None.
        keep: called at each checkpoint with the sweep and its columns so far, [S, E, runs].
        progress: of all panels.
        checkpoint_every: events between two checkpoints.
        max_parallel_runs: as of `sweeps.sweep`.

    Returns:
        The end of the runs of each sweep.
    """
    if folder:
        folder.claim()
    pairs = zip(panel.specs, panel.planned(folder, max_parallel_runs), strict=True)
    return [_sweep_one(panel.config, *pair, keep, progress, checkpoint_every) for pair in pairs]


def _sweep_one(
    config: PanelConfig,
    spec: SweepSpec,
    each: Sweep,
    keep: Callable[[SweepSpec, dict[str, np.ndarray]], Any],
    progress: Progress,
    checkpoint_every: int,
) -> sweeps.FinalRuns:
    """Runs one sweep of a panel."""
    progress.start(each.name)
    side_by_side = each.runs * config.events / each.batch.schedules.shape[1]
    _, final = each.run(
        checkpoint=each.checkpoint,
        progress=lambda events: progress(side_by_side * events),
        on_checkpoint=lambda columns: keep(spec, spec.by_run(columns, len(config.seeds))),
        checkpoint_every=checkpoint_every,
    )
    return final


def run(
    panels: Sequence[Panel],
    folder: run_folder.RunFolder | None = None,
    *,
    threads: bool = False,
    on_end: Callable[[Panel, SweepSpec, sweeps.FinalRuns], Any] | None = None,
    checkpoint_every: int = 1000,
    max_parallel_runs: int | None = None,
) -> list[dict[str, Any]]:
    """Runs panels, one sweep after the other, or side by side.

    Args:
        panels: ready to run, with different names.
        folder: keeps a checkpoint of each sweep and the rows so far, to which new rows are
            appended at each checkpoint. The caller writes all rows in their final order.
        threads: whether as many sweeps run at a time as there are cores. `seconds`, which is
            measured, is then longer for each of them.
        on_end: called with the end of the runs of each sweep.
        checkpoint_every: as of `sweep`.
        max_parallel_runs: as of `sweeps.sweep`.

    Returns:
        Tidy rows, one per method, aggregator, attack, seed and record, in the order of panels,
        sweeps, runs and events.
    """
    made = {
        (panel.name, spec.name): SweepRows(panel.config, spec, panel.data, panel.labels)
        for panel in panels
        for spec in panel.specs
    }
    own = {name for panel in panels for name in panel.labels}
    columns = sorted(own.union(*map(_recorded, panels)))
    key = (*run_folder.KEY, *sorted(own))
    progress, lock = Progress(sum(panel.answers for panel in panels)), threading.Lock()

    def perform(job: tuple[Panel, SweepSpec, Sweep]) -> dict[str, Any]:
        panel, spec, each = job

        def keep(spec: SweepSpec, found: dict[str, np.ndarray]) -> None:
            with lock:
                new = made[panel.name, spec.name].add(found)
                if folder:
                    folder.append_rows(new, columns, key)

        final = _sweep_one(panel.config, spec, each, keep, progress, checkpoint_every)
        if on_end:
            on_end(panel, spec, final)
        return staleness(spec, panel.config.seeds, final) | panel.labels

    if folder:
        folder.claim()
    jobs = (
        (panel, *pair)
        for panel in panels
        for pair in zip(panel.specs, panel.planned(folder, max_parallel_runs), strict=True)
    )
    known = list(in_threads(perform, jobs) if threads else map(perform, jobs))
    progress.close()
    if folder and processes.first():
        files.write_json(folder.path / "staleness.json", known)
    return [row for rows in made.values() for row in rows.in_order()]


def _recorded(panel: Panel) -> set[str]:
    """Returns the columns that the sweeps of a panel record, beside those of every panel."""
    x0 = panel.data.one_by_one.problem.x0
    different = {spec.measure(panel.data) for spec in panel.specs}
    measured = (jax.eval_shape(measure, x0) for measure in different)
    return {"staleness", "nonfinite"}.union(*measured)


def staleness(spec: SweepSpec, seeds: Sequence[int], final: sweeps.FinalRuns) -> dict[str, Any]:
    """Returns how many answers each worker gave in each run, and how stale they were."""
    found = {n: a.tolist() for n, a in final.staleness._asdict().items() if n != "histogram"}
    counts = np.asarray(final.staleness.histogram)
    last = int(max(np.flatnonzero(counts.any(axis=(0, 1))), default=0))
    of = {"sweep": spec.name, "seeds": np.repeat(seeds, len(counts) // len(seeds)).tolist()}
    return of | found | {"histogram": counts[..., : last + 1].tolist()}


class SweepRows:
    """The rows of one sweep, made from its columns as they fill up."""

    def __init__(
        self,
        config: PanelConfig,
        spec: SweepSpec,
        data: PanelData,
        more: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            config: of the panel.
            spec: the sweep.
            data: of the panel.
            more: columns that all rows have beside the usual ones.
        """
        self._config, self._named, self._more = config, spec.named, dict(more or {})
        self._evaluations, self._bits = spec.cost(data)
        self._answers = answers_so_far(data.of(spec))  # [S, T]
        self._rows: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._known: np.ndarray | None = None  # bool[runs, S, E]

    def add(self, columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the rows that the columns so far, [S, E, runs], have more than before."""
        there = np.moveaxis(~np.isnan(columns["event"]), 2, 0)
        fresh = there if self._known is None else there & ~self._known
        self._known = there
        new = {}
        for run, seed, record in np.argwhere(fresh).tolist():
            values = {name: float(c[seed, record, run]) for name, c in columns.items()}
            new[run, seed, record] = self._row(run, seed, values)
        self._rows |= new
        return list(new.values())

    def in_order(self) -> list[dict[str, Any]]:
        """Returns all rows so far in the order of runs, seeds and records."""
        return [row for _, row in sorted(self._rows.items(), key=lambda item: item[0])]

    def _row(self, run: int, seed: int, values: dict[str, Any]) -> dict[str, Any]:
        config = self._config
        method, aggregator, attack = self._named[run]
        event = int(values.pop("event"))
        count = int(self._answers[seed, event - 1])
        row = {"method": method, "aggregator": aggregator, "attack": attack}
        row |= {"partition": config.partition, "arrivals": config.arrivals}
        row |= {"seed": config.seeds[seed], "event": event}
        row |= {"evaluations": count * self._evaluations, "bits_up": count * self._bits}
        row |= values | {name: int(values[name]) for name in ("staleness", "nonfinite")}
        return row | self._more


def tidy(
    config: PanelConfig, spec: SweepSpec, data: PanelData, columns: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Returns the columns of one sweep, [S, E, runs], as rows."""
    return SweepRows(config, spec, data).add(columns)
