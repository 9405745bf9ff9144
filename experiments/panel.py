"""A panel: methods x aggregators x attacks x seeds on one data set, the shape of most
experiments.

Not an experiment itself: the data and the sweeps that they share. A method that
takes an aggregator, or says so, runs in lock-step, one seed at a time, all its aggregators and
attacks side by side; any other one is a sweep over seeds for each attack.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.config import CLOCKLESS, Config, check, parse, parse_attack
from experiments.progress import Progress
from farsign_jax import (
    arrivals,
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
from farsign_jax.base import Key, require
from farsign_jax.lockstep import Lockstep
from farsign_jax.methods import METHODS, Build, hyper_of, options_of


@dataclasses.dataclass(frozen=True)
class Setting:
    """The data side of a config: what every method and attack of a seed has in common."""

    lanes: sweeps.Lanes  # one lane per seed, without hyper-parameters
    rounds: sweeps.Lanes | None  # the same in rounds, where a method works so
    measure: metrics.Measure

    def of(self, job: "Job") -> sweeps.Lanes:
        lanes = self.rounds if job.in_rounds else self.lanes
        assert lanes is not None
        return lanes


def _schedule(config: Config, key: Key) -> arrivals.Schedule:
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


def _rounds(config: Config, key: Key) -> arrivals.Schedule:
    """As many answers in rounds."""
    waiting = config.waiting()
    rounds = max(round(config.events / max(config.feedback.per_round or 1, 1)), 1)
    schedule = arrivals.rounds(key, config.fleet(), rounds, **waiting)
    clockless = parse(config.arrivals)[0] in CLOCKLESS
    return schedule._replace(times=None) if clockless else schedule


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
    single, rounds = [], []
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
        single.append(_schedule(config, roles.schedule))
        if config.in_rounds:
            rounds.append(_rounds(config, roles.schedule))
    width = max(problem.rows.shape[1] for problem in one)
    problem = dataclasses.replace(
        one[0],
        rows=jnp.stack([jnp.pad(p.rows, ((0, 0), (0, width - p.rows.shape[1]))) for p in one]),
        sizes=jnp.stack([p.sizes for p in one]),
        x0=jnp.stack([p.x0 for p in one]),
    )
    lies = config.byzantine_mask()

    def lanes(schedules):
        times = [schedule.times for schedule in schedules]
        return sweeps.Lanes(
            problem=problem,
            seeds=jnp.asarray(config.seeds, jnp.int32),
            hyper={},
            byzantine=jnp.asarray(np.broadcast_to(lies, (len(one), *lies.shape))),
            schedules=np.stack([schedule.workers for schedule in schedules]),
            times=None if times[0] is None else np.stack(times),
        )

    measure = metrics.classification(module, test, test_labels)
    return Setting(lanes(single), lanes(rounds) if rounds else None, measure)


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
    builds: tuple[Build, ...]
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
    def in_rounds(self) -> bool:
        return METHODS[self.builds[0].method].rounds

    def delivery(self, config: Config) -> str:
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

    def lanes(self, setting: Setting) -> sweeps.Lanes:
        """A lane per seed in lock-step, one per seed and point otherwise."""
        lanes = setting.of(self)
        seeds = len(lanes)
        if self.lockstep:
            every = {k: np.broadcast_to(v, (seeds, *v.shape)) for k, v in self.hyper.items()}
            return dataclasses.replace(lanes, hyper=every)
        lanes = lanes.take(np.repeat(np.arange(seeds), self.points))
        every = {k: np.tile(v[0], seeds) for k, v in self.hyper.items()}
        return dataclasses.replace(lanes, hyper=every)

    def alone(self, setting: Setting, number: int) -> tuple[Build, sweeps.Lanes]:
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


def jobs_of(config: Config, multiples: Sequence[float] = (1.0,)) -> list[Job]:
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
            rows.append([Build(method, *attack, config.feedback, chosen) for attack in parsed])
        grid = [[points(method, name, numbers) for numbers in texts.values()] for name in names]
        hyper = {
            key: np.stack([np.concatenate([one[key] for one in row]) for row in grid])
            for key in grid[0][0]
        }
        told = {"methods": tuple(texts), "hyper": hyper}
        if "aggregator" in known or METHODS[method].lockstep:
            runs = tuple((name, attack) for name in names for attack in config.attacks)
            builds = tuple(build for row in rows for build in row)
            program = Lockstep(tuple(map(tuple, rows)))
            jobs.append(Job(runs=runs, builds=builds, program=program, **told))
        else:
            for attack, build in zip(config.attacks, rows[0], strict=True):
                runs = (("", attack),)
                jobs.append(Job(runs=runs, builds=(build,), program=build, **told))
    return jobs


def _alike(config: Config, join: bool) -> dict[tuple, dict[str, dict[str, Any]]]:
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


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel that is ready to run.

    Attributes:
        name: tells its checkpoints from those of other panels in the same folder.
        told: columns of its rows beside the usual ones.
    """

    config: Config
    setting: Setting
    jobs: Sequence[Job]
    name: str = ""
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def answers(self) -> int:
        runs = sum(len(job.runs) * job.points for job in self.jobs)
        return runs * len(self.config.seeds) * self.config.events


def ready(
    config: Config,
    data_dir: str | None,
    multiples: Sequence[float] = (1.0,),
    **named: Any,
) -> Panel:
    """Its data and its sweeps; what cannot run is refused here."""
    panel = Panel(config, prepare(config, data_dir), jobs_of(config, multiples), **named)
    for job in panel.jobs:
        job.lanes(panel.setting).check(job.program, job.delivery(config))
    return panel


def sweep(
    panel: Panel,
    folder: results.Folder | None,
    keep: Callable[[Job, dict[str, np.ndarray]], Any],
    progress: Progress,
    *,
    checkpoint_every: int = 1000,
    max_lanes: int | None = None,
) -> list[sweeps.Final]:
    """Runs all jobs; hands the columns so far, [S, E, runs], to `keep` at each checkpoint.

    Returns what is left of each job.
    """
    config, setting, ends = panel.config, panel.setting, []
    if folder:
        folder.claim()
    for job in panel.jobs:
        own = job.lanes(setting)
        label = job.method if job.lockstep else f"{job.method} {job.runs[0][1]}"
        progress.start(f"{panel.name} {label}".strip())
        side_by_side = len(job.runs) * job.points if job.lockstep else 1
        side_by_side *= config.events / own.schedules.shape[1]
        every = config.eval_every * own.schedules.shape[1] // config.events  # as many answers
        name = f"{panel.name}-{job.name}" if panel.name else job.name
        _, final = sweeps.sweep(
            job.program,
            own,
            every=min(max(every, 1), own.schedules.shape[1]),
            measure=setting.measure,
            delivery=job.delivery(config),
            max_lanes=1 if job.lockstep else max_lanes,
            checkpoint=folder.checkpoint(name) if folder else None,
            checkpoint_every=checkpoint_every,
            progress=lambda events, n=side_by_side: progress(n * events),
            on_checkpoint=lambda columns, job=job: keep(
                job, job.by_run(columns, len(config.seeds))
            ),
        )
        ends.append(final)
    return ends


def run(
    panels: Sequence[Panel], folder: results.Folder | None = None, **options: Any
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
    if folder:
        results.write_text(folder.path / "staleness.json", json.dumps(known, indent=1) + "\n")
    return [row for rows in done.values() for row in rows]


def staleness(job: Job, seeds: Sequence[int], final: sweeps.Final) -> dict[str, Any]:
    """Of each worker in each run: how many answers, how stale (`simulate.Staleness`)."""
    found = {n: a.tolist() for n, a in final.staleness._asdict().items() if n != "histogram"}
    counts = np.asarray(final.staleness.histogram)
    last = int(max(np.flatnonzero(counts.any(axis=(0, 1))), default=0))
    of = {"sweep": job.name, "seeds": np.repeat(seeds, len(counts) // len(seeds)).tolist()}
    return of | found | {"histogram": counts[..., : last + 1].tolist()}


def tidy(
    config: Config, job: Job, setting: Setting, columns: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The columns of one sweep, [S, E, runs], as rows."""
    problem = setting.lanes.take(0).problem
    hyper = {name: values[0, 0] for name, values in job.hyper.items()}
    system = job.builds[0](problem, hyper)
    evaluations, bits = system.worker.evaluations, simulate.bits_per_answer(system, problem)
    lanes = setting.of(job)
    heard = (lanes.schedules >= 0).reshape(*lanes.schedules.shape[:2], -1).sum(axis=2)
    answers = heard.cumsum(axis=1)  # [S, T]
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
