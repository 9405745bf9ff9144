"""What faster oracles must know about a network: its layers and its activation."""

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
    """Where a dense layer lies in the vector: kernel [fan_in, fan_out], bias [fan_out]."""

    kernel: int
    bias: int
    fan_in: int
    fan_out: int


class MLPStructure(NamedTuple):
    """All that the oracle must know about a network: its layers and its activation."""

    layers: tuple[Layer, ...]
    activation: Callable[[Array], Array]

    @classmethod
    def of(cls, module: Any, flat: Flat) -> "MLPStructure | None":
        """The structure of an `MLP`; None for anything else, subclasses included."""
        if type(module) is not MLP or not _elementwise(module.activation):
            return None
        layers = []
        for n in range(len(module.features)):
            at, shape = flat.offsets[f"Dense_{n}"], flat.shapes[f"Dense_{n}"]
            layers.append(Layer(at["kernel"], at["bias"], *shape["kernel"]))
        return cls(tuple(layers), module.activation)


@functools.lru_cache(maxsize=64)
def _elementwise(activation: Callable) -> bool:
    """Whether each output depends on its own input alone (softmax's do not)."""

    @jax.jit
    def both(z):
        alone = [activation(a.reshape(1, 1)) for a in z.reshape(-1)]
        return activation(z), jnp.stack(alone).reshape(z.shape)

    z = np.linspace(-2, 3, 8, dtype=np.float32).reshape(2, 4)
    return np.allclose(*both(z), rtol=1e-5, atol=1e-6)
