"""What is timed: a method, how many runs of it side by side, on how large a network."""

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

DATA_BYTES = 2**28  # of the inputs, where widening them is not to fill the memory


@dataclasses.dataclass(frozen=True)
class Generic:
    """A method with the oracle that works for any model."""

    inner: SystemSpec

    def __call__(self, problem, hyper) -> System:
        return self.inner(dataclasses.replace(problem, structure=None), hyper)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    method: str  # with its options, as it was asked for
    aggregator: str
    generic: bool
    delivery: str
    runs: int
    size: int  # d that was asked for

    @property
    def name(self) -> str:
        oracle = ", generic oracle" if self.generic else ""
        return f"{self.method} {self.aggregator}".strip() + oracle

    def job(self, config: PanelConfig) -> SweepSpec:
        """The runs of a method in lock-step are points of its step size."""
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

    def lanes(
        self, config: PanelConfig, problem: Problem, runs: int, events: int
    ) -> sweeps.RunBatch:
        """`runs` runs, each a seed of its own, or all of one seed in lock-step."""
        job = self.job(config)
        seeds = np.arange(1 if job.lockstep else runs)
        if job.lockstep and self.runs > 1:
            hyper = {name: values[None] for name, values in job.hyper.items()}
        else:
            hyper = {name: np.repeat(values[0, :1], runs) for name, values in job.hyper.items()}
        lies, m = attacks.byzantine_mask(config.workers, config.byzantine), config.workers
        order = [arrivals.uniform(keys.split(int(s)).schedule, m, events) for s in seeds]
        return sweeps.RunBatch(
            problem=sweeps.RunBatch.repeated(problem, len(seeds)),
            seeds=jnp.asarray(seeds, jnp.int32),
            hyper=jax.tree.map(jnp.asarray, hyper),
            byzantine=jnp.asarray(np.broadcast_to(lies, (len(seeds), *lies.shape))),
            schedules=np.stack(order),
        )

    def sizes(self, config: PanelConfig, problem: Problem) -> Sizes:
        """What counts are made of."""
        job = self.job(config)
        buffers = dict(job.builds[0].options).get("buffers", 0)
        return Sizes(
            layers=tuple((a.fan_in, a.fan_out) for a in problem.structure.layers),
            batch=config.batch_size,
            directions=config.directions,
            buffers=buffers,
            aggregator=self.aggregator,
            updates=updates(config.workers, buffers) if buffers else 0.0,
            waits=simulation.depth(self.delivery) > 0,
            sharing=self.runs if job.lockstep else 1,
            input_bytes=problem.data[0].dtype.itemsize,
        )

    def evaluations(self, config: PanelConfig, problem: Problem) -> int:
        """Mini-batch losses, or gradients, per event."""
        job = self.job(config)
        hyper = {name: values[0, 0] for name, values in job.hyper.items()}
        return job.builds[0](problem, hyper).worker.evaluations

    def lane_bytes(self, config: PanelConfig, problem: Problem) -> int:
        """Bytes that all runs keep on the device, scratch apart."""
        one = self.lanes(config, problem, 1, 1)
        each = sweeps.bytes_per_run(self.program(config), one, self.delivery)
        return self.side_by_side(config) * each

    def side_by_side(self, config: PanelConfig) -> int:
        """Lanes, which devices share: one of all runs in lock-step."""
        return 1 if self.job(config).lockstep else self.runs


def updates(workers: int, buffers: int, events: int = 10_000) -> float:
    """How often all buffers are full, per answer."""
    heard: set[int] = set()
    updates = 0
    for worker in arrivals.uniform(keys.split(0).schedule, workers, events):
        heard.add(int(worker) % buffers)
        if len(heard) == buffers:
            updates += 1
            heard.clear()
    return updates / events


def grid(
    config: PanelConfig, sizes: Sequence[int], deliveries: Sequence[str], runs: Sequence[int]
) -> list[Case]:
    """Every combination, the sizes outermost and the runs innermost."""
    cases = []
    for size, text in itertools.product(sizes, config.methods):
        first = Case(text, config.aggregators[0], False, deliveries[0], runs[0], size)
        job = first.job(config)
        require(not job.in_rounds, f"{text} works in rounds: here an event is one answer")
        rules = config.aggregators if job.runs[0][0] else ("",)
        oracles = (False, True) if job.method == "far_sign" else (False,)
        found = itertools.product(rules, oracles, deliveries, runs)
        cases += [Case(text, *one, size) for one in found]
    return cases


def usual(cases: Sequence[Case]) -> list[Case]:
    """What says most: of deliveries other than the first FAR-SIGN's only; of aggregators other
    than the first, and only one of those, the first size and number of runs."""
    first = cases[0]
    rules = dict.fromkeys(case.aggregator for case in cases if case.aggregator)
    chosen = next(iter(rules), "")

    def says_much(case: Case) -> bool:
        ours = case.method.partition(":")[0] == "far_sign" and not case.generic
        small = (case.size, case.runs) == (first.size, first.runs)
        return (ours or case.delivery == first.delivery) and (
            case.aggregator in ("", chosen) or small
        )

    return [case for case in cases if says_much(case)]


def problem_of(config: PanelConfig, data_dir: str | None, size: int) -> Problem:
    """The data set, with the network's first layer as wide as d asks for.

    The pixels of an image are repeated, or the last ones left out; the hidden layers, the
    batch and the classes stay as they are.
    """
    data = datasets.load(config.dataset, data_dir)
    module = models.make(config.model, data.num_classes)
    rule = f"--sizes grow the first layer of mlp or softmax_regression: got {config.model!r}"
    require(isinstance(module, models.MLP), rule)
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
