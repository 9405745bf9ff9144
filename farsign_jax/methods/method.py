"""What a method is made of: how its workers are asked, its builder and its presets."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from farsign_jax import oracles, step_sizes
from farsign_jax.base import Problem, Schedule, Server, Worker
from farsign_jax.methods.worker_momentum import worker_momentum
from farsign_jax.validation import require

Hyper = Mapping[str, Any]  # hyper-parameters by name: numbers, or tracers in a sweep


@dataclasses.dataclass(frozen=True)
class OracleConfig:
    """How workers are asked: the settings that all methods of a comparison have in common.

    Attributes:
        batch_size: b, the number of examples in a mini-batch.
        directions: k, the number of directions in a question, for methods that ask for
            derivatives along directions.
        delta: the perturbation of two-point differences.
        decay: the factor in (0, 1] by which all step sizes are multiplied every `decay_every`
            answers.
        decay_every: the number of answers between two decays.
        per_round: the average number of answers in a round, for methods that work in rounds;
            None stands for all m.
        coupled: whether both points of a difference share one mini-batch, or each has its own.
    """

    batch_size: int = 64
    directions: int = 100
    delta: float = 1e-3
    decay: float = 0.9
    decay_every: int = 1000
    per_round: float | None = None
    coupled: bool = True

    def schedule(self, initial: Any) -> Any:
        """Returns the step size as an optax schedule of the number of answers so far.

        Raises:
            InvalidConfig: if `initial` is not positive and finite.
        """
        rule = f"a step size is positive and finite: got {initial}"
        require((initial > 0) & (initial < float("inf")), rule)
        return step_sizes.staircase(initial, self.decay, self.decay_every)

    def per_round_schedule(self, initial: Any, num_workers: int) -> Schedule:
        """Returns the same sequence as a function of the number of rounds so far."""
        per_answer, answers = self.schedule(initial), float(self.per_round or num_workers)
        return lambda rounds: per_answer(answers * jnp.asarray(rounds, jnp.float32))


class Method(NamedTuple):
    """An entry of `METHODS`: how a method is built, and what it can do.

    Attributes:
        build: `build(problem, oracle, hyper, **options)` returns the server and the honest
            worker of the method. Its keyword arguments are the options of the method; its
            docstring says in one line what the method is, and describes the hyper-parameters
            and options.
        presets: the hyper-parameters of each preset; all presets have the same names.
        tuned: the step size of preset "tuned" for each aggregator, for methods that take one.
        works_in_rounds: whether the server waits for answers, so that an event is a round
            (`arrivals.rounds`).
        attacks_in_lockstep: whether runs under different attacks share one compiled program
            even though the method takes no aggregator.
        fixed_aggregator: the aggregator, where it is always the same; else "".
        moves_along_coordinates: whether an answer changes x only at the coordinates that the
            question named, so that a worker can be sent those numbers instead of all of x.
        dense_options: options that make the method change all of x when they are set.
        state_dependent_options: options that make the directions of a question depend on the
            state of the server when they are set, so that they must be sent to the worker.
        has_numpy_server: whether `farsign_jax.runtime` can run the server of the method in
            NumPy, without options but those of a vote.
        one_step_per_answer: whether every answer moves x equally far along each of its
            directions, whatever its numbers, so that a lie is at worst a wrong sign.
    """

    build: Callable[..., tuple[Server, Worker]]
    presets: Mapping[str, Hyper]
    tuned: Mapping[str, float] = {}
    works_in_rounds: bool = False
    attacks_in_lockstep: bool = False
    fixed_aggregator: str = ""
    moves_along_coordinates: bool = False
    dense_options: tuple[str, ...] = ()
    state_dependent_options: tuple[str, ...] = ()
    has_numpy_server: bool = False
    one_step_per_answer: bool = False


def step_size_presets(paper: float, tuned: float | None = None) -> dict[str, Hyper]:
    """Returns the presets of a method whose only hyper-parameter is its step size."""
    return {"paper": {"step_size": paper}, "tuned": {"step_size": tuned or paper}}


def gradient_worker(problem: Problem, oracle: OracleConfig, momentum: float = 0.0) -> Worker:
    """Returns the honest worker that answers with stochastic gradients f32[d].

    Without momentum it has no state; otherwise it sends their moving average.
    """
    worker = oracles.stochastic_gradient(problem.losses, batch_size=oracle.batch_size)
    if momentum == 0:
        return worker
    x0 = problem.x0
    return worker_momentum(worker, x0.shape[-1], momentum, x0.dtype)
