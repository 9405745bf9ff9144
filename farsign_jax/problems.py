"""Problems: per-example losses of one flat vector, and whose examples are whose."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from farsign_jax import models
from farsign_jax.base import Array, Key, Problem, require
from farsign_jax.oracles.coordinate_mlp import MLPStructure


@functools.lru_cache(maxsize=64)
def cross_entropy(module: nn.Module, input_shape: tuple[int, ...]):
    """Per-example cross entropy `(x, (inputs, labels)) -> f32[b]`, one object per model."""
    flat = models.flatten(module, input_shape)

    def losses(x, batch):
        inputs, labels = batch
        logits = flat.apply(x, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    return losses


def _check(flat: models.Flat, inputs: Any, labels: Any, rows: Any, sizes: Any) -> None:
    count, labels, rows, sizes = len(inputs), *map(np.asarray, (labels, rows, sizes))
    example = jax.ShapeDtypeStruct((1, *np.shape(inputs)[1:]), jnp.float32)
    x = jax.ShapeDtypeStruct((flat.dim,), jnp.float32)
    classes = jax.eval_shape(flat.apply, x, example).shape[-1]
    require(labels.shape == (count,), f"need one label per input: {labels.shape} for {count}")
    kind = np.issubdtype(labels.dtype, np.integer)
    require(kind, f"labels are whole numbers: got {labels.dtype}")
    low, high = labels.min(), labels.max()
    rule = f"labels are 0..{classes - 1} for this model: got {low}..{high}"
    require(low >= 0 and high < classes, rule)
    require(rows.ndim == 2 and sizes.shape == rows.shape[:1], "rows are [m, n] and sizes [m]")
    rule = f"rows number {count} examples: got {rows.min()}..{rows.max()}"
    require(rows.min() >= 0 and rows.max() < count, rule)
    require(
        sizes.max() <= rows.shape[1], f"sizes are at most n={rows.shape[1]}: got {sizes.max()}"
    )
    require(sizes.min() > 0, f"every worker needs an example: worker {sizes.argmin()} has 0")


def classification(
    module: nn.Module, inputs: Any, labels: Any, rows: Any, sizes: Any, key: Key
) -> Problem:
    """Classification with a Flax module.

    Args:
        module: maps inputs [b, ...] to logits [b, classes]; for a `models.MLP` the fast
            coordinate oracle is available.
        inputs: [N, ...], bytes are scaled to [0, 1] as they are used.
        labels: i32[N].
        rows: i32[m, n], see `partitions.partition`.
        sizes: i32[m].
        key: what the initial parameters are drawn from.

    Raises:
        InvalidConfig: on a model that keeps state, labels or rows that are not there, or a
            worker without examples.
    """
    shape = tuple(np.shape(inputs)[1:])
    flat = models.flatten(module, shape)
    _check(flat, inputs, labels, rows, sizes)
    return Problem(
        data=(jnp.asarray(inputs), jnp.asarray(labels, jnp.int32)),
        rows=jnp.asarray(rows, jnp.int32),
        sizes=jnp.asarray(sizes, jnp.int32),
        x0=flat.init(key),
        losses=cross_entropy(module, shape),
        structure=MLPStructure.of(module, flat),
    )


def _quadratic_losses(x: Array, batch: tuple[Array, Array, Array]) -> Array:
    curvature, center, noise = batch  # [b, d] each
    x = x[None]
    return jnp.sum(0.5 * curvature * (x - center) ** 2 + noise * x, axis=-1)


def quadratic(
    dim: int, num_workers: int, key: Key, *, noise: float = 1.0, examples: int = 64
) -> Problem:
    """f(x) = sum_j h_j (x_j - c_j)^2 / 2 with gradient noise: example e adds xi_e . x.

    The noise has mean zero over each worker's shard, so all workers share f and its
    minimiser `c`, which is row 0 of `data[1]`. h is in [0.5, 2], c and x0 are standard normal.
    """
    center_key, curvature_key, noise_key, start_key = jax.random.split(key, 4)
    center = jax.random.normal(center_key, (dim,))
    curvature = jax.random.uniform(curvature_key, (dim,), minval=0.5, maxval=2.0)
    xi = noise * jax.random.normal(noise_key, (num_workers, examples, dim))
    xi = (xi - xi.mean(axis=1, keepdims=True)).reshape(-1, dim)
    return Problem(
        data=(jnp.broadcast_to(curvature, xi.shape), jnp.broadcast_to(center, xi.shape), xi),
        rows=jnp.arange(num_workers * examples, dtype=jnp.int32).reshape(num_workers, -1),
        sizes=jnp.full((num_workers,), examples, jnp.int32),
        x0=jax.random.normal(start_key, (dim,)),
        losses=_quadratic_losses,
    )
