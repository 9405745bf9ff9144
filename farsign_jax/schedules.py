"""Sequences of step sizes and perturbations: any optax schedule; here those the paper uses."""

from typing import Any

import jax.numpy as jnp
import optax

from farsign_jax.base import Schedule


def staircase(initial: Any, decay: float = 0.9, every: int = 1000) -> Schedule:
    """`initial * decay ** floor(step / every)`, the decay of the MNIST experiment."""
    return optax.exponential_decay(initial, every, decay, staircase=True)


def power(scale: Any, exponent: Any) -> Schedule:
    """`scale / (step + 1) ** exponent`, the sequences of the theorems (Remark 2.1)."""

    def schedule(step):
        return scale / (jnp.asarray(step, jnp.float32) + 1) ** exponent

    return schedule
