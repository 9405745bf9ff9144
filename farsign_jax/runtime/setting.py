"""What decides the numbers of a run: told once, to the server; it tells the workers."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import directions as directions_lib
from farsign_jax import keys, models, problems, simulation
from farsign_jax.base import Problem, System
from farsign_jax.data import datasets, partitions
from farsign_jax.io import provenance
from farsign_jax.methods.registry import METHODS, OracleConfig, SystemSpec, hyper_of, options_of
from farsign_jax.runtime.numpy_server import NumpyServer, uses_multiply_add
from farsign_jax.runtime.state_machine import CompiledServer, StateMachine
from farsign_jax.validation import InvalidConfig, require

# Methods whose x changes along the directions of an answer alone.
_ALONG_COORDINATES = ("far_sign", "far_sign_first_order", "async_zo_sgd")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A run of workers that hold parts of a data set.

    `hyper` and `options` are those of `methods`, as pairs; None: the method's own.
    """

    method: str = "far_sign"
    options: tuple[tuple[str, Any], ...] = ()
    hyper: tuple[tuple[str, float], ...] | None = None
    workers: int = 8
    seed: int = 0
    dataset: str = "mnist_subset"
    model: str = "mlp"
    partition: str = "iid"
    heterogeneity: float | None = None
    batch_size: int = 64
    directions: int = 100
    delta: float = 1e-3
    decay: float = 0.9
    decay_every: int = 1000

    def __post_init__(self):
        rule = f"{self.method} works in rounds, and this server waits for nobody"
        require(self.method not in METHODS or not METHODS[self.method].rounds, rule)
        known = hyper_of(self.method, "paper")
        if self.hyper is None:
            object.__setattr__(self, "hyper", tuple(sorted(known.items())))
        names = {name for name, _ in self.hyper or ()}
        rule = f"{self.method} takes the numbers {sorted(known)}: got {sorted(names)}"
        require(names == set(known), rule)
        takes = options_of(self.method)
        for name, _ in self.options:
            require(name in takes, f"{self.method} has no option {name!r}: known: {takes}")
        require(0 < self.workers < 2**16, f"need 0 < workers < 65536: got {self.workers}")
        require(0 <= self.seed < 2**31, f"seeds are 0..2147483647: got {self.seed}")
        for name in ("batch_size", "directions", "decay_every", "delta"):
            value = getattr(self, name)
            require(0 < value < 2**31, f"need 0 < {name} < 2147483648: got {value}")
        require(0 < self.decay <= 1, f"need 0 < decay <= 1: got {self.decay}")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all of this and of the generator behind it: equal, and everybody draws alike."""
        return provenance.fingerprint(json.loads(self.to_json()) | {"generator": generator()})

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        """What `to_json` wrote.

        Raises:
            InvalidConfig: on anything else.
        """
        try:
            told = json.loads(text)
            for name in ("options", "hyper"):
                told[name] = tuple((str(key), value) for key, value in told[name])
            return cls(**told)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidConfig(f"no setting of a run: {error}") from error

    def problem(self, data_dir: str | None = None) -> tuple[Problem, Any]:
        """Who holds which examples; and the measure of the test set."""
        from farsign_jax.problems import metrics

        data, roles = datasets.load(self.dataset, data_dir), keys.split(self.seed)
        images, labels = data.train_images, data.train_labels
        rows, sizes = partitions.partition(
            labels, self.workers, self.partition, roles.partition, self.heterogeneity
        )
        module = models.make(self.model, data.num_classes)
        problem = problems.classification(module, images, labels, rows, sizes, roles.init)
        measure = metrics.classification(module, data.test_images, data.test_labels)
        return problem, measure

    @property
    def feedback(self) -> OracleConfig:
        names = ("batch_size", "directions", "delta", "decay", "decay_every")
        return OracleConfig(**{name: getattr(self, name) for name in names})

    def system(self, problem: Problem) -> System:
        """Server and honest worker; the attack is none, for reality brings its own."""
        build = SystemSpec(self.method, feedback=self.feedback, options=self.options)
        system = build(problem, self.numbers)
        simulation.check_batch(system, problem.sizes)
        return system

    @property
    def numbers(self) -> dict[str, float]:
        return dict(self.hyper or ())

    @property
    def coordinates(self) -> bool:
        """Does x change at the directions of an answer alone?"""
        averaged = dict(self.options).get("averaging") is not None
        return self.method in _ALONG_COORDINATES and not averaged

    @property
    def by_seed(self) -> bool:
        """Do directions follow from worker and number alone? Else they are sent along."""
        drawn = dict(self.options).get("sampler", "uniform") == "uniform"
        return self.coordinates and drawn

    def machine(self, problem: Problem) -> StateMachine:
        """`NumpyServer` for `far_sign` without options, where it has the bits of the compiled
        update on this machine; for everything else `CompiledServer`."""
        plain = self.method in ("far_sign", "far_sign_first_order") and not self.options
        if plain and uses_multiply_add() is not None:
            d, schedule = problem.x0.shape[-1], self.feedback.schedule
            return NumpyServer(
                self.workers,
                directions_lib.identity(d, self.directions),
                problem.x0,
                self.seed,
                **{name: schedule(value) for name, value in self.numbers.items()},
            )
        return self.compiled(problem)

    def compiled(self, problem: Problem) -> CompiledServer:
        system = self.system(problem)
        told = system, problem, self.seed
        return CompiledServer(
            system.server, problem.x0, self.seed, answer(*told), self.coordinates
        )


def answer(system: System, problem: Problem, seed: int) -> tuple[int, ...]:
    """The shape of one answer.

    Raises:
        InvalidConfig: where it is not one array of f32.
    """
    roles = keys.split(seed)
    inbox = jax.eval_shape(
        lambda: simulation.start(system, problem, roles, "outstanding").inbox
    )
    leaves = jax.tree.leaves(inbox.value)
    good = len(leaves) == 1 and leaves[0].dtype == np.float32
    require(good, f"an answer is one array of float32: this worker sends {inbox.value}")
    return tuple(leaves[0].shape[2:])  # of [m, 1, ...]


@functools.cache
def generator() -> str:
    """The name of what draws, and what it draws: alike wherever the name is."""
    config: Any = jax.config
    partitionable = bool(config.jax_threefry_partitionable)
    name = f"{config.jax_default_prng_impl} partitionable={partitionable}"
    key = keys.message(keys.split(0).queries, jnp.int32(1), jnp.int32(2))
    drawn = np.asarray(directions_lib.sample_distinct(key, 25450, 4)).tolist()
    bits = np.asarray(jax.random.bits(key, (2,))).tolist()
    return f"{name} {drawn} {bits}"
