"""Methods by name: which server listens to which honest worker, with which step sizes.

A new method is one file in `servers/`, one function here and one line in `METHODS`; the
command lines and the common tests find it there.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from farsign_jax import aggregators, attacks, directions, oracles, schedules
from farsign_jax.base import Problem, Server, System, Worker, lookup, require
from farsign_jax.servers.async_sgd import async_sgd
from farsign_jax.servers.buffered import buffered
from farsign_jax.servers.far_sign import far_sign


@dataclasses.dataclass(frozen=True)
class Feedback:
    """How workers are asked: what all methods of a comparison have in common.

    Attributes:
        batch_size: b, examples per mini-batch.
        directions: k, directions per question of the methods that ask for directions.
        delta: perturbation of two-point differences.
        decay, decay_every: all step sizes shrink by `decay` every `decay_every` events.
    """

    batch_size: int = 64
    directions: int = 100
    delta: float = 1e-3
    decay: float = 0.9
    decay_every: int = 1000

    def schedule(self, initial: Any) -> Any:
        rule = f"a step size is positive and finite: got {initial}"
        require((initial > 0) & (initial < float("inf")), rule)
        return schedules.staircase(initial, self.decay, self.decay_every)


Hyper = Mapping[str, Any]  # step sizes and the like: numbers, or tracers in a sweep


class Method(NamedTuple):
    """`build(problem, feedback, hyper, **options)`, and what it needs to be told.

    Attributes:
        build: to server and worker; its keyword arguments are the options of the method.
        presets: from a preset to its hyper-parameters; every preset has the same names.
        tuned: the step size of preset `tuned` for each aggregator, where a method takes one.
    """

    build: Callable[..., tuple[Server, Worker]]
    presets: Mapping[str, Hyper]
    tuned: Mapping[str, float] = {}


def _far_sign(problem, feedback, hyper):
    beta = hyper["average_step"]
    require(beta <= 1, f"far_sign needs 0 < average_step <= 1: got {beta}")
    dictionary = directions.identity(problem.x0.shape[-1], feedback.directions)
    server = far_sign(
        problem.num_workers,
        dictionary,
        step_size=feedback.schedule(hyper["step_size"]),
        average_step=feedback.schedule(hyper["average_step"]),
    )
    worker = oracles.zeroth_order(
        problem, dictionary, batch_size=feedback.batch_size, delta=feedback.delta
    )
    return server, worker


def _far_sign_first_order(problem, feedback, hyper):
    server, _ = _far_sign(problem, feedback, hyper)
    dictionary = directions.identity(problem.x0.shape[-1], feedback.directions)
    worker = oracles.directional_derivative(
        problem.losses, dictionary, batch_size=feedback.batch_size, mode="grad"
    )
    return server, worker


def _async_sgd(problem, feedback, hyper):
    step_size = feedback.schedule(hyper["step_size"])
    server = async_sgd(problem.num_workers, step_size=step_size)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=feedback.batch_size)
    return server, worker


def _buffered(problem, feedback, hyper, aggregator, buffers, **options):
    return buffered(
        problem.num_workers,
        aggregators.make(aggregator),
        buffers=buffers,
        step_size=feedback.schedule(hyper["step_size"]),
        **options,
    )


def _basgd(problem, feedback, hyper, *, aggregator="median", buffers=11):
    server = _buffered(problem, feedback, hyper, aggregator, buffers)
    worker = oracles.stochastic_gradient(problem.losses, batch_size=feedback.batch_size)
    return server, worker


def _cyber0(problem, feedback, hyper, *, aggregator="median", buffers=11, message="dense"):
    sphere = directions.sphere(problem.x0.shape[-1], feedback.directions)
    options = {"directions": sphere, "message": message}
    server = _buffered(problem, feedback, hyper, aggregator, buffers, **options)
    worker = oracles.sphere_two_point(
        problem, sphere, batch_size=feedback.batch_size, delta=feedback.delta, message=message
    )
    return server, worker


# The paper's step sizes are lost; 0.07 and 0.5 are inferred: they reproduce its Table 3.
_FAR_SIGN = {
    "paper": {"step_size": 0.07, "average_step": 0.5},
    "tuned": {"step_size": 0.035, "average_step": 0.5},  # python -m experiments.tune
}

_FIRST_ORDER = _FAR_SIGN | {"tuned": {"step_size": 0.0175, "average_step": 0.5}}

# Likewise inferred; for an estimate scaled by d/k. Tuned: each aggregator by itself, by
# python -m experiments.tune; the largest step tried was 0.44.
_CYBER0 = {"paper": {"step_size": 0.055}, "tuned": {"step_size": 0.22}}
_CYBER0_TUNED = {
    "mean": 0.055,
    "median": 0.22,
    "trimmed_mean:f=2": 0.11,
    "krum:f=4": 0.11,
    "multi_krum:f=4": 0.44,
    "rfa:iterations=32": 0.44,
    "bulyan:f=2": 0.22,
}

_SGD = {"paper": {"step_size": 0.1}, "tuned": {"step_size": 0.1}}

METHODS: dict[str, Method] = {
    "far_sign": Method(_far_sign, _FAR_SIGN),
    "far_sign_first_order": Method(_far_sign_first_order, _FIRST_ORDER),
    "cyber0": Method(_cyber0, _CYBER0, _CYBER0_TUNED),
    "basgd": Method(_basgd, _SGD),
    "async_sgd": Method(_async_sgd, _SGD),
}


def options_of(method: str) -> list[str]:
    """What a method can be told beside step sizes."""
    return list(inspect.signature(lookup("method", method, METHODS).build).parameters)[3:]


def hyper_of(method: str, preset: str, aggregator: str = "") -> dict[str, Any]:
    """The hyper-parameters of a method in a preset."""
    entry = lookup("method", method, METHODS)
    hyper = dict(lookup("preset", preset, entry.presets))
    if preset == "tuned" and aggregator in entry.tuned:
        hyper["step_size"] = entry.tuned[aggregator]
    return hyper


@dataclasses.dataclass(frozen=True)
class Build:
    """`(problem, hyper) -> System`, equal and hashed by value, so that it compiles once.

    Attributes:
        method: a name of `METHODS`.
        attack: a name of `attacks.ATTACKS`, with its options.
        feedback: how workers are asked.
        options: of the method: what its function takes by keyword, such as
            `(("aggregator", "krum:f=4"), ("buffers", 11))`.
    """

    method: str
    attack: str = "none"
    attack_options: tuple[tuple[str, Any], ...] = ()
    feedback: Feedback = Feedback()
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, problem: Problem, hyper: Hyper) -> System:
        method = lookup("method", self.method, METHODS)
        known = options_of(self.method)
        for name, _ in self.options:
            require(name in known, f"{self.method} has no option {name!r}: known: {known}")
        server, worker = method.build(problem, self.feedback, hyper, **dict(self.options))
        return System(server, worker, attacks.make(self.attack, **dict(self.attack_options)))
