"""Figures whose points are methods, each in a setting of its own, run side by side.

Cells that differ in their data alone (schedules, Byzantine workers, partitions, seeds, step
sizes) share one program and advance together; the others are a loop over programs.

The step size that is shown is chosen by the accuracy on the fraction `validation` of the
training set; if that is 0, by what is shown itself.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import PanelData, SweepSpec, sweep_specs
from farsign_jax.config.sweep_specs import prepare as prepare_data
from farsign_jax.harness import panel, plots, summary
from farsign_jax.harness.flags import FLAGS, is_short
from farsign_jax.harness.plan import Sweep
from farsign_jax.harness.progress import Progress
from farsign_jax.harness.threads import in_threads
from farsign_jax.io import files, run_folder, tables
from farsign_jax.simulation.staleness import Staleness

MULTIPLES = (1 / 16, 1 / 4, 1.0)  # of the step size of each method
TARGET = 0.8  # accuracy
_JUDGE = ("validation_accuracy", "test_accuracy")  # what decides between step sizes


class Cell(NamedTuple):
    """One point of a figure: a method in a setting, with all seeds and step sizes."""

    facet: str  # which of the figure's plots
    x: Any
    config: PanelConfig  # of one method, one attack and one aggregator
    line: str = ""  # its name in the figure, if not that of its method


class Figure(NamedTuple):
    """What a figure shows of its cells."""

    cells: Callable[[PanelConfig], Iterable[Cell]]
    title: str
    x: str
    y: str = "test accuracy, %"  # or virtual seconds to `TARGET`

    @property
    def of_time(self) -> bool:
        return "seconds" in self.y


class Run(NamedTuple):
    """A cell and its part of a batch."""

    cell: Cell
    spec: SweepSpec
    data: PanelData
    batch: sweeps.RunBatch

    @property
    def delivery(self) -> str:
        return self.spec.delivery(self.cell.config)


class Group(NamedTuple):
    """Cells of one program, and the batch of all their runs."""

    runs: list[Run]
    batch: sweeps.RunBatch

    @property
    def answers(self) -> int:
        return len(self.batch) * self.runs[0].cell.config.events


def prepare(cells: Iterable[Cell], data_dir: str | None) -> list[Group]:
    """Builds all runs.

    Raises:
        InvalidConfig, DataError: on what cannot run.
    """
    known: dict[PanelConfig, PanelData] = {}
    groups: dict[Any, list[Run]] = {}
    for cell in cells:
        run = _run_of(cell, data_dir, known)
        shape, clock = run.batch.schedules.shape[1:], run.batch.times is not None
        problem = tuple(getattr(cell.config, n) for n in ("dataset", "model", "subspace"))
        alike = run.spec.program, run.delivery, shape, clock, problem
        groups.setdefault(alike, []).append(run)
    joined = [Group(runs, _joined([run.batch for run in runs])) for runs in groups.values()]
    for runs, batch in joined:
        batch.check(runs[0].spec.program, runs[0].delivery)
    return joined


def _run_of(cell: Cell, data_dir: str | None, known: dict[PanelConfig, PanelData]) -> Run:
    (spec,) = sweep_specs(cell.config, MULTIPLES)
    spec = dataclasses.replace(spec, program=spec.builds[0])  # a single run: no lock-step
    methods = cell.config.methods if spec.in_rounds else ("async_sgd",)
    same = {"attacks": ("none",), "delivery": "fresh", "aggregators": ("mean",)}
    config = dataclasses.replace(cell.config, methods=methods, **same)  # what decides the data
    if config not in known:
        known[config] = prepare_data(config, data_dir, test_too=True)
    return Run(cell, spec, known[config], spec.run_batch(known[config]))


def _joined(batches: list[sweeps.RunBatch]) -> sweeps.RunBatch:
    """The runs of all batches, one after the other."""
    width = max(batch.problem.rows.shape[2] for batch in batches)

    def pad(rows: Any) -> Any:
        return jnp.pad(rows, ((0, 0), (0, 0), (0, width - rows.shape[2])))

    problem = dataclasses.replace(
        batches[0].problem,  # all of them have the same examples
        rows=jnp.concatenate([pad(batch.problem.rows) for batch in batches]),
        sizes=jnp.concatenate([batch.problem.sizes for batch in batches]),
        x0=jnp.concatenate([batch.problem.x0 for batch in batches]),
    )
    rest = [(x.seeds, x.hyper, x.byzantine, x.schedules, x.times) for x in batches]
    return sweeps.RunBatch(problem, *jax.tree.map(lambda *a: np.concatenate(a), *rest))


def planned(name: str, number: int, group: Group, folder: run_folder.RunFolder) -> Sweep:
    """The sweep of a group, the `number`-th of a figure."""
    first = group.runs[0]
    evaluations, bits = first.spec.cost(first.data)
    return Sweep(
        name=f"{name}: {first.spec.method}",
        program=first.spec.program,
        batch=group.batch,
        every=first.spec.every(first.cell.config, group.batch),
        measure=first.spec.measure(first.data),
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

    def perform(number: int) -> list[dict[str, Any]]:
        rows, (runs, batch) = [], groups[number]
        each = planned(name, number, groups[number], folder)
        progress.start(each.name)
        per_event = runs[0].cell.config.events / batch.schedules.shape[1]
        columns, final = each.run(
            checkpoint=each.checkpoint,
            checkpoint_every=FLAGS.checkpoint_every,
            progress=lambda count: progress(count * per_event),
        )
        begin = 0
        for one in runs:
            own = slice(begin, begin + len(one.batch))
            begin = own.stop
            staleness = jax.tree.map(operator.itemgetter(own), final.staleness)
            rows += _tidy(name, one, {n: c[own] for n, c in columns.items()}, staleness)
        return rows

    numbers = range(len(groups))
    done = in_threads(perform, numbers) if is_short() else map(perform, numbers)
    return [row for rows in done for row in rows]


_SHOWN = ("timing_attack", "rounds", "byzantine_placement", "byzantine")


def _tidy(
    name: str, run: Run, columns: dict[str, np.ndarray], staleness: Staleness
) -> list[dict[str, Any]]:
    """The rows of one cell: every seed and step size."""
    cell, config, spec = run.cell, run.cell.config, run.spec
    place: dict[str, Any] = {"figure": name, "facet": cell.facet, "x": cell.x}
    place |= {"line": cell.line or spec.method, "delivery": run.delivery}
    place |= {option: getattr(config, option) for option in _SHOWN}
    by_run, rows = spec.by_run(columns, len(config.seeds)), []
    for h, step in enumerate(spec.hyper["step_size"][0].tolist()):
        point = {n: column[..., h : h + 1] for n, column in by_run.items()}
        for row in panel.tidy(config, spec, run.data, point):
            number = config.seeds.index(row["seed"]) * spec.points + h
            stale = {
                "largest_staleness": int(np.max(staleness.largest[number])),
                "mean_square_staleness": float(np.mean(staleness.mean_square[number])),
            }
            rows.append(row | place | stale | {"step_size": step})
    return rows


def _in_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows up to the virtual time at which the first method of a column ends, so that no
    method is given more time than another one."""

    def column(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["facet"], row["x"], row["seed"]

    ends: dict[tuple, dict[str, float]] = {}
    for row in rows:
        lines, now = ends.setdefault(column(row), {}), row.get("virtual_seconds", 0.0)
        lines[row["line"]] = max(lines.get(row["line"], 0.0), now)
    horizon = {key: min(lines.values()) for key, lines in ends.items()}
    return [row for row in rows if row.get("virtual_seconds", 0.0) <= horizon[column(row)]]


def shown(rows: list[dict[str, Any]], of_time: bool) -> list[dict[str, Any]]:
    """One entry per cell: its best step size by the mean over seeds, on held-out examples if
    there are any."""
    cells: dict[tuple, dict[float, list[dict]]] = {}
    for row in rows if of_time else _in_time(rows):
        by_step = cells.setdefault((row["facet"], row["x"], row["line"]), {})
        by_step.setdefault(row["step_size"], []).append(row)
    entries = []
    for (facet, x, line), by_step in cells.items():
        values = {step: _value(mine, of_time) for step, mine in by_step.items()}
        merits = {step: _value(mine, of_time, _JUDGE) for step, mine in by_step.items()}
        step = (min if of_time else max)(merits, key=lambda s: merits[s])
        mine = by_step[step]
        squares = [row["mean_square_staleness"] for row in mine]
        entry = {"facet": facet, "x": x, "line": line, "value": values[step]}
        entry |= {"step_size": step, "typical_staleness": float(np.mean(squares)) ** 0.5}
        entry["diverged"] = _diverged(mine)
        entries.append(
            entry | {"largest_staleness": max(row["largest_staleness"] for row in mine)}
        )
    return entries


def _value(
    rows: list[dict[str, Any]], of_time: bool, columns: tuple[str, ...] = ("test_accuracy",)
) -> float:
    """The final accuracy in percent, or when the mean over seeds first reached the target.

    The accuracy is the first of the columns that the rows have.
    """
    measured = next(column for column in columns if column in rows[0])

    def curve(column: str) -> np.ndarray:
        seeds: dict[int, list[float]] = {}
        for row in rows:
            seeds.setdefault(row["seed"], []).append(row[column])
        return np.mean(list(seeds.values()), axis=0)

    if not of_time:
        last = {row["seed"]: row[measured] for row in rows}
        return 100 * float(np.mean(list(last.values())))
    accuracy = curve(measured)
    reached = np.flatnonzero(accuracy >= TARGET)
    return float(curve("virtual_seconds")[reached[0]]) if len(reached) else np.inf


def _diverged(rows: list[dict[str, Any]]) -> str:
    """What the table says of runs that have diverged (`summary.mark`)."""
    last = {row["seed"]: row.get("test_loss", 0.0) for row in rows}
    losses = np.array([*last.values()])[:, None]
    return summary.mark(summary.count_diverged(losses), len(last))


def _cell(entry: dict[str, Any]) -> str:
    text = f"{entry['value']:.1f}" if np.isfinite(entry["value"]) else "never"
    return text + entry["diverged"]


def show(
    name: str, figure: Figure, rows: list[dict[str, Any]], folder: run_folder.RunFolder
) -> None:
    """Writes and prints NAME.md, draws NAME.png and .pdf."""
    entries, texts = shown(rows, figure.of_time), []
    for facet in dict.fromkeys(entry["facet"] for entry in entries):
        mine = [entry for entry in entries if entry["facet"] == facet]
        xs = list(dict.fromkeys(entry["x"] for entry in mine))
        lines = list(dict.fromkeys(entry["line"] for entry in mine))
        cells = {(e["line"], e["x"]): _cell(e) for e in mine}
        body = [[line, *(cells.get((line, x), "") for x in xs)] for line in lines]
        first = {e["x"]: e for e in mine if e["line"] == lines[0]}
        for kind, text in (("typical", "root mean square"), ("largest", "largest")):
            of = [f"{first[x][f'{kind}_staleness']:.0f}" if x in first else "" for x in xs]
            body.append([f"{text} staleness of {lines[0]}", *of])
        texts.append(f"{facet}\n\n" + tables.markdown_table([figure.x, *map(str, xs)], body))
    chosen = "the step sizes of which are chosen on held-out examples"
    what = f"{figure.y}, {chosen}" if "validation_accuracy" in rows[0] else figure.y
    table = f"# {figure.title}\n\n{what}\n\n" + "\n".join(texts)
    files.write_text(folder.path / f"{name}.md", table)
    print(f"\n{table}")
    draw = plots.heatmap if isinstance(entries[0]["x"], str) else plots.lines
    draw(entries, folder.path / f"{name}.png", figure.title, figure.x, figure.y)
