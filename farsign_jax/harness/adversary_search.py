"""Search for the adversary under which a method does worst.

Successive halving: many points are tried in short runs, the quarter of them that does most harm
in runs four times as long, and so on up to runs of full length. Then a local random search:
the worst points, and what is known to be bad, are changed a little, again in runs of full
length. Of the points that are then worst, the one is taken that is worst on further seeds, so
that luck counts less.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from farsign_jax.harness.adversary_space import Point, Space
from farsign_jax.validation import require

FACTOR = 4  # of runs that end, and of the length of the others, from rung to rung
FINALISTS = 4  # that are tried on further seeds

# `(points, fraction of the events, seeds) -> f[points, seeds]`, the accuracy at the end.
Evaluate = Callable[[Sequence[Point], float, Sequence[int]], np.ndarray]


class Plan(NamedTuple):
    """How much is tried.

    Attributes:
        configurations: how many points are drawn.
        rungs: how many lengths of runs there are.
        generations: how many times the worst points are changed.
        changes: how many changed points a generation has.
    """

    configurations: int = 200
    rungs: int = 3
    generations: int = 3
    changes: int = 8

    def sizes(self) -> list[tuple[int, float]]:
        """The number of points of each rung, and the length of its runs as a fraction."""
        last = self.rungs - 1
        return [
            (max(self.configurations // FACTOR**i, 1), float(FACTOR) ** (i - last))
            for i in range(self.rungs)
        ]

    @property
    def runs(self) -> float:
        """The runs of full length that cost as much, but for those of further seeds."""
        return sum(n * part for n, part in self.sizes()) + self.generations * self.changes

    def checked(self) -> "Plan":
        """The plan, if every rung has a configuration.

        Raises:
            InvalidConfig: if it has fewer.
        """
        least = FACTOR ** (self.rungs - 1)
        rule = f"{self.rungs} rungs need at least {least} configurations"
        require(self.configurations >= least, f"{rule}: got {self.configurations}")
        return self

    def within(self, runs: float) -> "Plan":
        """The plan with as many configurations as so many runs of full length allow.

        Raises:
            InvalidConfig: if these do not allow for one configuration in the last rung.
        """
        least = self._replace(configurations=FACTOR ** (self.rungs - 1))
        rule = f"a search needs a budget of at least {least.runs:.3g} runs of full length for "
        require(runs >= least.runs, f"{rule}{self.rungs} rungs: got {runs:.3g}")
        count = least.configurations
        while self._replace(configurations=count + 1).runs <= runs:
            count += 1
        return self._replace(configurations=count)


class Trial(NamedTuple):
    """A point that ran at full length, and its accuracy."""

    point: Point
    accuracy: float


class Found(NamedTuple):
    """What a search has found.

    Attributes:
        strongest: the point under which the method does worst, with its mean accuracy over all
            search seeds.
        trials: all points that ran at full length on the first search seed, the worst first.
        tried: the number of points that ran at any length.
    """

    strongest: Trial
    trials: list[Trial]
    tried: int


def _accuracy(trial: Trial) -> float:
    return trial.accuracy


def search(
    space: Space,
    evaluate: Evaluate,
    plan: Plan,
    seeds: Sequence[int],
    known: Sequence[Trial] = (),
    seed: int = 0,
) -> Found:
    """Searches for the point with the lowest accuracy.

    Args:
        space: what is drawn from.
        evaluate: runs points and returns their accuracies.
        plan: how much is tried.
        seeds: of runs. The first is that of all trials; the finalists have the others too.
        known: points that ran at full length on the first seed before the search.
        seed: of the draws of the search.
    """
    rng = np.random.default_rng(seed)
    points = space.draw(rng, plan.configurations)
    tried = len(points)
    trials: list[Trial] = []
    for count, fraction in plan.sizes():
        points = points[:count]
        values = evaluate(points, fraction, seeds[:1])[:, 0]
        order = np.argsort(values, kind="stable")
        trials = [Trial(points[i], float(values[i])) for i in order]
        points = [trial.point for trial in trials]
    trials = sorted([*trials, *known], key=_accuracy)
    for _ in range(plan.generations):
        parents = trials[: max(FINALISTS, 1)]
        changed = [
            space.change(rng, parents[n % len(parents)].point) for n in range(plan.changes)
        ]
        tried += len(changed)
        values = evaluate(changed, 1.0, seeds[:1])[:, 0]
        trials += [Trial(p, float(v)) for p, v in zip(changed, values, strict=True)]
        trials.sort(key=_accuracy)
    finalists = trials[:FINALISTS]
    means = np.array([trial.accuracy for trial in finalists])
    if len(seeds) > 1:
        others = evaluate([trial.point for trial in finalists], 1.0, seeds[1:])
        means = np.column_stack([means, others]).mean(axis=1)
    worst = int(np.argmin(means))
    return Found(Trial(finalists[worst].point, float(means[worst])), trials, tried)
