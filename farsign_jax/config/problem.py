"""The data side of a configuration: examples, problems, and batches of runs without numbers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from farsign_jax import attacks, keys, models, problems, sweeps
from farsign_jax.base import Problem
from farsign_jax.config import schedules
from farsign_jax.config.settings import NO_SUBSPACE, RunSettings
from farsign_jax.data import datasets, partitions
from farsign_jax.problems import metrics
from farsign_jax.problems.metrics import Classification, Measure
from farsign_jax.problems.subspace import SubspaceModel
from farsign_jax.validation import require


class Examples(NamedTuple):
    """A data set on the device, the network, and how its parameters are measured."""

    module: nn.Module
    inputs: Any  # [N, ...]
    targets: Any  # i32[N]
    labels: np.ndarray  # i[N], on the host
    measure: Measure
    users: np.ndarray | None = None  # i32[N], whose example each is, where that is known
    model: SubspaceModel | None = None  # where x moves in a subspace
    frozen: Any = None  # what it does not move


def load(
    settings: RunSettings, data_dir: str | None = None, test_too: bool = False
) -> Examples:
    """Loads the data set, and holds out the fraction `validation` of it.

    Args:
        settings: of the runs.
        data_dir: the directory of the data set.
        test_too: whether what is held out is measured beside the test set, instead of it.

    Raises:
        DataError: if the data set cannot be had.
        InvalidConfig: if validation leaves no example on one side.
    """
    data = datasets.load(settings.dataset, data_dir)
    train, labels = data.train_images, data.train_labels
    test, test_labels = data.test_images, data.test_labels
    users, test_users = data.train_users, data.test_users
    if settings.validation:
        held = round(settings.validation * len(train))
        rule = "validation leaves examples on either side: got "
        rule += f"{settings.validation:g} of {len(train)}"
        require(0 < held < len(train), rule)
        order = np.random.default_rng(0).permutation(len(train))  # one split for all seeds
        test, test_labels = train[order[:held]], labels[order[:held]]
        train, labels = train[order[held:]], labels[order[held:]]
        if users is not None:
            users, test_users = users[order[held:]], users[order[:held]]
    module = settings.model
    if not isinstance(module, nn.Module):
        module = models.make(module, data.num_classes)
    model, frozen = None, None
    if settings.subspace != NO_SUBSPACE:
        model = problems.subspace_model(module, train.shape[1:], settings.subspace)
        frozen = model.frozen()
    inputs, targets = jax.device_put((train, np.asarray(labels, np.int32)))
    measured = functools.partial(
        metrics.classification, module if model is None else model.apply, frozen=frozen
    )
    measure = measured(test, test_labels, test_users)
    if settings.validation and test_too:
        of_test = measured(data.test_images, data.test_labels, data.test_users)
        measure = metrics.WithAccuracy(of_test, measure, "validation_accuracy")
    return Examples(module, inputs, targets, labels, measure, users, model, frozen)


def problem_of(settings: RunSettings, examples: Examples, seed: int) -> Problem:
    """Divides the examples among the workers and draws the initial parameters of a seed.

    Raises:
        InvalidConfig: if a worker has fewer examples than a mini-batch.
    """
    roles, s = keys.split(seed), settings
    rows, sizes = partitions.partition(
        examples.labels,
        s.workers,
        s.partition,
        roles.partition,
        s.heterogeneity,
        examples.users,
    )
    rule = f"need batch_size <= examples of every worker: got batch_size={s.batch_size}, "
    rule += f"and worker {sizes.argmin()} of seed {seed} has {sizes.min()}"
    require(s.batch_size <= sizes.min(), rule)
    module, inputs, targets, *_ = examples
    if examples.model is not None:
        of = examples.model, examples.frozen, inputs, targets, rows, sizes
        return problems.in_subspace(*of)
    return problems.classification(module, inputs, targets, rows, sizes, roles.init)


def measure_under(attack: str, measure: Measure, problem: Problem) -> Measure:
    """The measure of runs under an attack; of a backdoor, with its success rate."""
    if isinstance(measure, metrics.WithAccuracy):
        return dataclasses.replace(measure, clean=measure_under(attack, measure.clean, problem))
    goal, classes = attacks.make(attack).goal, problem.num_classes
    if goal is None or classes is None or not isinstance(measure, Classification):
        return measure
    return metrics.with_backdoor(measure, goal, classes)


def stacked(problems_of_seeds: Sequence[Problem]) -> Problem:
    """Problems of the same examples as the one problem of a batch of runs."""
    width = max(problem.rows.shape[1] for problem in problems_of_seeds)
    pads = [((0, 0), (0, width - problem.rows.shape[1])) for problem in problems_of_seeds]
    pairs = zip(problems_of_seeds, pads, strict=True)
    return dataclasses.replace(
        problems_of_seeds[0],
        rows=np.stack([np.pad(problem.rows, pad) for problem, pad in pairs]),
        sizes=np.stack([problem.sizes for problem in problems_of_seeds]),
        x0=np.stack([problem.x0 for problem in problems_of_seeds]),
    )


def run_batch(
    settings: RunSettings, problem: Problem, seeds: Sequence[int], in_rounds: bool
) -> sweeps.RunBatch:
    """One run per seed of a `stacked` problem, without hyper-parameters.

    Args:
        settings: of the runs.
        problem: of all seeds.
        seeds: one per run.
        in_rounds: whether the method works in rounds.
    """
    drawn = [schedules.schedule(settings, keys.split(s).schedule, in_rounds) for s in seeds]
    times = [one.times for one in drawn if one.times is not None]
    mask = settings.byzantine_mask()
    return sweeps.RunBatch(
        problem=problem,
        seeds=np.asarray(seeds, np.int32),
        hyper={},
        byzantine=np.broadcast_to(mask, (len(seeds), *mask.shape)),
        schedules=np.stack([one.workers for one in drawn]),
        times=np.stack(times) if times else None,
    )


def answers_so_far(batch: sweeps.RunBatch) -> np.ndarray:
    """i[R, T], how many answers each run has received after each event."""
    received = (batch.schedules >= 0).reshape(*batch.schedules.shape[:2], -1)
    return received.sum(axis=2).cumsum(axis=1)
