"""SAGA: stochastic gradients without most of their noise.

A worker remembers t_j, the last gradient of each of its J examples. When it is asked at x it
draws an example xi and answers

    g = grad f(x; xi) - t_xi + (1/J) sum_j t_j;    t_xi <- grad f(x; xi)

which has the mean of grad f(x; xi), and no variance once the t_j are gradients near x. With a
mini-batch, it uses the mean of b such differences.

A table of gradients takes J d numbers. If logits are linear in x (softmax regression),
grad f(x; j) is the residual softmax(logits) - onehot(label) times a factor that depends on
example j alone, and only the residuals are kept, J c numbers for c classes.

References:
    Defazio, Bach and Lacoste-Julien, "SAGA", NeurIPS 2014; "Asynchronous Byzantine-Robust
    Stochastic Aggregation with Variance Reduction", eqs. (6) and (7).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Problem, Table, Worker
from farsign_jax.examples import WithFrozen
from farsign_jax.models.flat import as_float
from farsign_jax.validation import require, sanitize

_CHUNK = 256  # examples at a time when the table is first filled, which bounds the memory


class SagaState(NamedTuple):
    """The state for n examples (padded) and d parameters."""

    table: Table  # f32[n, c] residuals, or f32[n, d] gradients
    mean: Array  # f32[d], of all J gradients in the table


class Entries(NamedTuple):
    """What is kept of each gradient, and how gradients are computed from it.

    Attributes:
        of: `(x, batch) -> e f32[b, ...]`, what is kept.
        combined: `(e, batch, weights f32[b]) -> f32[d]`, the weighted sum of the gradients,
            which is linear in e.
    """

    of: Callable[[Array, Any], Array]
    combined: Callable[[Array, Any, Array], Array]


def _gradients(problem: Problem) -> Entries:
    with_frozen = isinstance(problem.data, WithFrozen)

    def of(x, batch):
        examples, frozen = (batch[:-1], batch[-1:]) if with_frozen else (batch, ())

        def one(example):
            alone = jax.tree.map(lambda a: a[None], example)
            alone = (*alone, *frozen) if with_frozen else alone
            return jax.grad(lambda x: problem.losses(x, alone)[0])(x)

        return jax.vmap(one)(examples)

    return Entries(of, lambda entries, batch, weights: weights @ entries)


def _residuals(problem: Problem) -> Entries:
    (layer,) = problem.structure.layers
    kernel, bias, fan_in, fan_out = layer

    def flat(inputs, dtype):
        return as_float(inputs, dtype).reshape(len(inputs), -1)

    def of(x, batch):
        inputs, labels = batch
        w = x[kernel : kernel + fan_in * fan_out].reshape(fan_in, fan_out)
        logits = flat(inputs, x.dtype) @ w + x[bias : bias + fan_out][None]
        return jax.nn.softmax(logits) - jax.nn.one_hot(labels, fan_out, dtype=logits.dtype)

    def combined(entries, batch, weights):
        scaled = weights[:, None] * entries
        parts = {kernel: (flat(batch[0], scaled.dtype).T @ scaled).reshape(-1)}
        parts[bias] = scaled.sum(axis=0)
        return jnp.concatenate([parts[at] for at in sorted(parts)])

    return Entries(of, combined)


def entries_of(problem: Problem) -> Entries:
    """Returns residuals if the model is a single dense layer, else gradients."""
    structure = problem.structure
    linear = structure is not None and len(structure.layers) == 1
    return _residuals(problem) if linear else _gradients(problem)


def saga_gradient(problem: Problem, *, batch_size: int = 1) -> Worker:
    """A worker that answers with SAGA gradients.

    Args:
        problem: what is minimised; the tables begin with the gradients at its x0.
        batch_size: b, the number of examples per answer, drawn with replacement; 1 in the
            papers.

    Returns:
        A `Worker` that answers with g f32[d]. Its state has O(J c) numbers for softmax
        regression and O(J d) for any other model.

    Raises:
        InvalidConfig: if batch_size < 1, or a shard has no examples.
    """
    require(batch_size >= 1, f"need batch_size >= 1: got {batch_size}")
    entries, b = entries_of(problem), batch_size

    def init(shard):
        count = len(shard.rows)
        require(count >= 1 and shard.size >= 1, "saga needs J >= 1 examples per worker: got 0")
        chunk = min(count, _CHUNK)
        places = jnp.arange(-(-count // chunk) * chunk, dtype=jnp.int32).reshape(-1, chunk)

        def part(mean, places):
            batch = shard.take(jnp.minimum(places, count - 1))
            fresh = entries.of(problem.x0, batch)
            counted = (places < shard.size).astype(fresh.dtype)
            counted = counted / shard.size.astype(fresh.dtype)
            return mean + entries.combined(fresh, batch, counted), fresh

        mean, table = jax.lax.scan(part, jnp.zeros_like(problem.x0), places)
        return SagaState(Table(table.reshape(-1, *table.shape[2:])[:count]), mean)

    def respond(state, query, shard, key):
        places = shard.draw(key, b)
        batch = shard.take(places)
        # Sanitised: one gradient that overflows would stay in the mean for ever.
        fresh = sanitize(entries.of(query.params, batch))
        change = fresh - state.table.rows
        step = entries.combined(change, batch, jnp.full(b, 1 / b, change.dtype))
        size, replaced = shard.size.astype(change.dtype), step
        if b > 1:  # an example that is drawn twice is replaced once
            before = jnp.tril(places[:, None] == places[None], -1)
            first = ~before.any(axis=1)
            replaced = entries.combined(change, batch, first.astype(change.dtype))
        return SagaState(Table(fresh), state.mean + replaced / size), step + state.mean

    def touched(shard, key):
        return shard.draw(key, b)

    return Worker(init, respond, 1, b, touched=touched)
