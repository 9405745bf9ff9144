"""Comparative elimination, which leaves out the rows with the largest norms."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import cleaned, mean_of, norms, number, positions
from farsign_jax.aggregators.rule import MAJORITY, Rule, without_options
from farsign_jax.base import Array
from farsign_jax.validation import check_integer


@jax.jit
def _comparative_elimination(x: Array, mask: Array, f: Array) -> Array:
    x, present = cleaned(x, mask)
    keep = number(present) - MAJORITY.clamp(f, present)
    rank = positions(jnp.where(present, norms(x), jnp.inf))
    return mean_of(x, present & (rank < keep))


def comparative_elimination(f: int | Array) -> Rule:
    """The mean of the n - f rows with the smallest Euclidean norms.

    It needs n > 2f; O(n d). A row that is not longer than the honest ones stays, whatever its
    direction: the rule bounds what a Byzantine row can do, and does not recognise it. Of rows
    of the same norm, those with the lowest index are kept.

    Args:
        f: the number of Byzantine rows to tolerate.

    Raises:
        InvalidConfig: if f is not an integer >= 0.

    References:
        Gupta, Liu and Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning with
        Norm-Based Comparative Gradient Elimination", DSN-W 2021, arXiv 2008.04699.
    """
    name = "comparative_elimination"
    return without_options(
        name, _comparative_elimination, MAJORITY, check_integer(name, "f", f, 0)
    )
