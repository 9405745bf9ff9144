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
        return loss_of_each(flat.apply(x, inputs), labels)

    return losses


def loss_of_each(logits: Array, labels: Array) -> Array:
    """The cross entropy of each example, f[b]; its mean where an example has many labels."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses if losses.ndim == 1 else losses.mean(axis=tuple(range(1, losses.ndim)))


def check_examples(
    logits: tuple[int, ...], inputs: Any, labels: Any, rows: Any, sizes: Any
) -> None:
    """Checks the examples of a problem.

    Args:
        logits: the shape of the logits of one example.
        inputs: as of `classification`, like labels, rows and sizes.

    Raises:
        InvalidConfig: where they do not fit together.
    """
    count, labels, rows, sizes = len(inputs), *map(np.asarray, (labels, rows, sizes))
    classes, shape = logits[-1], (count, *logits[1:-1])
    require(labels.shape == shape, f"need one label per input: {labels.shape} for {count}")
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


def placed(inputs: Any, labels: Any, rows: Any, sizes: Any) -> tuple[Any, Any, Any]:
    """Examples (inputs, labels), rows and sizes on the device."""
    # `device_put` compiles nothing, unlike `jnp.asarray`.
    labels, rows, sizes = (np.asarray(a, np.int32) for a in (labels, rows, sizes))
    return jax.device_put((inputs, labels)), jax.device_put(rows), jax.device_put(sizes)


def classification(
    module: nn.Module, inputs: Any, labels: Any, rows: Any, sizes: Any, key: Key
) -> Problem:
    """Makes the problem of classification with a Flax module.

    Args:
        module: maps inputs [b, ...] to logits [b, classes]; for a `models.MLP` the fast
            coordinate oracle is available.
        inputs: [N, ...]; bytes are scaled to [0, 1] when they are used.
        labels: i32[N], or i32[N, t] if the module has logits at each of t positions.
        rows: i32[m, n], the examples of each worker, from `partitions.partition`.
        sizes: i32[m], how many of the n rows count.
        key: the key of the initial parameters.

    Raises:
        InvalidConfig: if the module has state, labels or rows are out of range, or a worker has
            no examples.
    """
    shape = tuple(np.shape(inputs)[1:])
    flat = models.flatten(module, shape)
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    x = jax.ShapeDtypeStruct((flat.dim,), jnp.float32)
    logits = jax.eval_shape(flat.apply, x, example).shape
    check_examples(logits, inputs, labels, rows, sizes)
    examples, rows, sizes = placed(inputs, labels, rows, sizes)
    return Problem(
        data=examples,
        rows=rows,
        sizes=sizes,
        x0=flat.init(key),
        losses=cross_entropy(module, shape),
        structure=MLPStructure.of(module, flat),
        num_classes=logits[-1],
    )
