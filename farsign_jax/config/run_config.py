"""The configuration of one run, and what it leaves."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm

from farsign_jax import aggregators, simulation, sweeps
from farsign_jax.aggregators.registry import AGGREGATORS
from farsign_jax.attacks.registry import ATTACKS
from farsign_jax.base import Problem, System
from farsign_jax.config import checks, systems
from farsign_jax.config import problem as problem_lib
from farsign_jax.config.panel_config import PanelConfig, usual
from farsign_jax.config.settings import (
    COMPARED,
    PROBLEM,
    STEPS,
    RunSettings,
    from_dict,
    setting,
)
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.data.datasets import DATASETS
from farsign_jax.io import files, tables
from farsign_jax.methods import METHODS
from farsign_jax.problems.metrics import Measure
from farsign_jax.validation import InvalidConfig, check_integer, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(RunSettings):
    """Everything that decides the numbers of one run.

    The names are those of the registries, and one's own after they were added there:
    `farsign_jax.METHODS["mine"] = ...`, `farsign_jax.attacks.ATTACKS["mine"] = ...`. A bare
    attack or aggregator stands for that of the paper's Table 3, as on the command lines.

        result = farsign_jax.RunConfig(method="far_sign", attack="alie", events=2000).run()
        print(result.table(), result.accuracy)

    Raises:
        InvalidConfig: on construction, naming the value and the rule.
    """

    method: str = setting(
        "far_sign",
        COMPARED,
        "The method. Options as in far_sign:arrival_rates=estimate,step_size=0.02.",
        names=METHODS,
    )
    aggregator: str = setting(
        "median",
        COMPARED,
        "The aggregation rule. Only methods that take one use it.",
        names=AGGREGATORS,
    )
    attack: str = setting(
        "none", COMPARED, "The attack. Options as in alie:z=0.5,ddof=1.", names=ATTACKS
    )
    seed: int = setting(0, COMPARED, "The seed of everything random.")
    dataset: str = setting("mnist_subset", PROBLEM, "The data set.", names=DATASETS)
    events: int = setting(2000, STEPS, "The answers of the run, T.", positive=True)
    eval_every: int = setting(100, STEPS, "Answers between records.", positive=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.check_settings(self)
        checks.check_seed(self.seed)
        object.__setattr__(self, "attack", usual("attacks", self.attack))
        object.__setattr__(self, "aggregator", usual("aggregators", self.aggregator))
        checks.check_attack(self, self.attack)
        aggregators.make(self.aggregator)
        checks.check_method(self, self.method, (self.aggregator,))

    def to_json(self) -> str:
        """The settings as a JSON object, for `from_json`.

        Raises:
            InvalidConfig: if the model is not a text.
        """
        return files.json_text(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """A configuration from a JSON object; settings that it does not name have defaults.

        Raises:
            InvalidConfig: if it is not JSON, or names what does not exist or cannot run.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise InvalidConfig(f"a run configuration is a JSON object: {error}") from None
        if not isinstance(found, dict):
            raise InvalidConfig(f"a run configuration is a JSON object: got {text}")
        return from_dict(cls, found)

    def panel(self) -> PanelConfig:
        """The panel of this run alone."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(RunSettings)}
        return PanelConfig(
            methods=(self.method,),
            aggregators=(self.aggregator,),
            attacks=(self.attack,),
            seeds=(self.seed,),
            **shared,
        )

    @property
    def hyper(self) -> dict[str, float]:
        """The hyper-parameters of the method: step sizes and the like."""
        takes = systems.takes_aggregator(self.method)
        return systems.hyper_parameters(self, self.method, self.aggregator if takes else "")

    def problem(self, data_dir: str | None = None) -> tuple[Problem, Measure]:
        """The problem of the run, and the measure of its parameters.

        Args:
            data_dir: where the data set lies; None: where it is found by default.

        Raises:
            DataError, InvalidConfig: if the data set cannot be had or divided as asked.
        """
        examples = problem_lib.load(self, data_dir)
        problem = problem_lib.problem_of(self, examples, self.seed)
        return problem, problem_lib.measure_under(self.attack, examples.measure, problem)

    def system(self, problem: Problem) -> System:
        """Server, honest worker and attack of the run."""
        spec = systems.system_spec(self, self.method, self.aggregator, self.attack)
        system = spec(problem, self.hyper)
        worker = system.worker
        simulation.check_batch(worker.batch_size, worker.left_out, problem.sizes)
        return system

    def run(
        self,
        *,
        data_dir: str | None = None,
        measure: Measure | None = None,
        progress: bool = False,
    ) -> "RunResult":
        """Trains, from the first answer to the last.

        The run is the one that `python -m experiments.compare` makes of the same settings.

        Args:
            data_dir: where the data set lies; None: where it is found by default.
            measure: params f32[..., d] -> {name: numbers [...]}, for each record; None:
                accuracy and loss on the test set.
            progress: whether to draw a progress bar.

        Raises:
            DataError, InvalidConfig: before training, on what cannot be had or cannot run.
        """
        (result,) = self.run_seeds(
            (self.seed,), data_dir=data_dir, measure=measure, progress=progress
        )
        return result

    def run_seeds(
        self,
        seeds: int | Sequence[int],
        *,
        data_dir: str | None = None,
        measure: Measure | None = None,
        progress: bool = False,
    ) -> "list[RunResult]":
        """Trains once for each seed, all in one program and on all devices.

        Each result is, to the last bit, that of `run` with this seed.

        Args:
            seeds: how many, which are then 0, 1, ...; or the seeds themselves.
            data_dir: as of `run`, like `measure` and `progress`.
            measure: as of `run`.
            progress: as of `run`.

        Raises:
            DataError, InvalidConfig: as `run`; also if a seed is not valid or is given twice.
        """
        if isinstance(seeds, int | np.integer):
            seeds = range(check_integer("run_seeds", "seeds", seeds, 1))
        good = isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str)
        require(good, f"seeds are a count or a list of seeds: got {seeds!r}")
        config = dataclasses.replace(self.panel(), seeds=tuple(seeds))
        (spec,), data = sweep_specs(config), prepare(config, data_dir)
        batch, delivery = spec.run_batch(data), spec.delivery(config)
        events = batch.schedules.shape[0] * batch.schedules.shape[1]
        with tqdm.tqdm(total=events, unit="event", disable=not progress) as bar:
            columns, final = sweeps.sweep(
                spec.program,
                batch,
                every=spec.every(config, batch),
                measure=measure or spec.measure(data),
                delivery=delivery,
                progress=bar.update,
            )
        answers = problem_lib.answers_so_far(data.of(spec))
        evaluations, bits = spec.cost(data)
        by_run = spec.by_run(columns, len(seeds))
        results = []
        for number, seed in enumerate(config.seeds):
            measured = {name: column[number, :, 0] for name, column in by_run.items()}
            event = measured.pop("event").astype(int)
            so_far = answers[number, event - 1]
            history = {"event": event, "evaluations": so_far * evaluations}
            history |= {"bits_up": so_far * bits} | measured
            own = dataclasses.replace(self, seed=int(seed))
            params = np.asarray(final.params[number]).reshape(-1)
            results.append(RunResult(own, history, params))
        return results


@dataclasses.dataclass(frozen=True, eq=False)
class RunResult:
    """What a run leaves.

    Attributes:
        config: of the run.
        history: one entry [E] per quantity and record: `event`, `evaluations` and `bits_up` so
            far, `seconds` of wall clock, `virtual_seconds` if arrivals have a clock,
            `staleness` and `nonfinite` since the last record, and the measures, by default
            `test_accuracy`, `test_loss` and `worst_class`, and under an attack with a backdoor
            `backdoor_success`.
        params: f32[d], the parameters in the end.
    """

    config: RunConfig
    history: Mapping[str, np.ndarray]
    params: np.ndarray

    @property
    def accuracy(self) -> float:
        """The accuracy on the test set in the end, in [0, 1]."""
        return float(self.history["test_accuracy"][-1])

    def table(self, rows: int = 10) -> str:
        """The history as a Markdown table of at most `rows` records, the last one included."""
        count = len(self.history["event"])
        shown = np.unique(np.linspace(count - 1, 0, min(rows, count)).round().astype(int))
        lines = [[f"{column[i]:.6g}" for column in self.history.values()] for i in shown]
        return tables.markdown_table(list(self.history), lines)
