"""Cells: the points of a figure, each a method in a setting of its own, run side by side.

Cells that differ in their data alone (schedules, liars, partitions, seeds, step sizes) share
one program and advance together; the others are a loop over programs.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import jobs, panel, plots
from farsign_jax.harness.flags import FLAGS
from farsign_jax.harness.plan import Sweep
from farsign_jax.harness.progress import Progress
from farsign_jax.io import files, run_folder, tables
from farsign_jax.simulation.staleness import Staleness

MULTIPLES = (1 / 16, 1 / 4, 1.0)


TARGET = 0.8


class Cell(NamedTuple):
    """One point of a figure: a method in a setting, with all seeds and step sizes."""

    facet: str  # which of the figure's plots
    x: Any
    config: PanelConfig  # of one method, one attack and one aggregator
    line: str = ""  # what it is called, if not by its method


class Figure(NamedTuple):
    """What is shown of its cells."""

    cells: Callable[[PanelConfig], Iterable[Cell]]
    title: str
    x: str
    y: str = "test accuracy, %"  # or virtual seconds to `TARGET`

    @property
    def of_time(self) -> bool:
        return "seconds" in self.y


class Run(NamedTuple):
    """A cell and what its lanes need."""

    cell: Cell
    job: jobs.Job
    setting: jobs.PanelData
    lanes: sweeps.RunBatch

    @property
    def delivery(self) -> str:
        return self.job.delivery(self.cell.config)


class Group(NamedTuple):
    """Cells of one program, and the lanes of all of them."""

    runs: list[Run]
    lanes: sweeps.RunBatch

    @property
    def answers(self) -> int:
        return len(self.lanes) * self.runs[0].cell.config.events


def prepare(cells: Iterable[Cell], data_dir: str | None) -> list[Group]:
    """Builds all runs; what cannot run is refused here."""
    settings: dict[PanelConfig, jobs.PanelData] = {}
    groups: dict[Any, list[Run]] = {}
    for cell in cells:
        run = _run_of(cell, data_dir, settings)
        shape, clock = run.lanes.schedules.shape[1:], run.lanes.times is not None
        groups.setdefault((run.job.program, run.delivery, shape, clock), []).append(run)
    joined = [Group(runs, _joined([run.lanes for run in runs])) for runs in groups.values()]
    for runs, lanes in joined:
        lanes.check(runs[0].job.program, runs[0].delivery)
    return joined


def _run_of(
    cell: Cell, data_dir: str | None, settings: dict[PanelConfig, jobs.PanelData]
) -> Run:
    (job,) = jobs.jobs_of(cell.config, MULTIPLES)
    job = dataclasses.replace(job, program=job.builds[0])  # a single run: no lock-step
    methods = cell.config.methods if job.in_rounds else ("async_sgd",)
    same = {"attacks": ("none",), "delivery": "fresh", "aggregators": ("mean",)}
    data = dataclasses.replace(cell.config, methods=methods, **same)  # what decides the data
    if data not in settings:
        settings[data] = jobs.prepare(data, data_dir)
    return Run(cell, job, settings[data], job.lanes(settings[data]))


def _joined(every: list[sweeps.RunBatch]) -> sweeps.RunBatch:
    """Lanes one after the other."""
    width = max(lanes.problem.rows.shape[2] for lanes in every)

    def pad(rows):
        return jnp.pad(rows, ((0, 0), (0, 0), (0, width - rows.shape[2])))

    problem = dataclasses.replace(
        every[0].problem,  # its data are everybody's
        rows=jnp.concatenate([pad(lanes.problem.rows) for lanes in every]),
        sizes=jnp.concatenate([lanes.problem.sizes for lanes in every]),
        x0=jnp.concatenate([lanes.problem.x0 for lanes in every]),
    )
    rest = [(x.seeds, x.hyper, x.byzantine, x.schedules, x.times) for x in every]
    return sweeps.RunBatch(problem, *jax.tree.map(lambda *a: np.concatenate(a), *rest))


def planned(name: str, number: int, group: Group, folder: run_folder.RunFolder) -> Sweep:
    """The sweep of a group, the `number`-th of a figure."""
    first, lanes = group.runs[0], group.lanes
    config, events = first.cell.config, lanes.schedules.shape[1]
    evaluations, bits = first.job.cost(first.setting)
    return Sweep(
        name=f"{name}: {first.job.method}",
        program=first.job.program,
        lanes=lanes,
        every=max(config.eval_every * events // config.events, 1),
        measure=first.setting.measure,
        delivery=first.delivery,
        max_parallel_runs=FLAGS.max_parallel_runs,
        checkpoint=folder.checkpoint(f"{name}-{number}"),
        runs=1,
        evaluations=evaluations,
        bits=bits,
    )


def run(
    name: str, groups: list[Group], folder: run_folder.RunFolder, progress: Progress
) -> list[dict[str, Any]]:
    """Runs the cells of a figure; the same folder continues. Returns tidy rows."""
    rows = []
    for number, (runs, lanes) in enumerate(groups):
        each = planned(name, number, groups[number], folder)
        progress.start(each.name)
        share = runs[0].cell.config.events / lanes.schedules.shape[1]
        columns, final = each.run(
            checkpoint=each.checkpoint,
            checkpoint_every=FLAGS.checkpoint_every,
            progress=lambda count, share=share: progress(count * share),
        )
        begin = 0
        for one in runs:
            own = slice(begin, begin + len(one.lanes))
            begin = own.stop
            staleness = jax.tree.map(lambda a, own=own: a[own], final.staleness)
            rows += _tidy(name, one, {n: c[own] for n, c in columns.items()}, staleness)
    return rows


_TOLD = ("timing_attack", "rounds", "byzantine_placement", "byzantine")


def _tidy(
    name: str, run: Run, columns: dict[str, np.ndarray], staleness: Staleness
) -> list[dict[str, Any]]:
    """The rows of one cell: every seed and step size."""
    cell, config, job = run.cell, run.cell.config, run.job
    told: dict[str, Any] = {"figure": name, "facet": cell.facet, "x": cell.x}
    told |= {"line": cell.line or job.method, "delivery": run.delivery}
    told |= {option: getattr(config, option) for option in _TOLD}
    every, rows = job.by_run(columns, len(config.seeds)), []
    for h, step in enumerate(job.hyper["step_size"][0].tolist()):
        point = {n: column[..., h : h + 1] for n, column in every.items()}
        for row in panel.tidy(config, job, run.setting, point):
            lane = config.seeds.index(row["seed"]) * job.points + h
            stale = {
                "largest_staleness": int(np.max(staleness.largest[lane])),
                "mean_square_staleness": float(np.mean(staleness.mean_square[lane])),
            }
            rows.append(row | told | stale | {"step_size": step})
    return rows


def _in_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Only what happens while all of a column still run: who waits is given no more time."""

    def column(row):
        return row["facet"], row["x"], row["seed"]

    ends: dict[tuple, dict[str, float]] = {}
    for row in rows:
        lines, now = ends.setdefault(column(row), {}), row.get("virtual_seconds", 0.0)
        lines[row["line"]] = max(lines.get(row["line"], 0.0), now)
    horizon = {key: min(lines.values()) for key, lines in ends.items()}
    return [row for row in rows if row.get("virtual_seconds", 0.0) <= horizon[column(row)]]


def shown(rows: list[dict[str, Any]], of_time: bool) -> list[dict[str, Any]]:
    """One entry per cell: its best step size by the mean over seeds."""
    cells: dict[tuple, dict[float, list[dict]]] = {}
    for row in rows if of_time else _in_time(rows):
        by_step = cells.setdefault((row["facet"], row["x"], row["line"]), {})
        by_step.setdefault(row["step_size"], []).append(row)
    entries = []
    for (facet, x, line), by_step in cells.items():
        values = {step: _value(mine, of_time) for step, mine in by_step.items()}
        step = (min if of_time else max)(values, key=lambda s: values[s])
        mine = by_step[step]
        squares = [row["mean_square_staleness"] for row in mine]
        entry = {"facet": facet, "x": x, "line": line, "value": values[step]}
        entry |= {"step_size": step, "typical_staleness": float(np.mean(squares)) ** 0.5}
        entries.append(
            entry | {"largest_staleness": max(row["largest_staleness"] for row in mine)}
        )
    return entries


def _value(rows: list[dict[str, Any]], of_time: bool) -> float:
    """Final accuracy in percent, or when the mean over seeds first reached the target."""

    def curve(column):
        seeds: dict[int, list[float]] = {}
        for row in rows:
            seeds.setdefault(row["seed"], []).append(row[column])
        return np.mean(list(seeds.values()), axis=0)

    if not of_time:
        last = {row["seed"]: row["test_accuracy"] for row in rows}
        return 100 * float(np.mean(list(last.values())))
    accuracy = curve("test_accuracy")
    reached = np.flatnonzero(accuracy >= TARGET)
    return float(curve("virtual_seconds")[reached[0]]) if len(reached) else np.inf


def show(
    name: str, figure: Figure, rows: list[dict[str, Any]], folder: run_folder.RunFolder
) -> None:
    """Writes and prints NAME.md, draws NAME.png and .pdf."""
    entries, texts = shown(rows, figure.of_time), []
    for facet in dict.fromkeys(entry["facet"] for entry in entries):
        mine = [entry for entry in entries if entry["facet"] == facet]
        xs = list(dict.fromkeys(entry["x"] for entry in mine))
        lines = list(dict.fromkeys(entry["line"] for entry in mine))
        cells = {(e["line"], e["x"]): f"{e['value']:.1f}" for e in mine}
        cells = {key: "never" if text == "inf" else text for key, text in cells.items()}
        body = [[line, *(cells.get((line, x), "") for x in xs)] for line in lines]
        first = {e["x"]: e for e in mine if e["line"] == lines[0]}
        for kind, text in (("typical", "root mean square"), ("largest", "largest")):
            of = [f"{first[x][f'{kind}_staleness']:.0f}" for x in xs]
            body.append([f"{text} staleness of {lines[0]}", *of])
        texts.append(f"{facet}\n\n" + tables.markdown_table([figure.x, *map(str, xs)], body))
    table = f"# {figure.title}\n\n{figure.y}\n\n" + "\n".join(texts)
    files.write_text(folder.path / f"{name}.md", table)
    print(f"\n{table}")
    draw = plots.heatmap if isinstance(entries[0]["x"], str) else plots.lines
    draw(entries, folder.path / f"{name}.png", figure.title, figure.x, figure.y)
