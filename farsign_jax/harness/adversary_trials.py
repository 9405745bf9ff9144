"""Runs of one method under many adversaries, in one program.

The attack and its strength are numbers of a run (`sweeps.AttackChoice`); timing and placement
are its schedule and its mask. Runs advance in segments of equal length and in chunks of equal
width, so that short and long runs, and those with floods, share what is compiled.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from farsign_jax import attacks, keys, simulation, sweeps
from farsign_jax.base import Problem
from farsign_jax.config import problem as problem_lib
from farsign_jax.config import schedules
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import SweepSpec, sweep_specs
from farsign_jax.harness.adversary import Adversary
from farsign_jax.harness.adversary_search import Trial
from farsign_jax.harness.adversary_space import Kind, Point, Space
from farsign_jax.io import files
from farsign_jax.io.run_folder import RunFolder
from farsign_jax.sweeps import AttackChoice
from farsign_jax.validation import InvalidConfig

WIDTH = 1  # runs of a chunk
SEGMENTS = 16  # of a run of full length


class Trials:
    """The runs of one method, whose final accuracies `evaluate` returns.

    Args:
        config: of one method and one aggregator; its events are a multiple of `SEGMENTS`.
        examples: the data set.
        space: the adversaries. Kinds that the method cannot be attacked with are left out.
        fixed: adversaries under which it runs too (`evaluate_fixed`), as points of the space
            that are not drawn. Those that it cannot be attacked with are left out, as are kinds
            of the space.
        folder: keeps in `checkpoints/` the accuracies of runs that are done, or None.
        name: begins the names of these files.
        progress: called with numbers of answers.
    """

    def __init__(
        self,
        config: PanelConfig,
        examples: problem_lib.Examples,
        space: Space,
        fixed: Sequence[Adversary],
        folder: RunFolder | None = None,
        name: str = "",
        progress: Callable[[int], Any] | None = None,
    ):
        self.config, self._examples, self._folder, self._name = config, examples, folder, name
        self._progress = progress
        (self._spec,) = sweep_specs(dataclasses.replace(config, attacks=("none",)))
        self._problems: dict[int, Problem] = {}
        tells = learns(self._spec, self._problem(config.seeds[0]))
        self.fixed = tuple(a for a in fixed if tells or not attacks.make(a.attack).omniscient)
        possible = _possible(space, self._spec, tells)
        self.space, self._fixed_points = possible.with_fixed(self.fixed)
        self._program = AttackChoice(self._spec.builds[0], self.space.families)
        self.multiple = 1.0  # of the step size of the preset
        self.evaluations = 0
        self._schedules: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def in_rounds(self) -> bool:
        return self._spec.in_rounds

    @functools.cached_property
    def cost(self) -> int:
        """Evaluations of a run of full length, for each of its workers that answers."""
        hyper = {name: values[0, :1] for name, values in self._spec.hyper.items()}
        problem = problem_lib.stacked([self._problem(self.config.seeds[0])])
        found = sweeps.inspect(self._spec.builds[0], problem, hyper)
        return found.evaluations * self.config.events

    def adversary(self, point: Point) -> Adversary:
        """The adversary of a point in runs of full length."""
        return self.space.adversary(point, self._own_events(self.config.events))

    def evaluate(
        self, points: Sequence[Point], fraction: float, seeds: Sequence[int]
    ) -> np.ndarray:
        """The final accuracies f[points, seeds] of runs of a fraction of the full length."""
        events = round(self.config.events * fraction)
        return self._evaluate(points, events, seeds, (self.multiple,))[0]

    def evaluate_fixed(
        self, seeds: Sequence[int], multiples: Sequence[float] = ()
    ) -> np.ndarray:
        """The final accuracies of runs of full length under the fixed adversaries.

        Args:
            seeds: of the runs.
            multiples: of the step size of the preset; by default the one that was chosen.

        Returns:
            f[multiples, fixed adversaries, seeds].
        """
        multiples = multiples or (self.multiple,)
        return self._evaluate(self._fixed_points, self.config.events, seeds, multiples)

    def tune(
        self, multiples: Sequence[float], seeds: Sequence[int], unknown: int = 0
    ) -> list[Trial]:
        """Chooses a step size, and returns how the method then does under what is fixed.

        It is the best one under the worst of the fixed adversaries, to 0.1 %, and then on
        average over them; the last `unknown` of them do not count.
        """
        values = self.evaluate_fixed(seeds, multiples).mean(axis=2)
        merits = [
            (round(float(row.min()), 3), float(row.mean()))
            for row in values[:, : len(self.fixed) - unknown]
        ]
        chosen = merits.index(max(merits))
        self.multiple = multiples[chosen]
        pairs = zip(self._fixed_points, values[chosen].tolist(), strict=True)
        return [Trial(point, accuracy) for point, accuracy in pairs]

    def _evaluate(
        self,
        points: Sequence[Point],
        events: int,
        seeds: Sequence[int],
        multiples: Sequence[float],
    ) -> np.ndarray:
        """The final accuracies, f[multiples, points, seeds]."""
        own = self._own_events(events)
        runs = [
            _Run(
                seed,
                point.kind,
                self.space.strength(point),
                self.space.after(point, own),
                point.timing,
                point.placement,
                multiple,
            )
            for multiple in multiples
            for point in points
            for seed in seeds
        ]
        shape = len(multiples), len(points), len(seeds)
        return self._accuracies(runs, events).reshape(shape)

    def _accuracies(self, runs: Sequence["_Run"], events: int) -> np.ndarray:
        """The final accuracy of each run, after as many honest answers as in `events`."""
        found = np.full(len(runs), np.nan)
        by_length: dict[int, list[int]] = {}
        for number, run in enumerate(runs):
            by_length.setdefault(self.length(run.timing, events), []).append(number)
        for length, members in by_length.items():
            found[members] = self._sweep([runs[n] for n in members], length)
        return found

    def _every(self) -> int:
        """Answers between two records: what one compiled segment advances by."""
        return max(self.config.events // SEGMENTS, 1)

    def length(self, timing: str, events: int) -> int:
        """Answers of a run with a timing attack: in a flood, those of the same virtual time."""
        name, _, rate = timing.partition(":rate=")
        if name == "flood":
            own = dataclasses.replace(self.config, events=events)
            events = own.flood_events(float(rate))
        return max(round(events / self._every()), 1) * self._every()

    def _sweep(self, runs: Sequence["_Run"], events: int) -> np.ndarray:
        """The final accuracies of runs of equal length; a file keeps them when all are done."""
        pairs = [self._schedule(run, events) for run in runs]
        answers = sum(int((schedule >= 0).sum()) for schedule, _ in pairs)
        self.evaluations += answers * self.cost // self.config.events
        kept = self._kept(runs, events)
        if kept is not None and kept.exists():
            (found,) = files.load_state(kept, (np.zeros(len(runs)),))
        else:
            found = self._run(runs, events)
            if kept is not None:
                files.save_state(kept, (found,))
        if self._progress:
            self._progress(answers)
        return found

    def _run(self, runs: Sequence["_Run"], events: int) -> np.ndarray:
        width = WIDTH * jax.local_device_count()
        padded = [*runs, *[runs[-1]] * (-len(runs) % width)]
        pairs = [self._schedule(run, events) for run in padded]
        batch = sweeps.RunBatch(
            problem=problem_lib.stacked([self._problem(run.seed) for run in padded]),
            seeds=np.array([run.seed for run in padded], np.int32),
            hyper=self._hyper(padded),
            byzantine=np.stack([mask for _, mask in pairs]),
            schedules=np.stack([schedule for schedule, _ in pairs]),
        )
        every = dataclasses.replace(self.config, events=events, eval_every=self._every())
        columns, _ = sweeps.sweep(
            self._program,
            batch,
            every=self._spec.every(every, batch),
            measure=self._examples.measure,
            delivery=self._spec.delivery(self.config),
            max_parallel_runs=WIDTH,
        )
        return columns["test_accuracy"][: len(runs), -1]

    def _hyper(self, runs: Sequence["_Run"]) -> dict[str, np.ndarray]:
        numbers = {n: np.repeat(v[0, 0], len(runs)) for n, v in self._spec.hyper.items()}
        multiples = np.array([run.multiple for run in runs], np.float32)
        return numbers | {
            "step_size": numbers["step_size"] * multiples,
            "attack": np.array([run.attack for run in runs], np.int32),
            "strength": np.array([run.strength for run in runs], np.float32),
            "after": np.array([run.after for run in runs], np.int32),
        }

    def _own_events(self, answers: int) -> int:
        """Events of the method for so many answers: rounds, where it works in rounds."""
        return answers // self.config.workers if self.in_rounds else answers

    def _problem(self, seed: int) -> Problem:
        if seed not in self._problems:
            self._problems[seed] = problem_lib.problem_of(self.config, self._examples, seed)
        return self._problems[seed]

    def _schedule(self, run: "_Run", events: int) -> tuple[np.ndarray, np.ndarray]:
        """Who arrives at each event, and who is Byzantine."""
        at = run.seed, run.timing, run.placement, events
        if at not in self._schedules:
            config = dataclasses.replace(
                self.config,
                events=events,
                timing_attack=run.timing,
                byzantine_placement=run.placement,
            )
            key = keys.split(run.seed).schedule
            made = schedules.schedule(config, key, self.in_rounds)
            self._schedules[at] = made.workers, config.byzantine_mask()
        return self._schedules[at]

    def _kept(self, runs: Sequence["_Run"], events: int) -> pathlib.Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(repr((list(runs), events)).encode()).hexdigest()[:12]
        return self._folder.checkpoint(f"{self._name}-{digest}")


@dataclasses.dataclass(frozen=True)
class _Run:
    """What distinguishes a run of these trials from the others."""

    seed: int
    attack: int
    strength: float
    after: int
    timing: str
    placement: str
    multiple: float


def _possible(space: Space, spec: SweepSpec, tells: bool) -> Space:
    """The part of a space that a method can be attacked with."""

    def omniscient(kind: Kind) -> bool:
        return attacks.make(kind.family.written(kind.low)).omniscient

    kinds = tuple(kind for kind in space.kinds if tells or not omniscient(kind))
    timings = space.timings[:1] if spec.in_rounds else space.timings
    buffers = "buffers" in dict(spec.builds[0].options)
    placements = ("first", "one_buffer") if buffers else ("first",)
    return space._replace(kinds=kinds, timings=timings, placements=placements)


def learns(spec: SweepSpec, problem: Problem) -> bool:
    """Whether an adversary learns from the server what others reported about a question."""
    hyper = {name: values[0, 0] for name, values in spec.hyper.items()}
    problem = jax.device_put(problem)  # `begin` is given arrays of JAX

    def begin() -> simulation.Run:
        system = spec.builds[0](problem, hyper)._replace(attack=attacks.alie())
        return simulation.start(system, problem, keys.split(0), "fresh")

    try:
        jax.eval_shape(begin)
    except InvalidConfig:
        return False
    return True
