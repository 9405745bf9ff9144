"""The cases that are timed: a method, the number of runs side by side and the size of x."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.counts import Sizes
from farsign_jax import arrivals, attacks, keys, models, problems, simulation, sweeps
from farsign_jax.base import Problem, System
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import SweepSpec, sweep_specs
from farsign_jax.data import datasets
from farsign_jax.methods import SystemSpec
from farsign_jax.validation import require

DATA_BYTES = 2**28  # limits the inputs, so that widening them does not fill the memory


@dataclasses.dataclass(frozen=True)
class Generic:
    """A method with the oracle that works for any model."""

    inner: SystemSpec

    def __call__(self, problem: Problem, hyper: Any) -> System:
        return self.inner(dataclasses.replace(problem, structure=None), hyper)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        method: with its options, as it was requested.
        aggregator: empty where the method has none.
        generic: whether the oracle works for any model.
        delivery: `fresh`, `outstanding:L` or `inconsistent:L`.
        runs: the number of runs side by side.
        size: the number of parameters d that was requested.
    """

    method: str
    aggregator: str
    generic: bool
    delivery: str
    runs: int
    size: int

    @property
    def name(self) -> str:
        oracle = ", generic oracle" if self.generic else ""
        return f"{self.method} {self.aggregator}".strip() + oracle

    def job(self, config: PanelConfig) -> SweepSpec:
        """The sweep of the case. Runs in lock-step differ in their step size."""
        rules = (self.aggregator,) if self.aggregator else config.aggregators[:1]
        config = dataclasses.replace(config, methods=(self.method,), aggregators=rules)
        (job,) = sweep_specs(config)
        if job.lockstep and self.runs > 1:
            (job,) = sweep_specs(config, np.linspace(0.5, 1, self.runs).tolist())
        return job

    def program(self, config: PanelConfig) -> Any:
        job = self.job(config)
        if self.generic:
            return Generic(job.builds[0])
        return job.builds[0] if self.runs == 1 else job.program

    def run_batch(
        self, config: PanelConfig, problem: Problem, runs: int, events: int
    ) -> sweeps.RunBatch:
        """`runs` runs with different seeds; those in lock-step have the same seed."""
        job = self.job(config)
        seeds = np.arange(1 if job.lockstep else runs)
        if job.lockstep and self.runs > 1:
            hyper = {name: values[None] for name, values in job.hyper.items()}
        else:
            hyper = {name: np.repeat(values[0, :1], runs) for name, values in job.hyper.items()}
        mask, m = attacks.byzantine_mask(config.workers, config.byzantine), config.workers
        order = [arrivals.uniform(keys.split(int(s)).schedule, m, events) for s in seeds]
        return sweeps.RunBatch(
            problem=sweeps.RunBatch.repeated(problem, len(seeds)),
            seeds=jnp.asarray(seeds, jnp.int32),
            hyper=jax.tree.map(jnp.asarray, hyper),
            byzantine=jnp.asarray(np.broadcast_to(mask, (len(seeds), *mask.shape))),
            schedules=np.stack(order),
        )

    def sizes(self, config: PanelConfig, problem: Problem) -> Sizes:
        """The numbers that the counts of an event depend on."""
        job = self.job(config)
        buffers = dict(job.builds[0].options).get("buffers", 0)
        return Sizes(
            layers=tuple((a.fan_in, a.fan_out) for a in problem.structure.layers),
            batch=config.batch_size,
            directions=config.directions,
            buffers=buffers,
            updates=updates(config.workers, buffers) if buffers else 0.0,
            waits=simulation.depth(self.delivery) > 0,
            lockstep_runs=self.runs if job.lockstep else 1,
            input_bytes=problem.data[0].dtype.itemsize,
        )

    def evaluations(self, config: PanelConfig, problem: Problem) -> int:
        """Mini-batch losses, or gradients, per event."""
        job = self.job(config)
        hyper = {name: values[0, 0] for name, values in job.hyper.items()}
        return job.builds[0](problem, hyper).worker.evaluations

    def run_bytes(self, config: PanelConfig, problem: Problem) -> int:
        """Bytes that all runs keep on the devices, without temporary memory."""
        one = self.run_batch(config, problem, 1, 1)
        each = sweeps.bytes_per_run(self.program(config), one, self.delivery)
        return self.side_by_side(config) * each

    def side_by_side(self, config: PanelConfig) -> int:
        """The rows of the run batch, which devices divide; all runs in lock-step are one."""
        return 1 if self.job(config).lockstep else self.runs


def updates(workers: int, buffers: int, events: int = 10_000) -> float:
    """How often all buffers are full, per answer."""
    filled: set[int] = set()
    updates = 0
    for worker in arrivals.uniform(keys.split(0).schedule, workers, events):
        filled.add(int(worker) % buffers)
        if len(filled) == buffers:
            updates += 1
            filled.clear()
    return updates / events


def grid(
    config: PanelConfig, sizes: Sequence[int], deliveries: Sequence[str], runs: Sequence[int]
) -> list[Case]:
    """All combinations, with the sizes outermost and the runs innermost."""
    cases = []
    for size, text in itertools.product(sizes, config.methods):
        first = Case(text, config.aggregators[0], False, deliveries[0], runs[0], size)
        job = first.job(config)
        require(
            not job.in_rounds,
            f"this benchmark times single answers, and {text} works in rounds",
        )
        rules = config.aggregators if job.runs[0][0] else ("",)
        oracles = (False, True) if job.method == "far_sign" else (False,)
        found = itertools.product(rules, oracles, deliveries, runs)
        cases += [Case(text, *one, size) for one in found]
    return cases


def usual(cases: Sequence[Case]) -> list[Case]:
    """The most informative cases.

    Deliveries other than the first are kept for FAR-SIGN only, and aggregators other than the
    first for the first size and number of runs only.
    """
    first = cases[0]
    rules = dict.fromkeys(case.aggregator for case in cases if case.aggregator)
    chosen = next(iter(rules), "")

    def informative(case: Case) -> bool:
        ours = case.method.partition(":")[0] == "far_sign" and not case.generic
        small = (case.size, case.runs) == (first.size, first.runs)
        return (ours or case.delivery == first.delivery) and (
            case.aggregator in ("", chosen) or small
        )

    return [case for case in cases if informative(case)]


def problem_of(config: PanelConfig, data_dir: str | None, size: int) -> Problem:
    """The data set, and a network whose first layer is as wide as the requested d needs.

    The pixels of an image are repeated, or the last ones left out; the hidden layers, the
    mini-batch and the classes stay the same.
    """
    data = datasets.load(config.dataset, data_dir)
    module = models.make(config.model, data.num_classes)
    rule = "--sizes needs a first layer that can grow, of mlp or softmax_regression"
    require(isinstance(module, models.MLP), f"{rule}: got {config.model!r}")
    images, labels = data.train_images, data.train_labels
    widths = module.features
    behind = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    inputs = round((size - behind) / widths[0]) - 1
    rule = f"--sizes are at least {behind + 2 * widths[0]} with --model={config.model}"
    require(inputs >= 1, f"{rule}: got {size}")
    m, pixels = config.workers, images[0].size
    count = max(DATA_BYTES // (inputs * images.dtype.itemsize), m * config.batch_size)
    count = min(count, len(images)) // m * m
    rule = f"need workers * batch_size <= examples: got {m}, {config.batch_size} and {count}"
    require(m * config.batch_size <= count, rule)
    wide = np.take(images[:count].reshape(count, pixels), np.arange(inputs) % pixels, axis=1)
    rows = np.random.default_rng(0).permutation(count).reshape(m, -1)
    return problems.classification(
        module, wide, labels[:count], rows, np.full(m, rows.shape[1]), jax.random.key(0)
    )
