"""A panel: methods x attacks x seeds on one data set, the shape of most experiments.

Not an experiment itself: the configuration, the progress and the sweeps that they share.
"""

import dataclasses
import inspect
import signal
import sys
import threading
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import tqdm

from farsign_jax import (
    arrivals,
    attacks,
    datasets,
    keys,
    metrics,
    models,
    partitions,
    problems,
    results,
    simulate,
    sweeps,
)
from farsign_jax.base import InvalidConfig, lookup, require
from farsign_jax.methods import METHODS, Build, Feedback

# The attacks of the paper's Table 3 and their magnitudes (inferred, the text lost them).
PAPER_ATTACKS = ("none", "alie:z=1.5", "gaussian:std=100", "constant:value=100", "sign_flip")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a panel.

    The defaults are the paper's MNIST setting as far as it can be inferred: its text lost
    the numbers; these reproduce most figures of its Table 3.
    """

    methods: tuple[str, ...] = ("far_sign",)
    attacks: tuple[str, ...] = PAPER_ATTACKS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    preset: str = "paper"
    dataset: str = "mnist"
    model: str = "mlp"
    partition: str = "iid"
    skew: float | None = None
    workers: int = 25
    byzantine: int = 5
    batch_size: int = 64
    directions: int = 100
    delta: float = 1e-3
    decay: float = 0.9
    decay_every: int = 1000
    step_size: float | None = None  # None: the method's own, from its preset
    events: int = 10_000
    eval_every: int = 50
    delivery: str = "fresh"
    validation: float = 0.0  # share of the training set to measure on instead of the test set

    @property
    def feedback(self) -> Feedback:
        return Feedback(
            self.batch_size, self.directions, self.delta, self.decay, self.decay_every
        )


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tuned": {"preset": "tuned"},
    # Minutes become seconds; for a look at whether everything works, not at the numbers.
    "smoke": {"dataset": "mnist_subset", "seeds": (0, 1), "events": 300, "workers": 10}
    | {"byzantine": 2, "directions": 50},
}


def _option(attack: str, option: str, value: str) -> Any:
    """The value as the attack's signature wants it: a number, unless it is a string there."""
    parameters = inspect.signature(lookup("attack", attack, attacks.ATTACKS)).parameters
    kind = parameters[option].annotation if option in parameters else str
    if kind is str:
        return value
    try:
        number = int(value) if value.lstrip("+-").isdigit() else float(value)
    except ValueError:
        number = float("nan")
    rule = f"attack {attack!r} needs a finite number for {option}: got {value!r}"
    require(np.isfinite(number), rule)
    return number


def parse_attack(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`name` or `name:option=value,...` as the name and its options."""
    name, _, rest = text.partition(":")
    options = []
    for item in filter(None, rest.split(",")):
        option, equals, value = item.partition("=")
        require(equals, f"attack options are option=value: got {item!r} in {text!r}")
        options.append((option, _option(name, option, value)))
    attacks.make(name, **dict(options))
    return name, tuple(options)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` as seeds 0..4, `0,3,7` as they are."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidConfig(f"--seeds is a count or a list like 0,3,7: got {text!r}") from None
    if "," not in text:
        require(seeds[0] > 0, f"--seeds needs at least one seed: got {text}")
        return tuple(range(seeds[0]))
    require(len(set(seeds)) == len(seeds), f"--seeds names one twice: {text}")
    require(min(seeds) >= 0 and max(seeds) < 2**31, f"seeds are 0..2147483647: got {text}")
    return seeds


def check(config: Config) -> None:
    """Raises `InvalidConfig` on what can be known to be wrong without the data."""
    for name in ("methods", "attacks"):
        values = getattr(config, name)
        require(len(values) > 0, f"--{name} names none")
        require(
            len(set(values)) == len(values), f"--{name} names one twice: {','.join(values)}"
        )
    for method in config.methods:
        preset = lookup("method", method, METHODS).presets
        lookup("preset", config.preset, preset)
    for attack in config.attacks:
        parse_attack(attack)
    lookup("dataset", config.dataset, datasets.DATASETS)
    lookup("model", config.model, models.MODELS)
    lookup("partition", config.partition, partitions.PARTITIONS)
    deliveries = simulate.DELIVERIES
    lookup("delivery", config.delivery, dict.fromkeys(deliveries))
    require(config.workers > 0, f"need workers > 0: got {config.workers}")
    attacks.byzantine_mask(config.workers, config.byzantine)
    for name in ("batch_size", "directions", "delta", "events", "eval_every", "decay_every"):
        value = getattr(config, name)
        require(0 < value < 2**31, f"need 0 < {name} < 2147483648: got {value}")
    require(0 < config.decay <= 1, f"need 0 < decay <= 1: got {config.decay}")
    step, share = config.step_size, config.validation
    require(step is None or 0 < step < np.inf, f"need a finite step_size > 0: got {step}")
    require(0 <= share < 1, f"need 0 <= validation < 1: got {share}")


@dataclasses.dataclass(frozen=True)
class Setting:
    """The data side of a config: what every method and attack of a seed has in common."""

    lanes: sweeps.Lanes  # one lane per seed, without hyper-parameters
    measure: metrics.Measure


def prepare(config: Config, data_dir: str | None) -> Setting:
    """Loads the data, deals them out for each seed and draws each seed's schedule."""
    check(config)
    data = datasets.load(config.dataset, data_dir)
    train, labels = data.train_images, data.train_labels
    test, test_labels = data.test_images, data.test_labels
    if config.validation:
        held = round(config.validation * len(train))
        order = np.random.default_rng(0).permutation(len(train))  # one split for all seeds
        test, test_labels = train[order[:held]], labels[order[:held]]
        train, labels = train[order[held:]], labels[order[held:]]

    module = models.make(config.model, data.num_classes)
    one: list[problems.Problem] = []
    schedules = []
    shared = jnp.asarray(train), jnp.asarray(labels, jnp.int32)
    for seed in config.seeds:
        roles = keys.split(seed)
        rows, sizes = partitions.partition(
            labels, config.workers, config.partition, roles.partition, config.skew
        )
        require(
            config.batch_size <= sizes.min(),
            f"need batch_size <= examples of every worker: got batch_size={config.batch_size}, "
            f"and worker {sizes.argmin()} of seed {seed} has {sizes.min()}",
        )
        one.append(problems.classification(module, *shared, rows, sizes, roles.init))
        schedules.append(arrivals.uniform(roles.schedule, config.workers, config.events))
    width = max(problem.rows.shape[1] for problem in one)
    problem = dataclasses.replace(
        one[0],
        rows=jnp.stack([jnp.pad(p.rows, ((0, 0), (0, width - p.rows.shape[1]))) for p in one]),
        sizes=jnp.stack([p.sizes for p in one]),
        x0=jnp.stack([p.x0 for p in one]),
    )
    lies = attacks.byzantine_mask(config.workers, config.byzantine)
    lanes = sweeps.Lanes(
        problem=problem,
        seeds=jnp.asarray(config.seeds, jnp.int32),
        hyper={},
        byzantine=jnp.asarray(np.tile(lies, (len(one), 1))),
        schedules=np.stack(schedules),
    )
    return Setting(lanes, metrics.classification(module, test, test_labels))


class Progress:
    """A bar with an ETA on a terminal, a plain line every ten seconds elsewhere.

    Ctrl-C takes effect between two segments, when everything is in its place; a second one
    at once.
    """

    def __init__(self, total: int):
        self.bar = tqdm.tqdm(
            total=total, unit="event", unit_scale=True, disable=not sys.stderr.isatty()
        )
        self.total, self.done, self.began, self.said = total, 0, time.monotonic(), 0.0
        self.label = ""
        self.interrupted = False
        self.handler: Any = None
        if threading.current_thread() is threading.main_thread():  # only there may we listen
            self.handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def close(self) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
        self.bar.close()

    def start(self, label: str) -> None:
        self.label = label
        self.bar.set_description(label)

    def __call__(self, events: int) -> None:
        if self.interrupted:
            self.close()
            raise KeyboardInterrupt
        self.done += events
        self.bar.update(events)
        elapsed = time.monotonic() - self.began
        if self.bar.disable and (elapsed - self.said > 10 or self.done == self.total):
            self.said = elapsed
            line = tqdm.tqdm.format_meter(
                self.done, self.total, elapsed, unit="event", ncols=80
            )
            print(f"{self.label}: {line}", file=sys.stderr, flush=True)


def run(
    config: Config,
    folder: results.Folder | None = None,
    *,
    data_dir: str | None = None,
    checkpoint_every: int = 1000,
    max_lanes: int | None = None,
) -> list[dict[str, Any]]:
    """Runs the panel, one sweep over seeds for each method and attack.

    Returns tidy rows, one per method, attack, seed and record. With a folder, each sweep has
    a checkpoint there, and the rows so far are written with it.
    """
    setting = prepare(config, data_dir)
    every = min(config.eval_every, config.events)
    panel = [(method, attack) for method in config.methods for attack in config.attacks]
    jobs = []
    for method, attack in panel:  # all of them are checked before the first one runs
        hyper = dict(METHODS[method].presets[config.preset])
        if config.step_size is not None:
            hyper["step_size"] = config.step_size
        lanes = dataclasses.replace(
            setting.lanes,
            hyper={k: np.full(len(config.seeds), v, np.float32) for k, v in hyper.items()},
        )
        build = Build(method, *parse_attack(attack), config.feedback)
        lanes.check(build, config.delivery)
        jobs.append((method, attack, build, lanes))

    if folder:
        folder.claim()
    progress = Progress(len(jobs) * len(config.seeds) * config.events)
    rows: list[dict[str, Any]] = []
    for method, attack, build, lanes in jobs:
        progress.start(f"{method} {attack}")
        name = f"{method}-{attack}".replace(":", "-").replace(",", "-").replace("=", "")
        done = list(rows)

        def keep(columns, attack=attack, build=build, lanes=lanes, done=done):
            rows[:] = done + tidy(config, build, attack, lanes, columns)
            if folder:
                folder.write_rows(rows)

        sweeps.sweep(
            build,
            lanes,
            every=every,
            measure=setting.measure,
            delivery=config.delivery,
            max_lanes=max_lanes,
            checkpoint=folder.checkpoint(name) if folder else None,
            checkpoint_every=checkpoint_every,
            progress=progress,
            on_checkpoint=keep,
        )
    progress.close()
    return rows


def tidy(
    config: Config,
    build: Build,
    attack: str,
    lanes: sweeps.Lanes,
    columns: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """The columns of one sweep, [seeds, records], as rows."""
    one = lanes.take(0)
    evaluations = build(one.problem, one.hyper).worker.evaluations
    whole_gradient = not METHODS[build.method].directional
    numbers = one.problem.x0.size if whole_gradient else config.directions
    rows = []
    for lane, seed in enumerate(config.seeds):
        for record in range(columns["event"].shape[1]):
            values = {name: float(column[lane, record]) for name, column in columns.items()}
            if np.isnan(values["event"]):
                break  # not there yet
            event = int(values.pop("event"))
            rows.append(
                {
                    "method": build.method,
                    "attack": attack,
                    "partition": config.partition,
                    "arrivals": "uniform",
                    "seed": seed,
                    "event": event,
                    "evaluations": event * evaluations,
                    "bits_up": event * numbers * 32,
                }
                | values
                | {n: int(values[n]) for n in ("staleness", "nonfinite")}
            )
    return rows
