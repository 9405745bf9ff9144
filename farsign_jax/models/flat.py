"""The view of a Flax module as a function of one parameter vector.

Servers work with vectors f32[d]; only this file and `problems` know the tree of parameters. Any
`flax.linen` module can be used that maps inputs to logits, draws no random numbers and has no
collection other than `params`: the same question must have the same answer. One that reads the
tokens of a text, i32[b, t], instead of numbers says so by `reads_tokens = True`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key
from farsign_jax.validation import InvalidConfig, require

MANTISSA = 23  # bits of float32


class Flat(NamedTuple):
    """A module as a function of one vector f32[d].

    Attributes:
        dim: d, the number of parameters.
        offsets: the tree of parameters, with the first index of each leaf in the vector.
        shapes: the tree of parameters, with the shape of each leaf.
        init: `(key) -> f32[d]`, draws initial parameters, but for those that the module reads
            from a file (`module.pretrained()`, by their paths). A module that declares
            parameters in half precision computes with rounded copies of these.
        apply: `(x f32[d], inputs [b, ...]) -> f32[b, c]`, the logits of c classes.
        tree: `(x f32[d]) -> params`, the parameters as the module has them.
        read: `(inputs, dtype) -> inputs` as the module is given them.
    """

    dim: int
    offsets: Any
    shapes: Any
    init: Callable[[Key], Array]
    apply: Callable[[Array, Array], Array]
    tree: Callable[[Array], Any]
    read: Callable[[Array, Any], Array]


def byte_scale(inputs: Array) -> int:
    """The divisor of inputs: 255 for bytes (images), which it scales to [0, 1], else 1."""
    return 255 if inputs.dtype == jnp.uint8 else 1


def as_float(inputs: Array, dtype: Any) -> Array:
    """Inputs as floats of this type, with bytes (images) scaled to [0, 1]."""
    return inputs.astype(dtype) / jnp.asarray(byte_scale(inputs), dtype)


def _as_tokens(inputs: Array, dtype: Any) -> Array:
    del dtype  # of numbers
    return inputs.astype(jnp.int32)


def is_narrow(dtype: Any) -> bool:
    """Whether a type of floats has fewer bits than float32, as those of half precision do."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).nmant < MANTISSA


@functools.lru_cache(maxsize=64)  # the same functions each time, as jit caches by identity
def flatten(module: nn.Module, input_shape: tuple[int, ...]) -> Flat:
    """The flat view of a module, with the leaves of the parameters in tree order.

    Args:
        module: maps inputs [b, *input_shape] to logits [b, classes].
        input_shape: the shape of one input.

    Raises:
        InvalidConfig: if the module cannot be initialised or applied, draws random numbers, as
            dropout does, or has a collection other than `params`, such as the statistics of
            BatchNorm.
    """
    tokens = getattr(module, "reads_tokens", False)
    read = _as_tokens if tokens else as_float
    example = jnp.zeros((1, *input_shape), jnp.int32 if tokens else jnp.float32)
    variables = _shapes_of(module, "initialised", module.init, jax.random.key(0), example)
    require(
        set(variables) == {"params"},
        f"a model may keep only 'params', no state: {type(module).__name__} has "
        f"{sorted(variables)}",
    )
    _shapes_of(module, "applied", module.apply, variables, example)
    leaves, tree = jax.tree.flatten(variables["params"])
    paths = [
        "/".join(key.key for key in path)
        for path, _ in jax.tree.leaves_with_path(variables["params"])
    ]
    shapes = [leaf.shape for leaf in leaves]
    wide = any(leaf.dtype == jnp.float64 for leaf in leaves)
    halves = [leaf.dtype if is_narrow(leaf.dtype) else None for leaf in leaves]
    sizes = [math.prod(shape) for shape in shapes]
    starts = [0, *np.cumsum(sizes).tolist()]

    @jax.jit
    def draw(key: Key) -> Array:
        params = module.init(key, example)["params"]
        parts = [
            leaf.reshape(-1).astype(jnp.float64 if wide else jnp.float32)
            for leaf in jax.tree.leaves(params)
        ]
        return jnp.concatenate(parts)

    def init(key: Key) -> Array:
        given = module.pretrained() if hasattr(module, "pretrained") else {}
        return _with_given(draw(key), given, paths, shapes, starts) if given else draw(key)

    def params_of(x: Array) -> Any:
        parts = jax.lax.split(
            x, sizes
        )  # with slices, a gradient would be a sum of padded parts
        leaves = [
            part.reshape(shape).astype(half or part.dtype)
            for part, shape, half in zip(parts, shapes, halves, strict=True)
        ]
        return jax.tree.unflatten(tree, leaves)

    def apply(x: Array, inputs: Array) -> Array:
        variables = {"params": params_of(x)}
        logits = jnp.asarray(module.apply(variables, read(inputs, x.dtype)))
        return logits.astype(jnp.float32) if is_narrow(logits.dtype) else logits

    return Flat(
        starts[-1],
        jax.tree.unflatten(tree, starts[:-1]),
        jax.tree.unflatten(tree, shapes),
        init,
        apply,
        params_of,
        read,
    )


def _with_given(
    x: Array,
    given: Mapping[str, np.ndarray],
    paths: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    starts: Sequence[int],
) -> Array:
    """The parameters x with those that are given by their paths.

    Raises:
        InvalidConfig: if the model has no such parameter, or it is of another shape.
    """
    found = np.array(x)
    for path, leaf in given.items():
        require(path in paths, f"the file has {path}, which is no parameter of the model")
        at = paths.index(path)
        rule = f"the model has {path} of shape {shapes[at]}: the file has {leaf.shape}"
        require(leaf.shape == shapes[at], rule)
        found[starts[at] : starts[at + 1]] = leaf.reshape(-1)
    return jnp.asarray(found)


def _shapes_of(module: nn.Module, done: str, function: Callable[..., Any], *args: Any) -> Any:
    """The shapes of what a function of a module returns.

    Raises:
        InvalidConfig: if it cannot be called, with the first line of the reason.
    """
    name = type(module).__name__
    try:
        return jax.eval_shape(function, *args)
    except flax.errors.InvalidRngError as error:
        rule = f"a model may draw no random numbers: {name} does, when it is {done}"
        raise InvalidConfig(f"{rule}; set deterministic=True in Dropout") from error
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidConfig(f"{name} cannot be {done}: {reason}") from error
