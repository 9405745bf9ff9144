"""Methods by name: which server listens to which honest worker, with which step sizes.

A new method is one file in `servers/`, one function here and one line in `METHODS`; the
command lines and the common tests find it there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from farsign_jax import attacks, directions, oracles, schedules
from farsign_jax.base import Problem, Server, System, Worker, lookup, require
from farsign_jax.servers.async_sgd import async_sgd
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
    """`presets` maps a preset to its hyper-parameters; every preset has the same names."""

    build: Callable[[Problem, Feedback, Hyper], tuple[Server, Worker]]
    presets: Mapping[str, Hyper]
    directional: bool  # does it ask for k directions (or for the whole gradient)?


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


# The paper's step sizes are lost; 0.07 and 0.5 are inferred: they reproduce its Table 3.
_FAR_SIGN = {
    "paper": {"step_size": 0.07, "average_step": 0.5},
    "tuned": {"step_size": 0.035, "average_step": 0.5},  # python -m experiments.tune
}

_FIRST_ORDER = _FAR_SIGN | {"tuned": {"step_size": 0.0175, "average_step": 0.5}}

METHODS: dict[str, Method] = {
    "far_sign": Method(_far_sign, _FAR_SIGN, True),
    "far_sign_first_order": Method(_far_sign_first_order, _FIRST_ORDER, True),
    "async_sgd": Method(
        _async_sgd, {"paper": {"step_size": 0.1}, "tuned": {"step_size": 0.1}}, False
    ),
}


@dataclasses.dataclass(frozen=True)
class Build:
    """`(problem, hyper) -> System`, equal and hashed by value, so that it compiles once."""

    method: str
    attack: str = "none"
    attack_options: tuple[tuple[str, Any], ...] = ()
    feedback: Feedback = Feedback()

    def __call__(self, problem: Problem, hyper: Hyper) -> System:
        method = lookup("method", self.method, METHODS)
        server, worker = method.build(problem, self.feedback, hyper)
        return System(server, worker, attacks.make(self.attack, **dict(self.attack_options)))
