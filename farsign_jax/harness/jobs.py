"""What a panel is made of: the data of its config, and the sweeps that share them.

A method that takes an aggregator, or says so, runs in lock-step, all its aggregators and
attacks side by side; any other one is a sweep over seeds for each attack.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from farsign_jax import arrivals, base, keys, models, problems, simulation, sweeps
from farsign_jax.base import Key
from farsign_jax.config.panel_config import CLOCKLESS, PanelConfig, check, parse_attack
from farsign_jax.data import datasets, partitions
from farsign_jax.methods import METHODS, SystemSpec, hyper_of, options_of
from farsign_jax.problems import metrics
from farsign_jax.specs import parse
from farsign_jax.sweeps.lockstep import Lockstep
from farsign_jax.validation import require


@dataclasses.dataclass(frozen=True)
class PanelData:
    """The data side of a config: what every method and attack of a seed has in common."""

    lanes: sweeps.RunBatch  # one lane per seed, without hyper-parameters
    rounds: sweeps.RunBatch | None  # the same in rounds, where a method works so
    measure: metrics.Measure

    def of(self, job: "Job") -> sweeps.RunBatch:
        lanes = self.rounds if job.in_rounds else self.lanes
        assert lanes is not None
        return lanes


def _schedule(config: PanelConfig, key: Key) -> arrivals.Schedule:
    """Who comes when, one by one."""
    m, events = config.workers, config.events
    name, options = parse(config.arrivals)
    if name == "uniform":
        return arrivals.Schedule(arrivals.uniform(key, m, events))
    if name == "weighted":
        return arrivals.Schedule(arrivals.weighted(key, config.rates(), events))
    if name == "trace":
        return arrivals.trace(str(dict(options)["path"]), m, events)
    return arrivals.by_time(key, config.fleet(), events)


def _rounds(config: PanelConfig, key: Key) -> arrivals.Schedule:
    """As many answers in rounds."""
    waiting = config.waiting()
    rounds = max(round(config.events / max(config.feedback.per_round or 1, 1)), 1)
    schedule = arrivals.rounds(key, config.fleet(), rounds, **waiting)
    clockless = parse(config.arrivals)[0] in CLOCKLESS
    return schedule._replace(times=None) if clockless else schedule


def prepare(config: PanelConfig, data_dir: str | None) -> PanelData:
    """Loads the data, deals them out for each seed and draws each seed's schedule."""
    check(config)
    data = datasets.load(config.dataset, data_dir)
    train, labels = data.train_images, data.train_labels
    test, test_labels = data.test_images, data.test_labels
    if config.validation:
        held = round(config.validation * len(train))
        rule = f"--validation leaves examples on either side: got {config.validation:g}"
        require(0 < held < len(train), f"{rule} of {len(train)}")
        order = np.random.default_rng(0).permutation(len(train))  # one split for all seeds
        test, test_labels = train[order[:held]], labels[order[:held]]
        train, labels = train[order[held:]], labels[order[held:]]

    module = models.make(config.model, data.num_classes)
    one: list[base.Problem] = []
    single, rounds = [], []
    inputs, targets = jax.device_put((train, np.asarray(labels, np.int32)))  # of all seeds
    for seed in config.seeds:
        roles = keys.split(seed)
        rows, sizes = partitions.partition(
            labels, config.workers, config.partition, roles.partition, config.heterogeneity
        )
        require(
            config.batch_size <= sizes.min(),
            f"need batch_size <= examples of every worker: got batch_size={config.batch_size}, "
            f"and worker {sizes.argmin()} of seed {seed} has {sizes.min()}",
        )
        one.append(problems.classification(module, inputs, targets, rows, sizes, roles.init))
        single.append(_schedule(config, roles.schedule))
        if config.in_rounds:
            rounds.append(_rounds(config, roles.schedule))
    width = max(problem.rows.shape[1] for problem in one)
    problem = dataclasses.replace(
        one[0],
        rows=np.stack([np.pad(p.rows, ((0, 0), (0, width - p.rows.shape[1]))) for p in one]),
        sizes=np.stack([p.sizes for p in one]),
        x0=np.stack([p.x0 for p in one]),
    )
    lies = config.byzantine_mask()

    def lanes(schedules):
        times = [schedule.times for schedule in schedules]
        return sweeps.RunBatch(
            problem=problem,
            seeds=np.asarray(config.seeds, np.int32),
            hyper={},
            byzantine=np.broadcast_to(lies, (len(one), *lies.shape)),
            schedules=np.stack([schedule.workers for schedule in schedules]),
            times=None if times[0] is None else np.stack(times),
        )

    measure = metrics.classification(module, test, test_labels)
    return PanelData(lanes(single), lanes(rounds) if rounds else None, measure)


@dataclasses.dataclass(frozen=True)
class Job:
    """One sweep: a method under one attack, or all its aggregators and attacks in lock-step.

    Attributes:
        methods: as they were asked for: they differ in hyper-parameters alone.
        runs: (aggregator, attack) of each run of a seed, in the order of the lanes (g, a).
        builds: one per run.
        program: what the sweep compiles: the only build, or all of them in lock-step.
        hyper: leaves [G, H], H points of the hyper-parameters for each aggregator: one for
            each method, or several for the only one.
    """

    methods: tuple[str, ...]
    runs: tuple[tuple[str, str], ...]
    builds: tuple[SystemSpec, ...]
    program: Any
    hyper: dict[str, np.ndarray]

    @property
    def method(self) -> str:
        return self.methods[0]

    @property
    def named(self) -> list[tuple[str, str, str]]:
        """(method, aggregator, attack) of the columns of `by_run`, one point per method."""
        groups, attacks = len(self.hyper["step_size"]), range(len(self.runs))
        each = len(self.runs) // groups
        of = [attacks[g * each : (g + 1) * each] for g in range(groups)]
        return [(m, *self.runs[i]) for some in of for m in self.methods for i in some]

    @property
    def lockstep(self) -> bool:
        return isinstance(self.program, Lockstep)

    @property
    def one_seed_at_a_time(self) -> bool:
        """In lock-step, a set of buffers is full or not for all runs of a seed."""
        return self.lockstep and not self.in_rounds

    @property
    def in_rounds(self) -> bool:
        return METHODS[self.builds[0].method].works_in_rounds

    def delivery(self, config: PanelConfig) -> str:
        """Everybody in a round is asked when it begins."""
        return "fresh" if self.in_rounds else config.delivery

    @property
    def points(self) -> int:
        return self.hyper["step_size"].shape[1]

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        text = self.method if self.lockstep else f"{self.method}-{self.runs[0][1]}"
        return text.replace(":", "-").replace(",", "-").replace("=", "")

    def cost(self, setting: PanelData) -> tuple[int, int]:
        """Evaluations and bits of an answer."""
        hyper = {name: values[0, 0] for name, values in self.hyper.items()}
        problem = jax.device_put(setting.lanes.take(0).problem)
        system = self.builds[0](problem, hyper)
        return system.worker.evaluations, simulation.bits_per_answer(system, problem)

    def lanes(self, setting: PanelData) -> sweeps.RunBatch:
        """A lane per seed in lock-step, one per seed and point otherwise."""
        lanes = setting.of(self)
        seeds = len(lanes)
        if self.lockstep:
            every = {k: np.broadcast_to(v, (seeds, *v.shape)) for k, v in self.hyper.items()}
            return dataclasses.replace(lanes, hyper=every)
        lanes = lanes.take(np.repeat(np.arange(seeds), self.points))
        every = {k: np.tile(v[0], seeds) for k, v in self.hyper.items()}
        return dataclasses.replace(lanes, hyper=every)

    def alone(self, setting: PanelData, number: int) -> tuple[SystemSpec, sweeps.RunBatch]:
        """One run by itself: the first seed and the first point."""
        row = number // (len(self.runs) // len(self.hyper["step_size"]))
        own = {name: values[row, :1] for name, values in self.hyper.items()}
        lanes = setting.of(self)
        return self.builds[number], dataclasses.replace(lanes.take(slice(0, 1)), hyper=own)

    def by_run(self, columns: dict[str, np.ndarray], seeds: int) -> dict[str, np.ndarray]:
        """Columns of the sweep as [S, E, G * H * A], lanes in the order (g, h, a)."""
        if self.lockstep:
            lanes = len(self.runs) * self.points
            columns = columns | {"seconds": columns["seconds"] / lanes}  # a run's share
            return {
                name: c if c.ndim == 3 else np.repeat(c[..., None], lanes, axis=2)
                for name, c in columns.items()
            }
        split = {n: c.reshape(seeds, self.points, -1) for n, c in columns.items()}
        return {name: np.swapaxes(column, 1, 2) for name, column in split.items()}


def jobs_of(config: PanelConfig, multiples: Sequence[float] = (1.0,)) -> list[Job]:
    """The sweeps of a panel; every run with each of these multiples of its step size."""

    def points(method, aggregator, told):  # leaves f32[H]
        hyper = hyper_of(method, config.preset, aggregator)
        if config.step_size is not None:
            hyper["step_size"] = config.step_size
        hyper |= told
        steps = np.asarray(multiples, np.float32) * np.float32(hyper["step_size"])
        every = {k: np.full(len(steps), v, np.float32) for k, v in hyper.items()}
        return every | {"step_size": steps}

    jobs = []
    parsed = [parse_attack(attack) for attack in config.attacks]
    for (method, options, *_), texts in _alike(config, len(multiples) == 1).items():
        known = options_of(method)
        for name in ("buffers", "byzantine"):
            if name in known and name not in dict(options):
                options = (*options, (name, getattr(config, name)))
        if dict(options).get("arrival_rates") == "known":
            options = tuple(
                (o, config.rates() if o == "arrival_rates" else v) for o, v in options
            )
        names = config.aggregators if "aggregator" in known else ("",)
        rows = []
        for name in names:
            chosen = options + ((("aggregator", name),) if name else ())
            rows.append(
                [SystemSpec(method, *attack, config.feedback, chosen) for attack in parsed]
            )
        grid = [[points(method, name, numbers) for numbers in texts.values()] for name in names]
        hyper = {
            key: np.stack([np.concatenate([one[key] for one in row]) for row in grid])
            for key in grid[0][0]
        }
        told = {"methods": tuple(texts), "hyper": hyper}
        if "aggregator" in known or METHODS[method].attacks_in_lockstep:
            runs = tuple((name, attack) for name in names for attack in config.attacks)
            builds = tuple(build for row in rows for build in row)
            program = Lockstep(tuple(map(tuple, rows)))
            jobs.append(Job(runs=runs, builds=builds, program=program, **told))
        else:
            for attack, build in zip(config.attacks, rows[0], strict=True):
                runs = (("", attack),)
                jobs.append(Job(runs=runs, builds=(build,), program=build, **told))
    return jobs


def _alike(config: PanelConfig, join: bool) -> dict[tuple, dict[str, dict[str, Any]]]:
    """(method, options) -> what it was asked for by -> hyper-parameters given there.

    `join`: methods that differ in hyper-parameters alone are points of one sweep.
    """
    found: dict[tuple, dict[str, dict[str, Any]]] = {}
    for text in config.methods:
        method, options = parse(text)
        numbers = {o: v for o, v in options if o in hyper_of(method, config.preset)}
        rest = tuple((o, v) for o, v in options if o not in numbers)
        key = (method, rest) if join else (method, rest, text)
        found.setdefault(key, {})[text] = numbers
    return found
