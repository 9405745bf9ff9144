"""Panels: methods x aggregators x attacks x seeds on one data set, the shape of most
experiments.

Not an experiment itself: what runs the sweeps of `sweep_specs`, and the rows they leave.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.problem import answers_so_far
from farsign_jax.config.sweep_specs import PanelData, SweepSpec, prepare, sweep_specs
from farsign_jax.harness.plan import Sweep
from farsign_jax.harness.progress import Progress
from farsign_jax.io import files, processes, run_folder


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel that is ready to run.

    Attributes:
        name: tells its checkpoints from those of other panels in the same folder.
        told: columns of its rows beside the usual ones.
    """

    config: PanelConfig
    setting: PanelData
    jobs: Sequence[SweepSpec]
    name: str = ""
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def answers(self) -> int:
        runs = sum(len(job.runs) * job.points for job in self.jobs)
        return runs * len(self.config.seeds) * self.config.events

    def planned(
        self, folder: run_folder.RunFolder | None, max_parallel_runs: int | None
    ) -> Iterator[Sweep]:
        """The sweeps of its jobs."""
        config, setting = self.config, self.setting
        for job in self.jobs:
            own = job.run_batch(setting)
            label = job.method if job.lockstep else f"{job.method} {job.runs[0][1]}"
            name = f"{self.name}-{job.name}" if self.name else job.name
            evaluations, bits = job.cost(setting)
            yield Sweep(
                name=f"{self.name} {label}".strip(),
                program=job.program,
                batch=own,
                every=job.every(config, own),
                measure=setting.measure,
                delivery=job.delivery(config),
                max_parallel_runs=1 if job.one_seed_at_a_time else max_parallel_runs,
                checkpoint=folder.checkpoint(name) if folder else None,
                runs=len(job.runs) * job.points if job.lockstep else 1,
                evaluations=evaluations,
                bits=bits,
            )


def ready(
    config: PanelConfig,
    data_dir: str | None,
    multiples: Sequence[float] = (1.0,),
    **named: Any,
) -> Panel:
    """Its data and its sweeps; what cannot run is refused here."""
    panel = Panel(config, prepare(config, data_dir), sweep_specs(config, multiples), **named)
    for job in panel.jobs:
        job.run_batch(panel.setting).check(job.program, job.delivery(config))
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
    """Runs all jobs; hands the columns so far, [S, E, runs], to `keep` at each checkpoint.

    Returns what is left of each job.
    """
    config, ends = panel.config, []
    if folder:
        folder.claim()
    for job, each in zip(panel.jobs, panel.planned(folder, max_parallel_runs), strict=True):
        progress.start(each.name)
        side_by_side = each.runs * config.events / each.batch.schedules.shape[1]
        _, final = each.run(
            checkpoint=each.checkpoint,
            checkpoint_every=checkpoint_every,
            progress=lambda events, n=side_by_side: progress(n * events),
            on_checkpoint=lambda columns, job=job: keep(
                job, job.by_run(columns, len(config.seeds))
            ),
        )
        ends.append(final)
    return ends


def run(
    panels: Sequence[Panel], folder: run_folder.RunFolder | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Runs panels, one after the other.

    Returns tidy rows, one per method, aggregator, attack, seed and record. With a folder, each
    sweep has a checkpoint there, and the rows so far are written with it.
    """
    done: dict[tuple[str, str], list[dict[str, Any]]] = {}
    known = []
    progress = Progress(sum(panel.answers for panel in panels))
    for panel in panels:

        def keep(job, columns, panel=panel):
            rows = tidy(panel.config, job, panel.setting, columns)
            done[panel.name, job.name] = [row | panel.told for row in rows]
            if folder:
                folder.write_rows([row for rows in done.values() for row in rows])

        ends = sweep(panel, folder, keep, progress, **options)
        for job, final in zip(panel.jobs, ends, strict=True):
            known.append(staleness(job, panel.config.seeds, final) | panel.told)
    progress.close()
    if folder and processes.first():
        files.write_text(folder.path / "staleness.json", json.dumps(known, indent=1) + "\n")
    return [row for rows in done.values() for row in rows]


def staleness(job: SweepSpec, seeds: Sequence[int], final: sweeps.FinalRuns) -> dict[str, Any]:
    """Of each worker in each run: how many answers, how stale (`simulate.Staleness`)."""
    found = {n: a.tolist() for n, a in final.staleness._asdict().items() if n != "histogram"}
    counts = np.asarray(final.staleness.histogram)
    last = int(max(np.flatnonzero(counts.any(axis=(0, 1))), default=0))
    of = {"sweep": job.name, "seeds": np.repeat(seeds, len(counts) // len(seeds)).tolist()}
    return of | found | {"histogram": counts[..., : last + 1].tolist()}


def tidy(
    config: PanelConfig, job: SweepSpec, setting: PanelData, columns: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The columns of one sweep, [S, E, runs], as rows."""
    evaluations, bits = job.cost(setting)
    answers = answers_so_far(setting.of(job))  # [S, T]
    rows = []
    for number, (method, aggregator, attack) in enumerate(job.named):
        for lane, seed in enumerate(config.seeds):
            own = {name: column[lane, :, number] for name, column in columns.items()}
            for record in np.flatnonzero(~np.isnan(own["event"])):  # as far as it came
                values = {name: float(column[record]) for name, column in own.items()}
                event = int(values.pop("event"))
                row = {"method": method, "aggregator": aggregator, "attack": attack}
                row |= {"partition": config.partition, "arrivals": config.arrivals}
                count = int(answers[lane, event - 1])
                row |= {"seed": seed, "event": event, "evaluations": count * evaluations}
                row |= {"bits_up": count * bits} | values
                rows.append(row | {n: int(values[n]) for n in ("staleness", "nonfinite")})
    return rows
