"""The structure of a multi-layer perceptron that faster oracles make use of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array
from farsign_jax.models.flat import Flat
from farsign_jax.models.networks import MLP


class Layer(NamedTuple):
    """The place of a dense layer in the parameter vector.

    Attributes:
        kernel: the first index of the kernel [fan_in, fan_out].
        bias: the first index of the bias [fan_out].
        fan_in: the width of its input.
        fan_out: the width of its output.
    """

    kernel: int
    bias: int
    fan_in: int
    fan_out: int


class MLPStructure(NamedTuple):
    """The layers and the elementwise activation of a multi-layer perceptron."""

    layers: tuple[Layer, ...]
    activation: Callable[[Array], Array]

    @classmethod
    def of(cls, module: Any, flat: Flat) -> "MLPStructure | None":
        """The structure of a module, or None if faster oracles cannot use it.

        They need an `MLP`, not a subclass, which may compute something else, and an activation
        that acts on each element by itself.
        """
        if type(module) is not MLP or not _elementwise(module.activation):
            return None
        layers = []
        for n in range(len(module.features)):
            at, shape = flat.offsets[f"Dense_{n}"], flat.shapes[f"Dense_{n}"]
            layers.append(Layer(at["kernel"], at["bias"], *shape["kernel"]))
        return cls(tuple(layers), module.activation)


@functools.lru_cache(maxsize=64)
def _elementwise(activation: Callable[[Array], Array]) -> bool:
    """Whether each output depends on its own input alone, unlike those of softmax."""

    @jax.jit
    def both(z: Array) -> tuple[Array, Array]:
        alone = [activation(a.reshape(1, 1)) for a in z.reshape(-1)]
        return activation(z), jnp.stack(alone).reshape(z.shape)

    z = np.linspace(-2, 3, 8, dtype=np.float32).reshape(2, 4)
    return np.allclose(*both(z), rtol=1e-5, atol=1e-6)
