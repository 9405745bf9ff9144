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

from farsign_jax.base import Array, InvalidConfig, Key, lookup, require


class MLP(nn.Module):
    """Dense layers with He-normal weights and zero biases; the input is flattened.

    With ReLU and features (32, 10) on MNIST this is the paper's network, d = 25,450.
    """

    features: tuple[int, ...] = (32, 10)  # widths, the last one is the number of classes
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, inputs):
        h = inputs.reshape(inputs.shape[0], -1)
        for width in self.features[:-1]:
            h = self.activation(nn.Dense(width, kernel_init=nn.initializers.he_normal())(h))
        return nn.Dense(self.features[-1], kernel_init=nn.initializers.he_normal())(h)


class CNN(nn.Module):
    """Two 3x3 convolutions with stride 2, then one dense layer; no batch statistics."""

    channels: tuple[int, ...] = (8, 16)
    num_classes: int = 10

    @nn.compact
    def __call__(self, inputs):
        h = inputs
        for channels in self.channels:
            h = nn.relu(nn.Conv(channels, (3, 3), strides=(2, 2))(h))
        return nn.Dense(self.num_classes)(h.reshape(h.shape[0], -1))


def mlp(num_classes: int = 10, hidden: tuple[int, ...] = (32,)) -> MLP:
    """A multi-layer perceptron with ReLU."""
    return MLP((*hidden, num_classes))


def softmax_regression(num_classes: int = 10) -> MLP:
    """One dense layer."""
    return MLP((num_classes,))


def cnn(num_classes: int = 10) -> CNN:
    """A small convolutional network."""
    return CNN(num_classes=num_classes)


MODELS = {"mlp": mlp, "softmax_regression": softmax_regression, "cnn": cnn}


def make(text: str, num_classes: int = 10) -> nn.Module:
    """The module that a text names: `mlp`, `mlp:hidden=256x128` (two hidden layers), ...

    Raises:
        InvalidConfig: on an unknown name or option, or widths that are not positive.
    """
    name, _, options = text.partition(":")
    factory = lookup("model", name, MODELS)
    if not options:
        return factory(num_classes)
    option, _, told = options.partition("=")
    rule = f"only mlp takes options, as in mlp:hidden=256x128: got {text!r}"
    require(factory is mlp and option == "hidden", rule)
    widths = told.split("x")
    good = all(width.isdecimal() and int(width) > 0 for width in widths)
    require(good, f"hidden=256x128 are widths of hidden layers: got {told!r}")
    return mlp(num_classes, tuple(map(int, widths)))


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
