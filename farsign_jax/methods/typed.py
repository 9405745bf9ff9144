"""Functions of JAX whose own annotations are incomplete, with complete ones."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Key

Result = TypeVar("Result")


def cond(
    predicate: Array,
    when_true: Callable[..., Result],
    when_false: Callable[..., Result],
    *args: Any,
) -> Result:
    """`jax.lax.cond`: the result of one of two functions."""
    return jax.lax.cond(predicate, when_true, when_false, *args)  # pyright: ignore


def grad(function: Callable[[Array], Array], x: Array) -> Array:
    """The gradient of a function at x, f32[d]."""
    return jax.grad(function)(x)  # pyright: ignore


def norm(x: Array) -> Array:
    """The Euclidean norm of x, f32[]."""
    return jnp.linalg.norm(x)  # pyright: ignore


def seed_of(key: Key | None) -> Array:
    """A seed u32[2] that is drawn from a key, by default from that of seed 0."""
    return jax.random.bits(jax.random.key(0) if key is None else key, (2,), jnp.uint32)


def key_of(seed: Array) -> Key:
    """The key with the bits of a seed u32[2], which is kept in a state in place of a key."""
    return jax.random.wrap_key_data(seed, impl="threefry2x32")  # pyright: ignore


def step_key(seed: Array, step: Array) -> Key:
    """The key of what a server draws for the update after `step` others."""
    return jax.random.fold_in(key_of(seed), step)


def rule_key(seed: Array, step: Array) -> Key:
    """The key of what an aggregation rule draws in the update after `step` others.

    Whatever else a server draws has a key that is folded with a step or a small number first.
    """
    return jax.random.fold_in(jax.random.fold_in(key_of(seed), 2**32 - 1), step)
