"""The examples of the workers, and what is minimised over them.

Shapes are written with the letters of `base`: m workers, d parameters, n examples per shard, b
examples per mini-batch, N examples in all.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
PyTree = Any


class Poison(Protocol):
    """What a Byzantine worker makes of its examples before it computes with them.

    Args:
        examples: (inputs [b, ...], labels i32[b]).
        rows: i32[b], the rows of the data set that they are.
        num_classes: the number of labels.

    Returns:
        Examples of the same shapes and types.
    """

    def __call__(self, examples: PyTree, rows: Array, num_classes: int, /) -> PyTree: ...


class WithFrozen(NamedTuple):
    """Examples, and arrays that every loss reads beside them: parameters that do not change."""

    examples: tuple[Any, ...]  # leaves [N, ...]
    frozen: PyTree


def read(
    data: PyTree, rows: Array, poison: Callable[[PyTree, Array], PyTree] | None = None
) -> PyTree:
    """Returns the examples in these rows of a data set, as `Shard.read` does."""
    examples = data.examples if isinstance(data, WithFrozen) else data
    examples = jax.tree.map(operator.itemgetter(rows), examples)
    if poison is not None:
        examples = poison(examples, rows)
    return (*examples, data.frozen) if isinstance(data, WithFrozen) else examples


class Shard(NamedTuple):
    """One worker's examples: rows of a data set that all workers have in common in memory."""

    data: PyTree  # leaves [N, ...], or `WithFrozen`
    rows: Array  # i32[n]
    size: Array  # i32[], how many of the rows count; the rest is padding
    # What a Byzantine worker makes of its examples, `(examples, rows) -> examples`, or None.
    poison: Callable[[PyTree, Array], PyTree] | None = None

    def draw(self, key: Key, size: int) -> Array:
        """Draws i32[size], places of a mini-batch in the shard, with replacement."""
        return jax.random.randint(key, (size,), 0, self.size, jnp.int32)

    def take(self, places: Array) -> PyTree:
        """Returns the examples at these places, leaves [size, ...]."""
        return self.read(self.rows[places])

    def read(self, rows: Array) -> PyTree:
        """Returns the examples in these rows of the data set, leaves [size, ...].

        Of data `WithFrozen`, what is frozen comes after them.
        """
        return read(self.data, rows, self.poison)

    def batch(self, key: Key, size: int) -> PyTree:
        """Draws a mini-batch with replacement."""
        return self.take(self.draw(key, size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """What is minimised: the mean of `losses` over the examples of all workers.

    Attributes:
        data: leaves [N, ...], all examples, once; or `WithFrozen`.
        rows: i32[m, n], the examples of each worker.
        sizes: i32[m], how many of the n rows count for each worker.
        x0: f32[d], where the run starts.
        losses: `(x f32[d], batch) -> f32[b]`, one loss per example, so that differences can
            be averaged instead of averages differenced (float32).
        structure: hashable description of `losses` that a faster oracle may use, or None.
        loss_changes: `(x, batch, j i32[k], steps) -> (losses f32[b], changes)`, how the mean
            loss changes by steps of each of these lengths along the coordinates j, one f32[k]
            for each length, if this is faster than `losses` at each point; or None.
        num_classes: number of labels where `data` is (inputs, labels), the labels being
            0 .. num_classes - 1; None where examples have no labels.
    """

    data: PyTree
    rows: Array
    sizes: Array
    x0: Array
    losses: Callable[[Array, PyTree], Array] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(default=None, metadata={"static": True})
    loss_changes: Callable[..., tuple[Array, list[Array]]] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    num_classes: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def num_workers(self) -> int:
        """m."""
        return self.rows.shape[-2]

    def shard(self, worker: Array) -> Shard:
        """Returns the examples of one worker, i32[]."""
        return Shard(self.data, self.rows[worker], self.sizes[worker])
