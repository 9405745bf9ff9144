"""What a panel is made of: the data of its configuration, and the sweeps that share them.

A method that takes an aggregator, or is marked `lockstep` in the registry, runs in lock-step:
all its aggregators and attacks advance side by side. An attack on data is a sweep of its own
there, as runs in lock-step have their mini-batches in common. Any other method is a sweep over
seeds for each attack.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from farsign_jax import sweeps
from farsign_jax.config import problem as problem_lib
from farsign_jax.config import systems
from farsign_jax.config.panel_config import PanelConfig, check
from farsign_jax.methods import METHODS, SystemSpec
from farsign_jax.problems.metrics import Measure
from farsign_jax.sweeps.lockstep import Lockstep


@dataclasses.dataclass(frozen=True)
class PanelData:
    """The data side of a panel, which every method and attack of a seed shares.

    Attributes:
        one_by_one: one run per seed, an event being an answer, without hyper-parameters.
        rounds: the same where an event is a round, if a method works so.
        measure: of parameters.
    """

    one_by_one: sweeps.RunBatch
    rounds: sweeps.RunBatch | None
    measure: Measure

    def of(self, spec: "SweepSpec") -> sweeps.RunBatch:
        """The runs of a sweep, one per seed."""
        batch = self.rounds if spec.in_rounds else self.one_by_one
        assert batch is not None
        return batch


def prepare(
    config: PanelConfig, data_dir: str | None = None, test_too: bool = False
) -> PanelData:
    """Loads the data, divides them for each seed and draws each seed's schedule.

    Args:
        config: of the panel.
        data_dir: the directory of the data set.
        test_too: see `problem.load`.

    Raises:
        InvalidConfig, DataError: on what cannot run, or cannot be had.
    """
    check(config)
    examples = problem_lib.load(config, data_dir, test_too)
    one = [problem_lib.problem_of(config, examples, seed) for seed in config.seeds]
    problem = problem_lib.stacked(one)

    def batch(in_rounds: bool) -> sweeps.RunBatch:
        return problem_lib.run_batch(config, problem, config.seeds, in_rounds)

    return PanelData(batch(False), batch(True) if config.in_rounds else None, examples.measure)


@dataclasses.dataclass(frozen=True)
class SweepSpec:
    """One sweep: a method under one attack, or all its aggregators and attacks in lock-step.

    Attributes:
        methods: the texts that asked for it; they differ in hyper-parameters alone.
        runs: (aggregator, attack) of each run of a seed, in the order (g, a).
        builds: one system per run.
        program: what the sweep compiles: the only system, or all of them in lock-step.
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
        """The first of the methods."""
        return self.methods[0]

    @property
    def named(self) -> list[tuple[str, str, str]]:
        """(method, aggregator, attack) of the columns of `by_run`, one point per method."""
        groups = len(self.hyper["step_size"])
        each = len(self.runs) // groups
        groups_of_runs = [self.runs[g * each : (g + 1) * each] for g in range(groups)]
        return [(m, *run) for some in groups_of_runs for m in self.methods for run in some]

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
        """All workers of a round are asked when it begins."""
        return "fresh" if self.in_rounds else config.delivery

    @property
    def points(self) -> int:
        """H, the points of the hyper-parameters."""
        return self.hyper["step_size"].shape[1]

    @property
    def label(self) -> str:
        """The method, and the attack if all runs have the same by necessity."""
        attack = self.runs[0][1]
        several = self.lockstep and not systems.poisons(attack)
        return self.method if several else f"{self.method} {attack}"

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return re.sub("[ :,]", "-", self.label).replace("=", "")

    def measure(self, data: PanelData) -> Measure:
        """The measure of its parameters."""
        problem = data.one_by_one.problem
        return problem_lib.measure_under(self.runs[0][1], data.measure, problem)

    def cost(self, data: PanelData) -> tuple[int, int]:
        """Evaluations and bits of one answer."""
        hyper = {k: v[None] if self.lockstep else v[0] for k, v in self.hyper.items()}
        found = sweeps.inspect(self.program, data.of(self).problem, hyper)
        return found.evaluations, found.bits

    def run_batch(self, data: PanelData) -> sweeps.RunBatch:
        """One run per seed in lock-step, one per seed and point otherwise."""
        batch = data.of(self)
        seeds = len(batch)
        if self.lockstep:
            hyper = {k: np.broadcast_to(v, (seeds, *v.shape)) for k, v in self.hyper.items()}
            return dataclasses.replace(batch, hyper=hyper)
        batch = batch.take(np.repeat(np.arange(seeds), self.points))
        hyper = {k: np.tile(v[0], seeds) for k, v in self.hyper.items()}
        return dataclasses.replace(batch, hyper=hyper)

    def every(self, config: PanelConfig, batch: sweeps.RunBatch) -> int:
        """Events between two records, so that as many answers lie between them."""
        events = batch.schedules.shape[1]
        return min(max(config.eval_every * events // config.events, 1), events)

    def alone(self, data: PanelData, number: int) -> tuple[SystemSpec, sweeps.RunBatch]:
        """One run by itself: the first seed and the first point."""
        row = number // (len(self.runs) // len(self.hyper["step_size"]))
        hyper = {name: values[row, :1] for name, values in self.hyper.items()}
        first = data.of(self).take(slice(0, 1))
        return self.builds[number], dataclasses.replace(first, hyper=hyper)

    def by_run(self, columns: dict[str, np.ndarray], seeds: int) -> dict[str, np.ndarray]:
        """Columns of the sweep as [S, E, G * H * A], runs in the order (g, h, a)."""
        if self.lockstep:
            runs = len(self.runs) * self.points
            columns = columns | {"seconds": columns["seconds"] / runs}  # of one of them
            return {
                name: c if c.ndim == 3 else np.repeat(c[..., None], runs, axis=2)
                for name, c in columns.items()
            }
        split = {n: c.reshape(seeds, self.points, -1) for n, c in columns.items()}
        return {name: np.swapaxes(column, 1, 2) for name, column in split.items()}


def sweep_specs(config: PanelConfig, multiples: Sequence[float] = (1.0,)) -> list[SweepSpec]:
    """The sweeps of a panel; every run with each of these multiples of its step size."""
    found = []
    for texts in _alike(config, join=len(multiples) == 1):
        first = texts[0]
        aggregators = config.aggregators if systems.takes_aggregator(first) else ("",)
        hyper = _hyper(config, texts, aggregators, multiples)
        in_lockstep = systems.in_lockstep(first)
        for attacks in _side_by_side(config) if in_lockstep else zip(config.attacks):
            builds = tuple(
                tuple(systems.system_spec(config, first, name, attack) for attack in attacks)
                for name in aggregators
            )
            runs = tuple((name, attack) for name in aggregators for attack in attacks)
            every = tuple(build for row in builds for build in row)
            program = Lockstep(builds) if in_lockstep else every[0]
            found.append(SweepSpec(texts, runs, every, program, hyper))
    return found


def _side_by_side(config: PanelConfig) -> list[tuple[str, ...]]:
    """The attacks of each sweep in lock-step: all on messages together, each on data alone."""
    alone = [(attack,) for attack in config.attacks if systems.poisons(attack)]
    together = tuple(attack for attack in config.attacks if not systems.poisons(attack))
    return [together, *alone] if together else alone


def _hyper(
    config: PanelConfig, texts: Sequence[str], aggregators: Sequence[str], multiples: Any
) -> dict[str, np.ndarray]:
    """Leaves f32[G, H]: for each aggregator the points of each method."""

    def points(text: str, aggregator: str) -> dict[str, np.ndarray]:
        hyper = systems.hyper_parameters(config, text, aggregator)
        steps = np.asarray(multiples, np.float32) * np.float32(hyper["step_size"])
        leaves = {k: np.full(len(steps), v, np.float32) for k, v in hyper.items()}
        return leaves | {"step_size": steps}

    grid = [[points(text, aggregator) for text in texts] for aggregator in aggregators]
    return {
        name: np.stack([np.concatenate([one[name] for one in row]) for row in grid])
        for name in grid[0][0]
    }


def _alike(config: PanelConfig, join: bool) -> list[tuple[str, ...]]:
    """The methods that one sweep runs together.

    `join`: methods that differ in hyper-parameters alone are points of one sweep.
    """
    found: dict[Any, list[str]] = {}
    for text in config.methods:
        name, options, _ = systems.parse_method(text, config.preset)
        key = (name, *options.items(), None if join else text)
        found.setdefault(key, []).append(text)
    return [tuple(texts) for texts in found.values()]
