"""Flax models and their view as functions of one flat vector.

Servers know vectors f32[d]; only this file and `problems` know the parameter tree. Any
`flax.linen` module that maps inputs to logits and keeps nothing but `params` will do.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key
from farsign_jax.validation import InvalidConfig, require


class Flat(NamedTuple):
    """A module as a function of one vector f32[d]."""

    dim: int  # d
    offsets: Any  # the parameter tree, each leaf its first index in the vector
    shapes: Any  # the parameter tree, each leaf its shape
    init: Callable[[Key], Array]  # key -> f32[d]
    apply: Callable[[Array, Array], Array]  # (x f32[d], inputs [b, ...]) -> logits f32[b, c]


def byte_scale(inputs: Array) -> int:
    """What inputs are divided by: bytes (images) lie in [0, 1] then, the rest is as it is."""
    return 255 if inputs.dtype == jnp.uint8 else 1


def as_float(inputs: Array, dtype: Any) -> Array:
    """Bytes (images) scaled to [0, 1], anything else as it is."""
    return inputs.astype(dtype) / jnp.asarray(byte_scale(inputs), dtype)


@functools.lru_cache(maxsize=64)  # the same function object each time: jit caches by identity
def flatten(module: nn.Module, input_shape: tuple[int, ...]) -> Flat:
    """The flat view of `module` on inputs [b, *input_shape]. Leaves lie in tree order.

    Raises:
        InvalidConfig: where the module keeps anything beside `params` (BatchNorm statistics).
    """
    example = jnp.zeros((1, *input_shape), jnp.float32)
    try:
        variables = jax.eval_shape(module.init, jax.random.key(0), example)
    except flax.errors.FlaxError as error:
        reason = str(error).splitlines()[0]
        raise InvalidConfig(
            f"{type(module).__name__} cannot be initialised: {reason}"
        ) from error
    require(
        set(variables) == {"params"},
        f"a model may keep only 'params', no state: {type(module).__name__} has "
        f"{sorted(variables)}",
    )
    leaves, tree = jax.tree.flatten(variables["params"])
    shapes = [leaf.shape for leaf in leaves]
    sizes = [math.prod(shape) for shape in shapes]
    starts = [0, *np.cumsum(sizes).tolist()]

    @jax.jit
    def init(key):
        params = module.init(key, example)["params"]
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(params)])

    def apply(x, inputs):
        parts = jax.lax.split(x, sizes)  # slices would make a gradient a sum of padded parts
        leaves = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        params = jax.tree.unflatten(tree, leaves)
        logits = module.apply({"params": params}, as_float(inputs, x.dtype))
        return jnp.asarray(logits)

    return Flat(
        starts[-1],
        jax.tree.unflatten(tree, starts[:-1]),
        jax.tree.unflatten(tree, shapes),
        init,
        apply,
    )
