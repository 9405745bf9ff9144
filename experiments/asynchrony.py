"""What delays, stragglers, uneven arrivals and liars with a clock do to each server.

    python -m experiments.asynchrony                 all panels, about 15 minutes on two cores
    python -m experiments.asynchrony --panels a      one of them

    a   accuracy against staleness: 0, 1, 4 or 16 questions open at each of 25 workers
    b   virtual seconds to 80 % against stragglers: who waits, who does not
    c   heavy-tailed service times, with finite and with infinite second moment of staleness
    d   uneven arrivals, with and without weights; liars that answer more often than they say
    e   attacks on time, together with lies, against every server and FAR-SIGN's defences

On the embedded digits. Every method is run with the same few multiples of its step size, and
its best one is shown, so that nobody loses for a step that suits fresh answers only. Writes
results.csv and results.json (every run), and for each panel X.md (what is shown) and
X.png/pdf, under --out.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import figures, panel
from experiments.command import FLAGS, configure, folder_for, main
from experiments.config import Config
from farsign_jax import results, sweeps
from farsign_jax.base import lookup

flags.DEFINE_list("panels", ["a", "b", "c", "d", "e"], "Which ones.")

CONFIG = Config(
    methods=(
        "far_sign",
        "async_sgd",
        "async_zo_sgd",
        "fedbuff",
        "kardam",
        "zeno_pp",
        "aflguard",
        "basgd",
    ),
    aggregators=("median",),
    attacks=("sign_flip:scale=10",),
    seeds=(0, 1),
    dataset="mnist_subset",
    events=2000,
    eval_every=100,
    delivery="outstanding",
)
MULTIPLES = (1 / 16, 1 / 4, 1.0)
TARGET = 0.8


class Cell(NamedTuple):
    """One point of a figure: a method in a setting, with all seeds and step sizes."""

    facet: str  # which of the panel's plots
    x: Any
    config: Config  # of one method and one attack
    line: str = ""  # what it is called, if not by its method


def _each(config: Config, **changes: Any) -> Iterable[Config]:
    """The methods of a config, one by one."""
    for method in config.methods:
        yield dataclasses.replace(config, methods=(method,), **changes)


def _staleness(base: Config) -> Iterable[Cell]:
    for depth, liars in itertools.product((0, 1, 4, 16), (0, base.byzantine)):
        delivery = f"outstanding:{depth}" if depth else "fresh"
        stale = depth * base.workers - 1 if depth else 0
        facet = f"{liars} of {base.workers} lie ({base.attacks[0]})" if liars else "nobody lies"
        for config in _each(base, delivery=delivery, byzantine=liars):
            yield Cell(facet, stale, config)


def _stragglers(base: Config) -> Iterable[Cell]:
    waiting = ("sgd", "sign_sgd_mv")
    facet = "one answer in ten is a straggler"
    for slow in (1, 3, 10, 30, 100):
        told = {"arrivals": f"bimodal:slow={slow},share=0.1", "byzantine": 0}
        for config in _each(base, **told):
            yield Cell(facet, slow, config)
        for method in waiting:
            config = dataclasses.replace(base, methods=(method,), delivery="fresh", **told)
            yield Cell(facet, slow, config, f"{method}, waits for all")
        fastest = f"fastest:wait={4 * base.workers // 5}"
        config = dataclasses.replace(base, methods=("sgd",), delivery="fresh", **told)
        config = dataclasses.replace(config, rounds=fastest)
        yield Cell(facet, slow, config, "sgd, waits for 4 of 5")


def _heavy_tails(base: Config) -> Iterable[Cell]:
    for shape in (5, 3, 2.5, 2, 1.5, 1.1):
        for config in _each(base, arrivals=f"pareto:shape={shape}", byzantine=0):
            yield Cell("nobody lies", shape, config)


_WEIGHTED = ("far_sign", "far_sign:arrival_rates=known", "far_sign:arrival_rates=estimate")
_CAPPED = "far_sign:rate_cap=1.2"


def _uneven(base: Config) -> Iterable[Cell]:
    fast = base.workers // 5
    told = {"partition": "two_camps", "byzantine": 0, "events": 2 * base.events}
    told |= {"methods": (*_WEIGHTED, "async_sgd")}
    skewed = dataclasses.replace(base, **told)
    for spread in (1, 4, 16, 64):
        for config in _each(skewed, arrivals=f"exponential:spread={spread},fast={fast}"):
            yield Cell(f"{fast} fast workers know half of the labels", spread, config)
    told = {"attacks": ("sign_flip",), "methods": (*_WEIGHTED, _CAPPED)}
    flooded = dataclasses.replace(base, **told)
    for rate in (1, 2, 4, 8, 16):
        told = {"arrivals": "exponential", "timing": f"flood:rate={rate}"}
        for config in _each(flooded, **told, events=_events(base, rate)):
            yield Cell("liars flood, and say they do not", rate, config)


def _events(base: Config, rate: float) -> int:
    """As many virtual seconds where liars are so many times as fast as the others."""
    honest = base.workers - base.byzantine
    return round(base.events * (honest + rate * base.byzantine) / base.workers)


def _timing(base: Config) -> Iterable[Cell]:
    rules = [m for m in base.methods if m != "async_zo_sgd"]  # which replay cannot read
    rules = ["far_sign", _CAPPED, "far_sign:arrival_rates=estimate", *rules, "sgd"]
    base = dataclasses.replace(
        base, arrivals="exponential", methods=tuple(dict.fromkeys(rules))
    )
    for lie in ("sign_flip", "replay"):
        for name, rate, told in (
            ("", 1, {}),
            (" + flood", 5, {"timing": "flood:rate=5"}),
            (" + flood, one buffer", 5, {"timing": "flood:rate=5", "liars": "one_buffer"}),
            (" + burst", 1, {"timing": "burst:silence=20,size=20"}),
            (" + max_stale", 0, {"timing": "max_stale:lag=20"}),
            (" + withhold", 0, {"timing": "withhold"}),
            (" + withhold, one buffer", 0, {"timing": "withhold", "liars": "one_buffer"}),
        ):
            if lie == "replay" and name not in ("", " + flood"):
                continue  # who hardly says anything does not repeat itself
            told = {"attacks": (lie,), "events": _events(base, rate)} | told
            for config in _each(base, **told):
                waits = config.in_rounds
                delivery = "fresh" if waits else base.delivery
                wait = f"fastest:wait={base.workers - base.byzantine}"
                config = dataclasses.replace(config, delivery=delivery, rounds=wait)
                line = "sgd, waits for 4 of 5" if waits else ""
                yield Cell("accuracy, %", lie + name, config, line)


class Panel(NamedTuple):
    cells: Callable[[Config], Iterable[Cell]]
    title: str
    x: str
    y: str = "test accuracy, %"


PANELS = {
    "a": Panel(_staleness, "Accuracy against staleness", "mean staleness, updates"),
    "b": Panel(
        _stragglers,
        "Who waits for stragglers",
        "times as slow as the others",
        f"virtual seconds to {TARGET:.0%}",
    ),
    "c": Panel(
        _heavy_tails,
        "Heavy tails: below 2, staleness has no second moment",
        "shape of the Pareto service times",
    ),
    "d": Panel(_uneven, "Uneven arrivals", "times as fast as the others"),
    "e": Panel(_timing, "Lies and attacks on time", "attack"),
}


class Run(NamedTuple):
    """A cell and what its lanes need."""

    cell: Cell
    job: panel.Job
    setting: panel.Setting
    lanes: sweeps.Lanes


def _run_of(cell: Cell, data_dir: str | None, known: dict[Config, panel.Setting]) -> Run:
    config = cell.config
    (job,) = panel.jobs_of(config, MULTIPLES)
    job = dataclasses.replace(job, program=job.builds[0])  # one aggregator: no lock-step
    same = {"attacks": ("none",), "delivery": "fresh", "aggregators": ("mean",)}
    methods = config.methods if config.in_rounds else ("async_sgd",)
    data = dataclasses.replace(config, methods=methods, **same)
    if data not in known:
        known[data] = panel.prepare(data, data_dir)
    return Run(cell, job, known[data], job.lanes(known[data]))


def _joined(runs: list[Run]) -> sweeps.Lanes:
    """The lanes of several cells, one after the other."""
    every = [run.lanes for run in runs]
    first, width = every[0], max(lanes.problem.rows.shape[2] for lanes in every)

    def pad(rows):
        return jnp.pad(rows, ((0, 0), (0, 0), (0, width - rows.shape[2])))

    def join(pick):
        return jax.tree.map(lambda *a: np.concatenate(a), *map(pick, every))

    problem = dataclasses.replace(
        first.problem,
        rows=jnp.concatenate([pad(lanes.problem.rows) for lanes in every]),
        sizes=jnp.concatenate([lanes.problem.sizes for lanes in every]),
        x0=jnp.concatenate([lanes.problem.x0 for lanes in every]),
    )
    rest = (join(lambda lanes, n=n: getattr(lanes, n)) for n in _PER_LANE)
    return sweeps.Lanes(problem, *rest)


_PER_LANE = ("seeds", "hyper", "byzantine", "schedules", "times")


def _grouped(runs: list[Run]) -> list[list[Run]]:
    """Cells that differ in their data alone: one program, its lanes side by side."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        clock = run.lanes.times is not None
        key = (run.job.program, run.cell.config.delivery, run.lanes.schedules.shape[1:], clock)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _tidy(name: str, run: Run, columns: dict[str, np.ndarray], final: Any) -> list[dict]:
    """The rows of one cell: every seed and step size."""
    cell, config = run.cell, run.cell.config
    by_run = run.job.by_run(columns, len(config.seeds))
    told = {
        "panel": name,
        "facet": cell.facet,
        "x": cell.x,
        "line": cell.line or run.job.method,
    }
    told |= {
        n: getattr(config, n) for n in ("delivery", "timing", "rounds", "liars", "byzantine")
    }
    rows = []
    for h, step in enumerate(run.job.hyper["step_size"][0].tolist()):
        one = {n: c[..., h : h + 1] for n, c in by_run.items()}
        rows += [
            r | told | {"step_size": step}
            for r in panel.tidy(config, run.job, run.setting, one)
        ]
    largest, square = (np.asarray(getattr(final, n)) for n in ("largest", "mean_square"))
    for number, row in enumerate(rows):
        lane = number // len(columns["event"][0])
        lane = lane % len(config.seeds) * run.job.points + lane // len(config.seeds)
        row["largest_staleness"] = int(largest[lane].max())
        row["mean_square_staleness"] = float(square[lane].mean())
    return rows


def shown(rows: list[dict[str, Any]], y: str) -> list[dict[str, Any]]:
    """One entry per cell: the best step size by the mean over seeds."""
    cells: dict[tuple, dict[float, list[dict]]] = {}
    for row in rows:
        key = (row["facet"], row["x"], row["line"])
        cells.setdefault(key, {}).setdefault(row["step_size"], []).append(row)
    entries = []
    for (facet, x, line), by_step in cells.items():
        values = {step: _value(mine, y) for step, mine in by_step.items()}
        best = min if "seconds" in y else max
        step = best(values, key=lambda s: values[s])
        stale = np.mean([row["mean_square_staleness"] for row in by_step[step]]) ** 0.5
        entry = {"facet": facet, "x": x, "line": line, "value": values[step], "step_size": step}
        entries.append(entry | {"root_mean_square_staleness": float(stale)})
    return entries


def _value(rows: list[dict[str, Any]], y: str) -> float:
    def curve(column):
        seeds: dict[int, list[float]] = {}
        for row in rows:
            seeds.setdefault(row["seed"], []).append(row[column])
        return np.mean(list(seeds.values()), axis=0)

    if "seconds" not in y:
        return 100 * float(curve("test_accuracy")[-1])
    reached = np.flatnonzero(curve("test_accuracy") >= TARGET)
    return float(curve("virtual_seconds")[reached[0]]) if len(reached) else np.inf


def asynchrony() -> None:
    base = configure(CONFIG)
    chosen = [lookup("panel", name, PANELS) for name in FLAGS.panels]
    folder = folder_for("asynchrony", base, panels=FLAGS.panels)
    known: dict[Config, panel.Setting] = {}
    work = []  # everything is built, and refused, before the first event
    for name, one in zip(FLAGS.panels, chosen, strict=True):
        runs = [_run_of(cell, FLAGS.data_dir, known) for cell in one.cells(base)]
        groups = [(group, _joined(group)) for group in _grouped(runs)]
        for group, lanes in groups:
            lanes.check(group[0].job.program, group[0].cell.config.delivery)
        work.append((name, one, groups))
    folder.claim()
    answers = sum(
        len(lanes) * run[0].cell.config.events for *_, gs in work for run, lanes in gs
    )
    progress = panel.Progress(answers)
    rows: list[dict[str, Any]] = []
    for name, one, groups in work:
        mine: list[dict[str, Any]] = []
        for number, (group, lanes) in enumerate(groups):
            mine += _sweep(f"{name}-{number}", name, group, lanes, folder, progress)
        rows += mine
        folder.write_rows(rows)
        _draw(name, one, mine, folder)
    progress.close()
    print(f"all of it is in {folder.path}")


def _sweep(checkpoint, name, group, lanes, folder, progress) -> list[dict[str, Any]]:
    first = group[0]
    config, events = first.cell.config, lanes.schedules.shape[1]
    progress.start(f"{name}: {first.job.method}")
    columns, final = sweeps.sweep(
        first.job.program,
        lanes,
        every=max(config.eval_every * events // config.events, 1),
        measure=first.setting.measure,
        delivery=config.delivery,
        max_lanes=FLAGS.max_lanes,
        checkpoint=folder.checkpoint(checkpoint),
        checkpoint_every=FLAGS.checkpoint_every,
        progress=lambda count: progress(count * config.events / events),
    )
    rows, begin = [], 0
    for run in group:
        own = slice(begin, begin + len(run.lanes))
        staleness = jax.tree.map(lambda a, own=own: a[own], final.staleness)
        rows += _tidy(name, run, {n: c[own] for n, c in columns.items()}, staleness)
        begin += len(run.lanes)
    return rows


def _draw(name: str, one: Panel, rows: list[dict[str, Any]], folder: results.Folder) -> None:
    entries = shown(rows, one.y)
    texts = []
    for facet in dict.fromkeys(entry["facet"] for entry in entries):
        mine = [entry for entry in entries if entry["facet"] == facet]
        xs = list(dict.fromkeys(entry["x"] for entry in mine))
        lines = list(dict.fromkeys(entry["line"] for entry in mine))
        cells = {(entry["line"], entry["x"]): f"{entry['value']:.1f}" for entry in mine}
        body = [[line, *(cells.get((line, x), "") for x in xs)] for line in lines]
        texts.append(f"{facet}\n\n" + results.markdown_table([one.x, *map(str, xs)], body))
    table = f"# {one.title}\n\n" + "\n".join(texts)
    results.write_text(folder.path / f"{name}.md", table)
    print(f"\n{table}")
    draw = figures.heatmap if isinstance(entries[0]["x"], str) else figures.lines
    draw(entries, folder.path / f"{name}.png", one.title, one.x, one.y)


if __name__ == "__main__":
    main(asynchrony)
