"""Fine-tune a transformer with people who are not all honest.

    python -m experiments.finetune                    about 45 minutes on two cores
    python -m experiments.finetune --preset smoke     about 3 minutes, too short to judge
    python -m experiments.finetune --model_dir DIR --data FILE.tsv --budget 3600

Users hold texts of their own and answer by forward passes; some of them lie. The server moves a
few amounts z along directions that everybody draws from a seed, so that an answer is one number
per direction and the model is the public base and z. By default the base is a small transformer
that is first trained on the Apache License, which is part of the package, and then learns from
its paragraphs, one user each, whether the next character is a vowel, a consonant or neither.
With --model_dir it is a BERT in the format of Hugging Face, and --data names a table of text,
label and user.

Every method has the same number of forward passes. Each is run without and with attacks, and
those that do not wait for rounds also in a flood, in which liars answer five times as often.
The same command with the same --out continues. Writes table.md, results.csv, results.json and
users.csv, the accuracies for each user, under --out.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.parts.finetune_methods import ENTRIES, TASK, Entry, with_base
from farsign_jax import attacks, sweeps
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.settings import NO_SUBSPACE
from farsign_jax.config.sweep_specs import PanelData, SweepSpec, prepare, sweep_specs
from farsign_jax.harness import captions, panel, timing
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.adversary_trials import learns
from farsign_jax.harness.command import folder_for, main, perform
from farsign_jax.harness.flags import FLAGS, all_but, configure
from farsign_jax.io import files, tables
from farsign_jax.io.rows import csv_text
from farsign_jax.sweeps.inspection import problem_of_run
from farsign_jax.validation import require

flags.DEFINE_string("model_dir", None, "A folder with a BERT, instead of a small transformer.")
flags.DEFINE_string("data", None, "A file of text, label and user, with --model_dir.")
flags.DEFINE_float("budget", None, "Seconds of all runs, about, without compiling.")
flags.DEFINE_bool("all_parameters", True, "Compare with MeZO along all parameters too.")

FLOOD_RATE = 5.0
FLOOD = f"flood:rate={FLOOD_RATE:g}"
CLOCKED = 10  # events that --budget times
CONFIG = PanelConfig(
    methods=tuple(dict.fromkeys(entry.method for entry in ENTRIES)),
    aggregators=("median",),
    attacks=("none", "sign_flip:scale=10", "constant:value=100", "alie:z=1.5"),
    seeds=(0, 1),
    arrivals="pareto",
    delivery="outstanding",
    **TASK,
    events=2400,
    eval_every=300,
)
SMOKE: dict[str, Any] = {
    "methods": (ENTRIES[0].method, "mezo"),
    "attacks": CONFIG.attacks[:2],
    "dataset": CONFIG.dataset,
    "directions": CONFIG.directions,
    "events": CONFIG.events // 8,
    "eval_every": CONFIG.events // 16,
    "decay_every": CONFIG.decay_every // 8,
    "seeds": (0,),
}
READ = all_but("aggregators", "timing_attack", "tensorboard", "step_size")


def _with_model(config: PanelConfig) -> PanelConfig:
    """The configuration with a base model that is trained, or read from --model_dir."""
    folder, data = FLAGS.model_dir, FLAGS.data
    require((folder is None) == (data is None), "--model_dir and --data go together")
    if folder is not None:
        table = f"tsv:path={data},tokenizer={folder}"
        return dataclasses.replace(config, model=f"bert:path={folder}", dataset=table)
    model = with_base(config.dataset, str(config.model), FLAGS.out)
    return dataclasses.replace(config, model=model)


def _answers(entry: Entry, config: PanelConfig, spec: SweepSpec, data: PanelData) -> int:
    """The answers of a method that cost as many passes as those of FAR-SIGN."""
    evaluations, _ = spec.cost(data)
    events = config.events * (config.directions + 1) // evaluations
    rule = (
        f"--events={config.events} allow no answer of {entry.name}, which costs {evaluations}"
    )
    require(events > 0, f"{rule} passes")
    return events


def _of(
    entry: Entry, base: PanelConfig, known: dict[str, PanelData]
) -> tuple[PanelConfig, SweepSpec, PanelData]:
    """The configuration, the sweep and the data of a method.

    Args:
        entry: the line of the table.
        base: the configuration of all.
        known: data by subspace, to which new ones are added.
    """
    subspace = NO_SUBSPACE if entry.all_parameters else base.subspace
    if subspace not in known:
        whole = dataclasses.replace(base, subspace=subspace)
        known[subspace] = made = prepare(whole, FLAGS.data_dir)
        recorded = jax.eval_shape(made.measure, made.one_by_one.problem.x0)
        rule = f"fine-tuning needs a data set with users: got {base.dataset}"
        require("worst_users" in recorded, rule)
    config = dataclasses.replace(
        base,
        methods=(entry.method,),
        aggregators=(entry.aggregator,),
        step_size=entry.step_size,
        subspace=subspace,
    )
    spec, data = sweep_specs(config)[0], known[subspace]
    if not learns(spec, problem_of_run(data.of(spec).problem, 0)):
        possible = tuple(a for a in base.attacks if not attacks.make(a).omniscient)
        config = dataclasses.replace(config, attacks=possible)
    return config, spec, data


def _panels(entries: Sequence[Entry], base: PanelConfig) -> Iterator[panel.Panel]:
    """Two panels for each method, the second one in a flood, if it does not wait."""
    known: dict[str, PanelData] = {}
    for entry in entries:
        config, spec, data = _of(entry, base, known)
        events = _answers(entry, config, spec, data)
        every = max(base.eval_every * events // base.events, 1)
        config = _with_events(config, events, every)
        yield _ready(entry, config, "")
        if not entry.in_rounds and len(config.attacks) > 1:
            flood = dataclasses.replace(
                config,
                attacks=config.attacks[1:2],
                timing_attack=FLOOD,
                events=config.flood_events(FLOOD_RATE),
            )
            yield _ready(entry, flood, FLOOD)


def _ready(entry: Entry, config: PanelConfig, timing: str) -> panel.Panel:
    name = f"{entry.name} {timing}".strip()
    named = {"name": name, "labels": {"entry": entry.name, "timing": timing}}
    return panel.ready(config, FLAGS.data_dir, **named)


def _within(config: PanelConfig, entries: Sequence[Entry]) -> PanelConfig:
    """The configuration with as many events as all runs can take in --budget seconds."""
    known: dict[str, PanelData] = {}
    seconds = 0.0  # of all runs together, for each event of FAR-SIGN
    for entry in entries:
        own, spec, data = _of(entry, config, known)
        us = timing.clock(*spec.alone(data, 0), CLOCKED, 1, spec.delivery(own))["us"]
        answers = own.workers if entry.in_rounds else 1  # of an event
        evaluations, _ = spec.cost(data)
        flooded = 0 if entry.in_rounds else own.flood_events(FLOOD_RATE) / own.events
        runs = len(own.seeds) * (len(own.attacks) + flooded)
        seconds += 1e-6 * us / answers * (own.directions + 1) / evaluations * runs
    events = int(FLAGS.budget / seconds)
    rule = f"--budget={FLAGS.budget:g} allows {events} answers of FAR-SIGN in each run"
    require(events >= 10, f"{rule}: at least 10 are needed")
    return _with_events(config, events, max(events // 8, 1))


def _with_events(config: PanelConfig, events: int, eval_every: int) -> PanelConfig:
    """The configuration with so many events, in which step sizes decay as many times."""
    decay_every = max(round(config.decay_every * events / config.events), 1)
    return dataclasses.replace(
        config, events=events, eval_every=eval_every, decay_every=decay_every
    )


def _line(entry: Entry, panels: Sequence[panel.Panel], rows: list[dict[str, Any]]) -> list[str]:
    """The line of a method in the table."""
    mine = [row for row in rows if row["entry"] == entry.name]
    calm = summary_lib.summarise([row for row in mine if not row["timing"]])
    by_attack = {e["attack"]: e for e in calm}
    worst = min(calm, key=lambda e: e["last"])
    flooded = summary_lib.summarise([row for row in mine if row["timing"]])
    made = next(p for p in panels if p.name == entry.name)
    evaluations, bits = made.specs[0].cost(made.data)
    forward = "scheme=forward" in entry.method
    derivatives = evaluations - 1 if forward else evaluations // 2
    last = max(row["event"] for row in mine if not row["timing"])
    ends = [row for row in mine if not row["timing"] and row["event"] == last]
    waits = "waits" if entry.in_rounds else ""
    of_users = [row["worst_users"] for row in ends if row["attack"] == worst["attack"]]
    seconds = float(np.mean([row["virtual_seconds"] for row in ends]))
    parameters = made.data.one_by_one.problem.x0.shape[-1]
    return [
        entry.name,
        summary_lib.accuracy(by_attack["none"], "last", with_std=True),
        f"{summary_lib.accuracy(worst, 'last')} ({worst['attack']})",
        summary_lib.accuracy(flooded[0], "last") if flooded else waits,
        summary_lib.percent(float(np.mean(of_users))),
        f"{evaluations}",
        f"{bits / 8 / derivatives:.3g}",
        f"{4 * parameters:,}",
        f"{seconds:,.0f}",
    ]


def _of_users(
    made: panel.Panel, spec: SweepSpec, final: sweeps.FinalRuns
) -> list[dict[str, Any]]:
    """A row for each run and user, with the final accuracy on the texts of the user."""
    seeds, rows = made.config.seeds, []
    measure: Any = made.data.measure  # that of a classifier
    ends = final.params.reshape(len(seeds), len(spec.runs), -1)
    for number, (_, attack) in enumerate(spec.runs):
        for seed, x in zip(seeds, ends[:, number], strict=True):
            of = {**made.labels, "attack": attack, "seed": seed}
            accuracies = np.asarray(measure.of_users(x)).tolist()
            rows += [of | {"user": n, "test_accuracy": a} for n, a in enumerate(accuracies)]
    return rows


def finetune() -> pathlib.Path:
    base = configure(CONFIG, SMOKE)
    require("none" in base.attacks, f"the table needs attack none: got {base.attacks}")
    entries = [
        entry
        for entry in ENTRIES
        if entry.method in base.methods and (FLAGS.all_parameters or not entry.all_parameters)
    ]
    known = ", ".join(CONFIG.methods)
    require(len(entries) > 0, f"--methods are of {known}: got {', '.join(base.methods)}")
    base = _with_model(base)
    if FLAGS.budget is not None:
        base = _within(base, entries)
    folder = folder_for("finetune", base, entries=[entry.name for entry in entries])
    panels = list(_panels(entries, base))
    users: dict[str, list[dict[str, Any]]] = {}

    def keep_users(made: panel.Panel, spec: SweepSpec, final: sweeps.FinalRuns) -> None:
        users[f"{made.name} {spec.name}"] = _of_users(made, spec, final)

    rows = perform(panels, folder, threads=True, on_end=keep_users)
    header = ["method", "without attack", "worst attack", "sign flips in a flood"]
    header += ["worst tenth of users, worst attack", "passes per answer"]
    header += ["bytes up per derivative", "bytes down at most", "virtual seconds"]
    lines = [_line(entry, panels, rows) for entry in entries]
    text = f"{tables.markdown_table(header, lines)}\n{_caption(base)}\n"
    folder.write_rows(rows, summary_lib.summarise(rows))
    of_users = [row for name in sorted(users) for row in users[name]]
    files.write_text(folder.path / "users.csv", csv_text(list(of_users[0]), of_users))
    files.write_text(folder.path / "table.md", text)
    print(f"\n{text}\nThe results are in {folder.path}.")
    return folder.path


def _caption(base: PanelConfig) -> str:
    passes = base.events * (base.directions + 1)
    return (
        f"Test accuracy in %, after {passes:,} forward passes of each method; "
        f"{base.byzantine} of {base.workers} workers are Byzantine, also in the column without "
        f"attack, where they are honest. {captions.command_line()}"
    )


if __name__ == "__main__":
    main(
        finetune,
        base=CONFIG,
        own=("model_dir", "data", "budget", "all_parameters"),
        reads=READ,
        threads=True,
    )
