"""Interoperation with NumPy, PyTorch, optax and ByzFL."""

from farsign_jax.interop.aggregation import Attack, aggregate
from farsign_jax.interop.far_sign import FarSign, Question

__all__ = [
    "Attack",
    "FarSign",
    "Question",
    "aggregate",
]
