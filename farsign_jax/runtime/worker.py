"""The worker's side of the conversation, without any I/O: from x and a question to values.

The server does not send the directions of a question if they follow from the worker and the
number of the question: this module draws them with the same function from the same keys. The
same holds for mini-batches.
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
from farsign_jax.runtime.session import Question
from farsign_jax.validation import require


class LocalWorker:
    """Computes the answers of one worker from its own part of the data.

    Args:
        system: the server and the honest worker, as in the simulator.
        problem: the problem. The worker reads only its own shard of it; a colluding Byzantine
            worker reads all shards.
        seed: the seed of the run.
        worker: its number.
        attack: the attack that a Byzantine worker runs; None for an honest worker. An attack
            that is omniscient or asks receives what the other workers would answer to the same
            question, from one mini-batch each.

    Raises:
        InvalidConfig: if there is no such worker, if the attack cannot be made on these data,
            or if the worker keeps a state between answers, since a replacement could not
            restore it.
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
        rule = "a worker that keeps a state between answers cannot be replaced"
        require(not jax.tree.leaves(states), rule)
        if attack is not None:
            simulation.check_poison(attack, problem)
        self._attack_state: Any = () if attack is None else attack.init(m)
        self._answer = functools.partial(_answer, system, attack)
        self._constants = problem, keys_lib.split(seed), np.int32(worker)

    def answer(self, x: np.ndarray, number: int, step: int, direction: Any) -> np.ndarray:
        """Returns the answer of this worker, f32[...].

        Args:
            x: f32[d], the iterate.
            number: of the question.
            step: the step of the server at which x was read.
            direction: the directions, as `StateMachine.query` returns them, or None if they
                follow from the number.
        """
        question = x, np.int32(number), np.int32(step), direction
        self._attack_state, value = self._answer(
            self._attack_state, *self._constants, *question
        )
        return np.asarray(value)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answer(
    system: System,
    attack: Attack | None,
    attack_state: Any,
    problem: Problem,
    keys: keys_lib.RunKeys,
    worker: Array,
    x: Array,
    number: Array,
    step: Array,
    direction: Any,
) -> tuple[Any, Array]:
    """Returns the next state of the attack, and the answer."""

    def reports(queries, byzantine=None):
        return simulation.answer(system, problem, (), queries, number, keys, byzantine)[1]

    m = problem.num_workers
    alone = jnp.arange(m) == worker
    if attack is not None:
        system = system._replace(attack=attack)

    state = system.server.init(x, keys.server)._replace(step=step)
    queries = simulation.ask(system, state, worker[None], number, keys)
    if direction is not None and jax.tree.leaves(queries.direction):
        queries = queries._replace(direction=direction[None])
    own = reports(queries, None if attack is None else alone)
    if attack is None:
        return attack_state, own.value[0]
    reported = received = None
    if attack.omniscient or attack.asks:
        spread = jax.tree.map(lambda a: jnp.broadcast_to(a, (m, *a.shape[1:])), queries)
        every = reports(spread._replace(worker=jnp.arange(m, dtype=jnp.int32)))
        reported = {"message": every.value, "measured": every.measured}
        received = jnp.ones((m,), bool)
    asked = lambda: jax.tree.map(lambda a: a[None], reported)  # noqa: E731
    view = View(state, alone, reported, received, asked, number)
    report = jax.tree.map(lambda a: a[0], own)
    key = keys_lib.message(keys.attacks, worker, number)
    encode = system.worker.encode
    return simulation.apply_attack(attack, encode, attack_state, report, view, key)


# Maps x, f32[d], and a question to values, f32[k].
Answer = Callable[[np.ndarray, Question], np.ndarray]


class Responder(NamedTuple):
    """A worker's function for the run that the server has described.

    Attributes:
        answer: computes the answer to a question.
        direction: directions with the type and the shape of those that the server sends; empty
            if it sends none.
    """

    answer: Answer
    direction: np.ndarray


def make_responder(
    text: str, fingerprint: str, worker: int, attack: Attack | None, data_dir: str | None
) -> Responder:
    """Returns what answers the questions of a run.

    Args:
        text: the configuration of the run, JSON.
        fingerprint: the server's fingerprint of the configuration.
        worker: the number of the worker.
        attack: the attack of a Byzantine worker; None for an honest worker.
        data_dir: the directory of the data set on this machine.

    Raises:
        InvalidConfig: if this worker would not draw the same random numbers as the server.
    """
    config = run_config.from_json(text)
    rule = "the worker and the server draw different random numbers: compare their versions"
    require(run_config.fingerprint(config) == fingerprint, rule)
    problem, _ = config.problem(data_dir)
    system = config.system(problem)
    local = LocalWorker(system, problem, config.seed, worker, attack)
    like = np.zeros(0, np.int32)
    if not run_config.draws_by_seed(config):
        like = run_config.compiled(config, problem).query(worker, 0)

    def answer(x, question):
        return local.answer(x, question.number, question.step, question.direction)

    return Responder(answer, like)


def make_attack(text: str | None) -> Attack | None:
    """Returns the attack that a flag describes, or None without one."""
    if text is None:
        return None
    name, options = attacks.parse(text)
    return attacks.make(name, **options)
