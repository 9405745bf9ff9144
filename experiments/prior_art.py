"""The paper's Tables 1 and 2, row by row, as measurements.

    python -m experiments.prior_art                    about 20 minutes on two cores
    python -m experiments.prior_art --preset smoke     about 2 minutes, too short to judge
    python -m experiments.prior_art --tables 2         one of the tables

For every method of the tables this command measures what they claim:

    waiting      virtual seconds of a run in which one answer in ten is ten times slower, and
                 whether the method works in rounds
    resilience   the accuracy on the embedded digits under the attack that harms it most
    rate         the slope of the mean gradient norm on two smooth, nonconvex functions, under
                 the steps of the method's own theorem, without and with a liar among five
    accuracy     on the digits, for the same number of gradients (Table 1) or of evaluations of
                 the loss (Table 2)

The same command with the same --out continues. Writes table1.md and table2.md (what is seen,
beside what the paper's table says), ahead.md (which methods end above FAR-SIGN, and under which
attacks), results.csv and results.json (all runs on the digits) and slopes.csv under --out.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments.parts import prior_slopes
from experiments.parts.prior_methods import FIRST, TABLES, Entry
from farsign_jax import attacks, theory
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import PanelData, prepare, sweep_specs
from farsign_jax.harness import captions, panel, verdicts
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.command import folder_for, main, perform
from farsign_jax.harness.flags import FLAGS, all_but, configure, is_short
from farsign_jax.io import files, run_folder, tables
from farsign_jax.io.rows import csv_text
from farsign_jax.validation import lookup, require

flags.DEFINE_list("tables", ["1", "2"], "The tables to measure.")

CONFIG = PanelConfig(
    preset="tuned",
    aggregators=("median",),
    attacks=(
        "none",
        "sign_flip:scale=10",
        "gaussian:std=100",
        "constant:value=100",
        "random_disturbance",
        "alie:z=1.5",
        "ipm:epsilon=10",
        "mimic",
    ),
    seeds=(0, 1, 2),
    dataset="mnist_subset",
    arrivals="bimodal:slow=10,share=0.1",
    delivery="outstanding",
    events=4000,
    eval_every=400,
)
READ = all_but("methods", "delivery", "tensorboard")  # the tables choose these


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        horizons: K, the numbers of answers of the runs that slopes are fitted to.
        seeds: the number of runs of each.
        problems: the number of functions, of `prior_slopes.PROBLEMS`.
        noises: the number of kinds of noise in function values.
        attacks: the number of attacks, unless --attacks gives them.
    """

    horizons: tuple[int, ...] = (1000, 3000, 10_000, 30_000)
    seeds: int = 8
    problems: int = 2
    noises: int = 2
    attacks: int = len(CONFIG.attacks)


SMOKE = Size((100, 300, 1000), 3, 1, 1, 2)
ROBUST = 0.5  # the accuracy above which a method survives, as in `experiments.quickstart`
CAPTION = "The mark in the paper's table is given in brackets where it says otherwise."
NOTE = "Afterwards the slopes are measured on small functions, which is not counted."

Summary = dict[str, dict[str, Any]]  # from attacks to entries of `summary.summarise`
Slopes = dict[tuple[str, str], dict[str, prior_slopes.Measured]]  # by method and noise, problem


def _panels(chosen: dict[int, tuple[Entry, ...]], base: PanelConfig) -> Iterator[panel.Panel]:
    """A panel for each method, with as many answers as the evaluations of its table allow."""
    methods = tuple(entry.method for entries in chosen.values() for entry in entries)
    data = prepare(dataclasses.replace(base, methods=methods), FLAGS.data_dir)
    for number, entries in chosen.items():
        for entry in entries:
            known = tuple(a for a in base.attacks if _possible(entry, a))
            config = dataclasses.replace(base, methods=(entry.method,), attacks=known)
            events = _events(entry, config, data)
            every = max(base.eval_every * events // base.events, 1)
            step = entry.step_size if base.step_size is None else base.step_size
            config = dataclasses.replace(
                config, events=events, eval_every=every, step_size=step
            )
            named = {"name": entry.method, "labels": {"table": number}}
            yield panel.ready(config, FLAGS.data_dir, **named)


def _events(entry: Entry, config: PanelConfig, data: PanelData) -> int:
    """The answers of a method that cost as much as the budget of its table."""
    evaluations, _ = sweep_specs(config)[0].cost(data)
    budget = config.events * (1 if FIRST in entry.claimed else config.directions)
    events = budget // evaluations
    rule = f"an answer of {entry.method} costs {evaluations} evaluations, and the budget is "
    require(events > 0, f"{rule}{budget}: --events={config.events} is too small")
    return events


def _possible(entry: Entry, attack: str) -> bool:
    """Whether an attack can be carried out: the answers of other workers to `async_zo_sgd` are
    about other directions, so that no attack can be made of them."""
    name, options = attacks.parse(attack)
    return entry.method != "async_zo_sgd" or not attacks.make(name, **options).omniscient


def _slopes(
    chosen: dict[int, tuple[Entry, ...]], size: Size, folder: run_folder.RunFolder
) -> Slopes:
    """The slopes of all methods, in float64."""
    found: Slopes = {}
    jax.config.update("jax_enable_x64", True)
    for entries in chosen.values():
        for entry in entries:
            for noise in list(entry.claimed)[: size.noises]:
                found[entry.method, noise] = {
                    problem[0]: prior_slopes.measure(
                        entry, noise, problem, size.horizons, size.seeds, folder
                    )
                    for problem in prior_slopes.PROBLEMS[: size.problems]
                }
    return found


def rate_cell(slope: theory.Slope, claimed: float | None) -> str:
    """A slope, marked where the paper claims a rate and all of the interval is shallower."""
    missed = claimed is not None and slope.low > -claimed
    return f"{slope}" + (" ✗" if missed else "")


def _rates(entries: tuple[Entry, ...], slopes: Slopes, size: Size) -> str:
    """The table of the rates of some methods, a line for each kind of noise."""
    header = ["method", "answers", "claimed", "the theorem"]
    for value, kind in prior_slopes.PROBLEMS[: size.problems]:
        header += [f"{value}, {kind} noise", f"{value}, {kind} noise, one liar"]
    lines = []
    for entry in entries:
        for noise, claimed in list(entry.claimed.items())[: size.noises]:
            under_attack = claimed if entry.resilient else None
            text = "-" if claimed is None else f"K^-{claimed:.3g}"
            cells = [entry.method, noise, text, entry.note]
            for measured in slopes[entry.method, noise].values():
                cells.append(rate_cell(measured.honest, claimed))
                cells.append(rate_cell(measured.attacked, under_attack))
            lines.append(cells)
    first, last = size.horizons[0], size.horizons[-1]
    return (
        f"{tables.markdown_table(header, lines)}\n"
        f"Slopes of the mean of |grad f(x_n)| over runs of {first:,} to {last:,} answers, with "
        "the steps of the method's theorem for each length, and intervals of 95 % over seeds; "
        "✗ marks intervals that are entirely shallower than the claim at these lengths.\n"
    )


def _on_digits(
    panels: list[panel.Panel], rows: list[dict[str, Any]]
) -> tuple[dict[str, Summary], dict[str, tuple[float, bool]]]:
    """For each method the summary of its runs, and their virtual time and whether it waits."""
    summary: dict[str, Summary] = {}
    waiting: dict[str, tuple[float, bool]] = {}
    for made in panels:
        mine = [row for row in rows if row["method"] == made.name]
        summary[made.name] = {e["attack"]: e for e in summary_lib.summarise(mine)}
        ends = [r["virtual_seconds"] for r in mine if r["event"] == mine[-1]["event"]]
        waiting[made.name] = float(np.mean(ends)), made.specs[0].in_rounds
    return summary, waiting


def _seen_header(base: PanelConfig) -> list[str]:
    """The header of the table of what is seen on the digits."""
    names = ["method", "reference", "runs without waiting", "virtual seconds"]
    names += [f"survives {base.byzantine} liars of {base.workers}"]
    return names + ["worst accuracy, % (attack)", "accuracy without attack, %"]


def _seen(
    entry: Entry, summary: Summary, seconds: float, waits: bool, base: PanelConfig
) -> list[str]:
    """The line of a method in the table of what is seen on the digits."""
    worst = min(summary.values(), key=lambda e: e["last"])
    attack = worst["attack"]
    if len(summary) < len(base.attacks):
        attack += f", of {len(summary) - 1} attacks"
    survives = worst["last"] > ROBUST
    return [
        entry.method,
        entry.reference,
        _against(not waits, entry.asynchronous),
        f"{seconds:,.0f}",
        _against(survives, entry.resilient),
        f"{summary_lib.accuracy(worst, 'last')} ({attack})",
        summary_lib.accuracy(summary["none"], "last", with_std=True),
    ]


def _against(seen: bool, claimed: bool) -> str:
    """What is seen, and what the paper's table says where that differs."""
    text = "yes" if seen else "no"
    return text if seen == claimed else f"{text} (table: {'✓' if claimed else '✗'})"


def _ahead(chosen: dict[int, tuple[Entry, ...]], summary: dict[str, Summary]) -> str:
    """Each other method compared with FAR-SIGN of the same table, under every attack."""
    header, lines = ["table", "method", "attack", "points above FAR-SIGN", "verdict"], []
    for number, entries in chosen.items():
        ours = summary[entries[-1].method]
        for entry in entries[:-1]:
            if (FIRST in entry.claimed) != (FIRST in entries[-1].claimed):
                continue  # gradients and losses are not compared
            for attack, e in summary[entry.method].items():
                lead = verdicts.paired(e["last_per_seed"], ours[attack]["last_per_seed"])
                cells = [str(number), entry.method, attack, lead.points, lead.verdict]
                lines.append(cells)
    return tables.markdown_table(header, lines)


def prior_art() -> pathlib.Path:
    require(len(FLAGS.tables) > 0, "--tables is empty: known: 1, 2")
    known = {str(number): number for number in TABLES}
    chosen = {n: TABLES[n] for n in (lookup("table", text, known) for text in FLAGS.tables)}
    size = SMOKE if is_short() else Size()
    base = configure(dataclasses.replace(CONFIG, attacks=CONFIG.attacks[: size.attacks]))
    given = ", ".join(base.attacks)
    require("none" in base.attacks, f"the tables need attack none: got {given}")
    folder = folder_for("prior_art", base, tables=list(chosen), slopes=size._asdict())
    panels = list(_panels(chosen, base))
    rows = perform(panels, folder, notes=(NOTE,))
    slopes = _slopes(chosen, size, folder)
    of_slopes = [row for by in slopes.values() for one in by.values() for row in one.rows]
    text = csv_text(list(of_slopes[0]), of_slopes)
    files.write_text(folder.path / "slopes.csv", text)
    summary, waiting = _on_digits(panels, rows)
    folder.write_rows(rows, [e for by in summary.values() for e in by.values()])
    for number, of_table in chosen.items():
        seen = [_seen(e, summary[e.method], *waiting[e.method], base) for e in of_table]
        text = tables.markdown_table(_seen_header(base), seen) + "\n"
        text += f"{captions.of_accuracies(base, best=False)}{CAPTION}\n\n"
        text += _rates(of_table, slopes, size)
        files.write_text(folder.path / f"table{number}.md", text)
        print(f"\nTable {number}\n\n{text}")
    ahead = _ahead(chosen, summary)
    files.write_text(folder.path / "ahead.md", ahead)
    print(f"{ahead}\nThe results are in {folder.path}.")
    return folder.path


if __name__ == "__main__":
    main(prior_art, base=CONFIG, own=("tables",), reads=READ)
