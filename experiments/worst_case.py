"""The strongest adversary that can be found for each method, beside a few fixed attacks.

    python -m experiments.worst_case                    an hour on two cores
    python -m experiments.worst_case --preset smoke     three methods, a minute

Robustness against a few fixed attacks says little: each may miss the weak point of a method.
For each method and aggregator this command searches attack, strength, start, timing and
placement for what harms it most (successive halving, then a local random search, on search
seeds), and runs what it found on other seeds. The step size of each method is the best of five
under the fixed attacks (--attacks). All have the same number of answers; in a flood, the same
virtual time. Beside it stands what theory predicts. --adversary runs again what was found.

Writes four tables, results.csv, results.json and adversaries/NAME.json under --out.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments.parts import own_methods, worst_outcomes
from experiments.parts.certificate import certificate
from experiments.parts.worst_outcomes import Outcome
from farsign_jax.config import problem as problem_lib
from farsign_jax.config.panel_config import PanelConfig, check
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.config.systems import takes_aggregator
from farsign_jax.harness.adversary import Adversary
from farsign_jax.harness.adversary_search import Found, Plan, search
from farsign_jax.harness.adversary_space import Point, Space
from farsign_jax.harness.adversary_trials import SEGMENTS, Trials
from farsign_jax.harness.command import folder_for, main
from farsign_jax.harness.flags import FLAGS, all_but, configure
from farsign_jax.harness.progress import Progress
from farsign_jax.harness.threads import in_threads
from farsign_jax.io import files, run_folder, tables
from farsign_jax.methods import METHODS
from farsign_jax.validation import InvalidConfig, require

flags.DEFINE_integer("configurations", 200, "How many adversaries the first rung tries.")
flags.DEFINE_integer(
    "budget",
    None,
    "The evaluations of a search, for each method. It takes as many configurations as they "
    "allow.",
)
flags.DEFINE_string("method", None, "A method of your own, MODULE:NAME, instead of --methods.")
flags.DEFINE_string("adversary", None, "A file with an adversary, which is run instead.")

# FAR-SIGN with what is made against control of time, see docs/pages/votes.md.
WITH_PARTS = (
    "far_sign:arrival_rates=estimate",
    "far_sign:rate_cap=1.2",
    "far_sign:vote=nnm:f=5+trimmed_mean:f=5",
)
CONFIG = PanelConfig(
    methods=(*METHODS, *WITH_PARTS),
    dataset="mnist_subset_7x7",
    model="mlp:hidden=16",
    directions=16,
    batch_size=32,
    arrivals="exponential",
    delivery="outstanding",
    events=2240,
    eval_every=140,
    seeds=(0, 1, 2),
)
SMOKE = {
    "methods": ("far_sign", "sgd", "basgd"),
    "aggregators": ("median",),
    "dataset": CONFIG.dataset,
    "directions": CONFIG.directions,
    "events": 896,
    "seeds": (0, 1),
}
SEARCH_SEEDS = (100, 101)
MULTIPLES = (1 / 4, 1.0, 4.0, 16.0, 64.0)  # of the step size of the preset
COLUMNS = ("adversary", "test_accuracy")
KEY = (*run_folder.KEY, "adversary")
READ = all_but("eval_every", "tensorboard", "validation", "max_parallel_runs")


def _read(path: str) -> Adversary:
    """Reads an adversary.

    Raises:
        InvalidConfig: if there is no such file, or it holds no adversary.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidConfig(f"--adversary {path}: {error.strerror}") from None
    return Adversary.from_json(text)


def _entries(config: PanelConfig) -> Iterator[PanelConfig]:
    """A configuration of each method with each aggregator that it takes."""
    for method in config.methods:
        rules = config.aggregators if takes_aggregator(method) else config.aggregators[:1]
        for rule in rules:
            yield dataclasses.replace(config, methods=(method,), aggregators=(rule,))


def _aggregator(config: PanelConfig) -> str:
    return config.aggregators[0] if takes_aggregator(config.methods[0]) else ""


def _name(config: PanelConfig) -> str:
    return f"{config.methods[0]} {_aggregator(config)}".strip()


def _file_name(name: str) -> str:
    return re.sub("[ :,]", "-", name).replace("=", "").replace("+", "-")


def _outcome(config: PanelConfig, trials: Trials, plan: Plan) -> Outcome:
    """Searches the strongest adversary of one method, and runs it on the held-out seeds."""
    known = trials.tune(MULTIPLES, SEARCH_SEEDS[:1])
    found = search(trials.space, trials.evaluate, plan, SEARCH_SEEDS, known)
    tried, alone, predicted = found.tried, _values_alone(found), None
    if _has_certificate(config):
        space = trials.space._replace(timings=("none",))
        again = search(space, trials.evaluate, plan, SEARCH_SEEDS, known)
        tried, alone = tried + again.tried, again.strongest.point
        data = prepare(config, FLAGS.data_dir)
        predicted = certificate(config, data, trials.multiple)
    best, without = trials.evaluate([found.strongest.point, alone], 1.0, config.seeds)
    return Outcome(
        config.methods[0],
        _aggregator(config),
        trials.multiple,
        [str(adversary) for adversary in trials.fixed],
        trials.evaluate_fixed(config.seeds)[0],
        trials.adversary(found.strongest.point),
        found.strongest.accuracy,
        best,
        tried,
        trials.evaluations,
        (trials.adversary(alone), without),
        predicted,
    )


def _has_certificate(config: PanelConfig) -> bool:
    """Whether theory predicts the worst case of a method; options may change its steps."""
    (method,) = config.methods
    return method in METHODS and METHODS[method].one_step_per_answer


def _values_alone(found: Found) -> Point:
    """The point under which a method did worst of those that do not control time."""
    return next(trial.point for trial in found.trials if trial.point.timing == "none")


def _given(config: PanelConfig, trials: Trials, adversary: Adversary) -> Outcome:
    """Runs one method under an adversary that is given."""
    rule = f"{config.methods[0]} cannot be attacked with {adversary}: its workers report about "
    require(trials.fixed[-1] == adversary, f"{rule}directions of their own")
    trials.tune(MULTIPLES, SEARCH_SEEDS[:1], unknown=1)
    *fixed, found = trials.evaluate_fixed(config.seeds)[0]
    names = [str(each) for each in trials.fixed[:-1]]
    of = config.methods[0], _aggregator(config), trials.multiple, names, np.stack(fixed)
    return Outcome(*of, adversary, float("nan"), found, 1, trials.evaluations)


def _configured() -> PanelConfig:
    """The configuration that the flags ask for."""
    base, smoke = CONFIG, SMOKE
    if FLAGS.method is not None:
        require(not FLAGS["methods"].present, "give either --method or --methods")
        methods = (own_methods.register(FLAGS.method),)
        base, smoke = dataclasses.replace(base, methods=methods), SMOKE | {"methods": methods}
    config = configure(base, smoke)
    rule = f"the shortest runs have a sixteenth: --events is a multiple of {SEGMENTS}"
    require(config.events % SEGMENTS == 0, f"{rule}: got {config.events}")
    for entry in _entries(config):
        check(entry)
    return config


def _measure(
    config: PanelConfig,
    plans: Sequence[Plan],
    given: Adversary | None,
    folder: run_folder.RunFolder,
) -> list[Outcome]:
    """Measures all methods, as many at a time as there are cores, and writes the results."""
    examples = problem_lib.load(config, FLAGS.data_dir)
    adversaries = [Adversary(attack=attack) for attack in config.attacks]
    adversaries += [] if given is None else [given]
    space = Space() if given is None else Space(())
    entries = list(_entries(config))
    runs = 55 * len(entries)  # of fixed attacks, further seeds, longer floods, about
    for entry, plan in zip(entries, plans, strict=True):
        runs += (1 + _has_certificate(entry)) * plan.runs
    progress = Progress(round(runs * config.events))

    def measure(pair: tuple[PanelConfig, Plan]) -> Outcome:
        entry, plan = pair
        name = _name(entry)
        progress.start(name)
        of = examples, space, adversaries, folder, _file_name(name), progress
        trials = Trials(entry, *of)
        return _outcome(entry, trials, plan) if given is None else _given(entry, trials, given)

    outcomes: list[Outcome] = []
    pairs = list(zip(entries, plans, strict=True))
    for entry, one in zip(entries, in_threads(measure, pairs), strict=True):
        outcomes.append(one)
        path = folder.path / "adversaries" / f"{_file_name(_name(entry))}.json"
        path.parent.mkdir(exist_ok=True)
        files.write_text(path, one.adversary.to_json())
        folder.append_rows(worst_outcomes.rows_of(one, entry), COLUMNS, KEY)
    progress.close()
    return outcomes


def _costs(config: PanelConfig) -> list[int]:
    """The evaluations of a run of full length of each method."""
    data, found = prepare(config, FLAGS.data_dir), []
    for entry in _entries(config):
        (spec,) = sweep_specs(dataclasses.replace(entry, attacks=("none",)))
        found.append(spec.cost(data)[0] * config.events)
    return found


def _plans(config: PanelConfig) -> list[Plan]:
    """How much is tried of each method.

    Raises:
        InvalidConfig: if the configurations, or the budget, are too few.
    """
    plan = Plan(configurations=FLAGS.configurations).checked()
    if FLAGS.budget is None:
        return [plan] * len(list(_entries(config)))
    return [plan.within(FLAGS.budget / cost) for cost in _costs(config)]


def _print_plan(config: PanelConfig, plans: Sequence[Plan]) -> None:
    """Says what would run."""
    lines = []
    for entry, plan, cost in zip(_entries(config), plans, _costs(config), strict=True):
        runs = plan.runs + len(entry.attacks) * (len(MULTIPLES) + len(entry.seeds))
        name = _name(entry)
        counts = runs, runs * config.events, runs * cost
        lines.append([name, *(f"{count:,.0f}" for count in counts)])
    header = ["method", "runs of full length", "answers", "evaluations"]
    print(f"{tables.markdown_table(header, lines)}\nFloods are longer. Nothing was written.")


def worst_case() -> pathlib.Path | None:
    given = None if FLAGS.adversary is None else _read(FLAGS.adversary)
    config = _configured()
    plans = _plans(config)
    chosen: dict[str, Any] = {"plans": [plan._asdict() for plan in plans]}
    chosen |= {"adversary": None if given is None else given.settings()}
    folder = folder_for("worst_case", config, **chosen)
    if FLAGS.dry_run:
        _print_plan(config, plans)
        return None
    folder.claim()
    outcomes = _measure(config, plans, given, folder)
    rows = [row for one in outcomes for row in worst_outcomes.rows_of(one, config)]
    folder.write_rows(rows, [worst_outcomes.record_of(one) for one in outcomes])
    texts = {
        "table": f"{worst_outcomes.table(outcomes)}\n{worst_outcomes.caption(config)}",
        "ranking": worst_outcomes.ranking(outcomes),
        "certificate": worst_outcomes.certificates(outcomes),
        "constants": worst_outcomes.constants(config),
    }
    for name, text in texts.items():
        files.write_text(folder.path / f"{name}.md", text)
        print(f"\n{text}")
    print(f"The results are in {folder.path}.")
    return folder.path


if __name__ == "__main__":
    own = ("configurations", "budget", "method", "adversary")
    main(worst_case, base=CONFIG, own=own, reads=READ, threads=True)
