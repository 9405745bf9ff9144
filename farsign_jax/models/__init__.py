"""Models: Flax modules, and their view as functions of one parameter vector."""

from farsign_jax.models.flat import Flat, as_float, byte_scale, flatten
from farsign_jax.models.networks import CNN, MLP, MODELS, cnn, make, mlp, softmax_regression
from farsign_jax.models.structure import Layer, MLPStructure

__all__ = [
    "CNN",
    "MLP",
    "MODELS",
    "Flat",
    "Layer",
    "MLPStructure",
    "as_float",
    "byte_scale",
    "cnn",
    "flatten",
    "make",
    "mlp",
    "softmax_regression",
]
