"""The view of a Flax module as a function of one parameter vector.

Servers work with vectors f32[d]; only this file and `problems` know the tree of parameters. Any
`flax.linen` module that maps inputs to logits and has no collection other than `params` can be
used.
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
    """A module as a function of one vector f32[d].

    Attributes:
        dim: d, the number of parameters.
        offsets: the tree of parameters, with the first index of each leaf in the vector.
        shapes: the tree of parameters, with the shape of each leaf.
        init: `(key) -> f32[d]`, draws initial parameters.
        apply: `(x f32[d], inputs [b, ...]) -> f32[b, c]`, the logits of c classes.
    """

    dim: int
    offsets: Any
    shapes: Any
    init: Callable[[Key], Array]
    apply: Callable[[Array, Array], Array]


def byte_scale(inputs: Array) -> int:
    """The divisor of inputs: 255 for bytes (images), which it scales to [0, 1], else 1."""
    return 255 if inputs.dtype == jnp.uint8 else 1


def as_float(inputs: Array, dtype: Any) -> Array:
    """Inputs as floats of this type, with bytes (images) scaled to [0, 1]."""
    return inputs.astype(dtype) / jnp.asarray(byte_scale(inputs), dtype)


@functools.lru_cache(maxsize=64)  # the same functions each time, as jit caches by identity
def flatten(module: nn.Module, input_shape: tuple[int, ...]) -> Flat:
    """The flat view of a module, with the leaves of the parameters in tree order.

    Args:
        module: maps inputs [b, *input_shape] to logits [b, classes].
        input_shape: the shape of one input.

    Raises:
        InvalidConfig: if the module cannot be initialised, or has a collection other than
            `params`, such as the statistics of BatchNorm.
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
    def init(key: Key) -> Array:
        params = module.init(key, example)["params"]
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(params)])

    def apply(x: Array, inputs: Array) -> Array:
        parts = jax.lax.split(
            x, sizes
        )  # with slices, a gradient would be a sum of padded parts
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
