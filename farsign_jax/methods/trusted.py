"""The data that a server trusts, and the gradient of its loss on them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Problem, PyTree
from farsign_jax.methods.typed import grad
from farsign_jax.validation import require, sanitize


def trusted_examples(problem: Problem, count: int) -> PyTree:
    """Returns the first examples of each worker, `count` in total, leaves [R, ...].

    Raises:
        InvalidConfig: if `count` is not between 1 and the number of examples of all workers.
    """
    m, most = problem.num_workers, problem.num_workers * problem.rows.shape[-1]
    rule = f"the server needs 1 <= trusted <= {most} examples of its own: got {count}"
    require(1 <= count <= most, rule)
    rows = problem.rows[:, : -(-count // m)].T.reshape(-1)[:count]

    def take(array: Array) -> Array:
        return array[rows]

    return jax.tree.map(take, problem.data)


def trusted_gradient(
    method: str, losses: Callable[[Array, PyTree], Array], reference: PyTree
) -> Callable[[Array], Array]:
    """Returns the function from x f32[d] to the sanitised gradient of the mean trusted loss.

    Args:
        method: the name of the method, for error messages.
        losses: per-example losses `(x f32[d], batch) -> f32[R]`.
        reference: the batch that the server trusts, leaves [R, ...].

    Raises:
        InvalidConfig: if the reference has no examples, or leaves of several lengths.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(reference)}
    rule = f"{method} needs a reference of R > 0 examples, leaves [R, ...]: got R in {sizes}"
    require(len(sizes) == 1 and min(sizes) > (0,), rule)

    def mean_loss(x: Array) -> Array:
        return losses(x, reference).mean()

    def gradient(params: Array) -> Array:
        return sanitize(grad(mean_loss, params))

    return gradient
