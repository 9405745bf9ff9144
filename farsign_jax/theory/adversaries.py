"""Adversaries against which the theorems are tested: greedy, hidden, and with a lookahead."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Attack, Schedule
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.theory.far_sign import Gradient, rows


def _answer(server: Any, i: Array, j: Array, target: Array, average_step: Schedule) -> Array:
    """Returns the answer Y for which the new average is `target`: y + beta (Y - y) = target."""
    old = server.averages[i, j]
    beta = jnp.clip(jnp.asarray(average_step(server.step), old.dtype), 1e-6, 1)
    return old + (target - old) / beta


def _aiming(
    gradient: Gradient,
    dictionary: Dictionary,
    average_step: Schedule,
    target: Callable[[Array, Array], Array],
) -> Attack:
    """An adversary whose averages are `target(true derivatives, directions)`."""

    def forge(state, report, view, key):
        del key
        x, i, j = view.server.params, report.worker, report.direction
        wanted = target(dictionary.project(gradient(x), i, j), j)
        return state, _answer(view.server, i, j, wanted, average_step)

    return Attack(lambda num_workers: (), forge)


def greedy(gradient: Gradient, dictionary: Dictionary, average_step: Schedule) -> Attack:
    """An adversary whose average has the sign that increases the objective most.

    It knows the objective, the iterate, the server's averages and beta. Its average is +-1, so
    that its sign can change at once.

    Args:
        gradient: the gradient of the objective.
        dictionary: the directions of the server.
        average_step: beta of the server.
    """
    return _aiming(gradient, dictionary, average_step, lambda truth, j: -jnp.sign(truth))


def hidden(gradient: Gradient, dictionary: Dictionary, average_step: Schedule) -> Attack:
    """An adversary that is near honest rows: it lies about direction 0 only.

    Its averages are the true derivatives, and along direction 0 the negative of that. It aims
    at rules that compare the averages of workers, such as nearest-neighbour mixing.

    Args:
        gradient: the gradient of the objective.
        dictionary: the directions of the server.
        average_step: beta of the server.
    """

    def target(truth: Array, j: Array) -> Array:
        return jnp.where(j == 0, -truth, truth)

    return _aiming(gradient, dictionary, average_step, target)


def lookahead(
    gradient: Gradient,
    dictionary: Dictionary,
    average_step: Schedule,
    step_size: Schedule,
    *,
    horizon: int = 8,
    stride: float = 1.0,
) -> Attack:
    """An adversary that searches the signs of its K averages that keep the gradient large.

    It follows each of the 2^K choices for `horizon` steps of the mean motion, with the averages
    of honest workers at their limits. Each step stands for `stride` rounds of questions to all
    workers. The choice with the largest sum of |grad f| is the target.

    Args:
        gradient: the gradient of the objective.
        dictionary: the directions of the server.
        average_step: beta of the server.
        step_size: alpha of the server.
        horizon: the number of steps of the mean motion.
        stride: the number of rounds in a step.
    """
    choices = np.array(np.meshgrid(*[[-1.0, 1.0]] * dictionary.size)).reshape(
        dictionary.size, -1
    )

    def forge(state, report, view, key):
        del key
        x, i, j = view.server.params, report.worker, report.direction
        directions = rows(dictionary, view.byzantine.size).astype(x.dtype)  # [m, K, d]
        alpha = stride * jnp.asarray(step_size(view.server.step), x.dtype)

        def follow(signs):
            def move(x, _):
                honest = jnp.sign(directions @ gradient(x))
                votes = jnp.where(view.byzantine[:, None], signs[None], honest)
                x = x - alpha * jnp.einsum("mk,mkd->d", votes, directions)
                return x, jnp.linalg.norm(gradient(x))

            return jax.lax.scan(move, x, None, length=horizon)[1].sum()

        signs = jnp.asarray(choices.T, x.dtype)
        best = signs[jnp.argmax(jax.vmap(follow)(signs))]
        return state, _answer(view.server, i, j, best[j], average_step)

    return Attack(lambda num_workers: (), forge)
