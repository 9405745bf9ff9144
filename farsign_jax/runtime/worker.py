"""The worker's side of the conversation, without any I/O: from x and a question to numbers.

The directions of a question are not sent where they follow from the worker and the number of
the question: the same function draws them here, from the same keys. So are the mini-batches.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import attacks, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Attack, Problem, System, View
from farsign_jax.runtime import run_config
from farsign_jax.runtime.core import Question
from farsign_jax.validation import require


class Answers:
    """What one worker answers, from its own shard.

    Args:
        system: server and honest worker, as in `simulate`.
        problem: of which this worker reads its own shard; a liar who colludes, all shards.
        seed: of the run.
        worker: its number.
        attack: None, honest; or what it says instead. To an attack that wants to know what
            others say it is told what they would answer to the same question.

    Raises:
        InvalidConfig: on a worker that is none, or one that keeps a state from answer to
            answer: it could not be replaced.
    """

    def __init__(
        self,
        system: System,
        problem: Problem,
        seed: int,
        worker: int,
        attack: Attack | None = None,
    ):
        m = problem.num_workers
        require(0 <= worker < m, f"workers are 0..{m - 1}: got {worker}")
        states = jax.eval_shape(lambda: system.worker.init(problem.shard(jnp.int32(0))))
        require(not jax.tree.leaves(states), "a worker that keeps a state cannot be replaced")
        self._lies: Any = () if attack is None else attack.init(m)
        self._answer = functools.partial(_answer, system, attack)
        self._told = problem, keys_lib.split(seed), np.int32(worker)

    def answer(self, x: np.ndarray, number: int, step: int, direction: Any) -> np.ndarray:
        """What this worker says, f32[...].

        Args:
            x: f32[d], the iterate.
            number: of the question.
            step: of the server at which x was read.
            direction: None, they follow from the number; else as in `Machine.ask`.
        """
        asked = x, np.int32(number), np.int32(step), direction
        self._lies, value = self._answer(self._lies, *self._told, *asked)
        return np.asarray(value)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answer(
    system: System,
    attack: Attack | None,
    lies: Any,
    problem: Problem,
    keys: keys_lib.RunKeys,
    worker: Array,
    x: Array,
    number: Array,
    step: Array,
    direction: Any,
) -> tuple[Any, Array]:
    """The attack's next state, and the answer."""

    def reports(queries):
        return simulation.answer(system, problem, (), queries, number, keys)[1]

    state = system.server.init(x, keys.server)._replace(step=step)
    queries = simulation.ask(system, state, worker[None], number, keys)
    if direction is not None and jax.tree.leaves(queries.direction):
        queries = queries._replace(direction=direction[None])
    own = reports(queries)
    if attack is None:
        return lies, own.value[0]
    m = problem.num_workers
    said = heard = None
    if attack.omniscient:
        spread = jax.tree.map(lambda a: jnp.broadcast_to(a, (m, *a.shape[1:])), queries)
        every = reports(spread._replace(worker=jnp.arange(m, dtype=jnp.int32)))
        said = {"message": every.value, "measured": every.measured}
        heard = jnp.ones((m,), bool)
    view = View(None, jnp.arange(m) == worker, said, heard)
    report = jax.tree.map(lambda a: a[0], own)
    key = keys_lib.message(keys.attacks, worker, number)
    return simulation.apply_attack(attack, system.worker.encode, lies, report, view, key)


# x f32[d] and a question to numbers f32[k].
Answer = Callable[[np.ndarray, Question], np.ndarray]


class Kind(NamedTuple):
    """What a worker makes of the run that a server tells it of."""

    answer: Answer
    direction: np.ndarray  # empty where directions are not sent; else one like them


def kind_of(
    text: str, fingerprint: str, worker: int, attack: Attack | None, data_dir: str | None
) -> Kind:
    """What answers the questions of a run.

    Raises:
        InvalidConfig: where the run is not what this worker would make of its configuration.
    """
    config = run_config.from_json(text)
    rule = "this worker and the server do not draw the same numbers: are their versions equal?"
    require(run_config.fingerprint(config) == fingerprint, rule)
    problem, _ = config.problem(data_dir)
    system = config.system(problem)
    answers = Answers(system, problem, config.seed, worker, attack)
    like = np.zeros(0, np.int32)
    if not run_config.draws_by_seed(config):
        like = run_config.compiled(config, problem).ask(worker, 0)

    def answer(x, question):
        return answers.answer(x, question.number, question.step, question.direction)

    return Kind(answer, like)


def attack_of(text: str | None) -> Attack | None:
    """The attack of a flag."""
    if text is None:
        return None
    name, options = attacks.parse(text)
    return attacks.make(name, **options)
