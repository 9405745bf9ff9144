"""Classification problems: the examples of the workers and the cross entropy of a module."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from farsign_jax import models
from farsign_jax.base import Array, Key, Problem
from farsign_jax.models.structure import MLPStructure
from farsign_jax.validation import require


@functools.lru_cache(maxsize=64)
def cross_entropy(
    module: nn.Module, input_shape: tuple[int, ...]
) -> Callable[[Array, tuple[Array, Array]], Array]:
    """The cross entropy of each example, `(x f32[d], (inputs, labels)) -> f32[b]`.

    The same function object is returned for the same model, as programs are cached by it.
    """
    flat = models.flatten(module, input_shape)

    def losses(x: Array, batch: tuple[Array, Array]) -> Array:
        inputs, labels = batch
        logits = flat.apply(x, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    return losses


def _check(flat: models.Flat, inputs: Any, labels: Any, rows: Any, sizes: Any) -> int:
    """The number of classes of the model.

    Raises:
        InvalidConfig: where the arguments of `classification` do not fit together.
    """
    count, labels, rows, sizes = len(inputs), *map(np.asarray, (labels, rows, sizes))
    example = jax.ShapeDtypeStruct((1, *np.shape(inputs)[1:]), jnp.float32)
    x = jax.ShapeDtypeStruct((flat.dim,), jnp.float32)
    classes = jax.eval_shape(flat.apply, x, example).shape[-1]
    require(labels.shape == (count,), f"need one label per input: {labels.shape} for {count}")
    kind = np.issubdtype(labels.dtype, np.integer)
    require(kind, f"labels are integers: got {labels.dtype}")
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
    return classes


def classification(
    module: nn.Module, inputs: Any, labels: Any, rows: Any, sizes: Any, key: Key
) -> Problem:
    """Makes the problem of classification with a Flax module.

    Args:
        module: maps inputs [b, ...] to logits [b, classes]; for a `models.MLP` the fast
            coordinate oracle is available.
        inputs: [N, ...]; bytes are scaled to [0, 1] when they are used.
        labels: i32[N].
        rows: i32[m, n], the examples of each worker, from `partitions.partition`.
        sizes: i32[m], how many of the n rows count.
        key: the key of the initial parameters.

    Raises:
        InvalidConfig: if the module has state, labels or rows are out of range, or a worker has
            no examples.
    """
    shape = tuple(np.shape(inputs)[1:])
    flat = models.flatten(module, shape)
    classes = _check(flat, inputs, labels, rows, sizes)
    return Problem(
        # `device_put` compiles nothing, unlike `jnp.asarray`.
        data=jax.device_put((inputs, np.asarray(labels, np.int32))),
        rows=jax.device_put(np.asarray(rows, np.int32)),
        sizes=jax.device_put(np.asarray(sizes, np.int32)),
        x0=flat.init(key),
        losses=cross_entropy(module, shape),
        structure=MLPStructure.of(module, flat),
        num_classes=classes,
    )
