"""Writes into arrays of the loop's state that XLA can do in place."""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.base import Array


def scatter(at: Any, old: Array, new: Array) -> Array:
    """Returns `old` with `new` written at an index; an empty slot, past the end, is dropped."""
    return old.at[at].set(new, mode="drop")


def zero_after(tree: Any) -> Array:
    """Returns 0, but not before all leaves of `tree` have been computed.

    Whatever overwrites an array must be computed after everything that reads it, or XLA copies
    the array at every event. XLA knows no other order than that of the data: an optimization
    barrier is removed before it decides where to copy.
    """

    def zero(leaf: Any) -> Any:
        first = leaf[(0,) * leaf.ndim]
        if jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
            first = jax.random.key_data(first)[0]
        if first.dtype == jnp.bool_:
            first = first.astype(jnp.uint32)
        elif not jnp.issubdtype(first.dtype, jnp.integer):
            first = jax.lax.bitcast_convert_type(first.astype(jnp.float32), jnp.uint32)
        return (first & 1) >> 1

    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    return sum((zero(leaf).astype(jnp.int32) for leaf in leaves), jnp.zeros((), jnp.int32))
