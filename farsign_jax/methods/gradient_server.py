"""What servers of whole gradients share: the question, the check and the order of answers."""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from farsign_jax.base import Array, AskWorker, Key, Query, Report
from farsign_jax.directions.random_directions import RandomDirections
from farsign_jax.validation import require

State = TypeVar("State")


def ask_for_gradient(state: Any, worker: Array, key: Key) -> Query:
    """Asks a worker for the whole gradient at the current iterate; nothing is drawn."""
    del key
    return Query(state.params, worker, (), state.step)


def ask_along(directions: RandomDirections) -> AskWorker:
    """Returns a `query` that asks for an estimate of the gradient along random directions.

    Every question has directions of its own, of which it names the seed.
    """

    def query(state: Any, worker: Array, key: Key) -> Query:
        return Query(state.params, worker, directions.draw(key), state.step)

    return query


def check_gradients(reports: Report, params: Array) -> None:
    """Raises `InvalidConfig` unless every answer has the shape of the iterate, f32[d]."""
    shape, d = reports.value.shape[1:], params.shape
    require(shape == d, f"an answer is f32{list(d)}: got {list(shape)}")


def one_by_one(
    receive: Callable[[State, Report], State], state: State, reports: Report
) -> State:
    """Applies the answers of an event one after the other.

    Args:
        receive: `(state, report) -> state` for one report without the leading axis.
        state: the state of the server.
        reports: the s reports of the event.

    Returns:
        The state after the last of them.
    """
    if len(reports.worker) == 1:
        return receive(state, jax.tree.map(operator.itemgetter(0), reports))

    def step(state: State, report: Report) -> tuple[State, None]:
        return receive(state, report), None

    return jax.lax.scan(step, state, reports)[0]
