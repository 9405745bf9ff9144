"""Two-point differences along coordinates of an MLP, without evaluating it twice.

A step along one weight changes one pre-activation z_c of its layer by step * input. This
change is propagated as a *change*, from layer to layer, on top of one forward pass that
all coordinates share, and the loss difference is formed from the change of the logits
(`cross_entropy`), so that float32 is accurate enough; and a first-layer weight
costs O(b * next width) instead of a forward pass.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Schedule, Worker
from farsign_jax.models.flat import byte_scale
from farsign_jax.models.structure import Layer, MLPStructure
from farsign_jax.oracles import cross_entropy
from farsign_jax.oracles.precision import check_precision
from farsign_jax.oracles.zeroth_order import (
    check,
    check_question,
    evaluation_noise,
    evaluations,
)
from farsign_jax.step_sizes import as_schedule


class Touch(NamedTuple):
    """What the coordinates j, i32[k], touch within one layer."""

    here: Array  # bool[k], whether j is a parameter of this layer
    weight: Array  # bool[k], whether it is an entry of the kernel
    source: Array  # i32[k], the input that it multiplies (0 if there is none)
    unit: Array  # i32[k], the unit that it feeds (arbitrary if not here)


def touch(layer: Layer, j: Array) -> Touch:
    """Returns what the coordinates j, i32[k], touch within a layer."""
    kernel, bias, fan_in, fan_out = layer
    weight = (j >= kernel) & (j < kernel + fan_in * fan_out)
    offset = jnp.where(weight, j - kernel, 0)
    biased = (j >= bias) & (j < bias + fan_out)
    unit = jnp.where(weight, offset % fan_out, jnp.where(biased, j - bias, 0))
    return Touch(weight | biased, weight, offset // fan_out, unit)


def activation_change(activation: Callable, z: Array, change: Array) -> Array:
    """Returns activation(z + change) - activation(z) without cancellation.

    ReLU has a closed form. For other activations it is the integral of the slope over the step
    (three Gauss nodes), which has no cancellation, wherever this agrees with the plain
    difference up to the rounding of the latter; elsewhere, that is, across a kink, it is the
    plain difference.
    """
    if activation is nn.relu:
        # `change` is a product. It is compared before anything is added to it: whether XLA
        # contracts a product and a sum, which changes the last bit, depends on the rest of the
        # program, and a worker by itself must give the bits of the simulator.
        return jnp.maximum(change, -z) + jnp.minimum(z, 0)

    def slope(at):
        return jax.jvp(activation, (at,), (jnp.ones_like(at),))[1]

    z, change = jnp.broadcast_arrays(z, change)
    reach = float(np.sqrt(0.15))
    middle = slope(z + 0.5 * change)
    outer = slope(z + (0.5 - reach) * change) + slope(z + (0.5 + reach) * change)
    integral = change * (5 * outer + 8 * middle) / 18
    before, after = activation(z), activation(z + change)
    plain = after - before
    # Activations compute with numbers of the size of z even where the result is small.
    size = (
        jnp.abs(before)
        + jnp.abs(after)
        + (1 + jnp.abs(middle)) * (jnp.abs(z) + jnp.abs(change))
    )
    rounding = 4 * jnp.finfo(z.dtype).eps * size
    return jnp.where(jnp.abs(integral - plain) <= rounding, integral, plain)


def loss_changes(
    structure: MLPStructure, x: Array, batch: tuple[Array, Array], j: Array, steps: Sequence
) -> tuple[Array, list[Array]]:
    """Returns the losses at x, and the changes of their mean by single-coordinate steps.

    Args:
        structure: the network.
        x: f32[d].
        batch: inputs [b, ...] and labels i32[b].
        j: i32[k], the coordinates.
        steps: the lengths of the steps along each coordinate; there is one result per entry.

    Returns:
        Per-example losses f32[b], and for each step the changes of their mean, f32[k].
    """
    inputs, labels = batch
    layers = structure.layers
    touches = [touch(layer, j) for layer in layers]
    kernels = [
        x[a.kernel : a.kernel + a.fan_in * a.fan_out].reshape(a.fan_in, a.fan_out)
        for a in layers
    ]

    inputs = inputs.reshape(inputs.shape[0], -1)
    fed, scale = inputs, byte_scale(inputs)  # bytes are read before they are converted
    z, sources = [], []
    for layer, kernel, own in zip(layers, kernels, touches, strict=True):
        source = jnp.where(own.weight[:, None], fed.T[own.source].astype(x.dtype) / scale, 1)
        sources.append(jnp.where(own.here[:, None], source, 0))  # [k, b]
        h = fed.astype(x.dtype) @ kernel / scale
        z.append(h + x[None, layer.bias : layer.bias + layer.fan_out])
        fed, scale = structure.activation(z[-1]), 1
    base, q = cross_entropy.gradient(z[-1], labels)

    def unit_rows(n):  # one-hot rows of the units that the coordinates feed, f32[k, fan_out]
        return jax.nn.one_hot(touches[n].unit, layers[n].fan_out, dtype=x.dtype)

    # As long as a single unit changes, the change is a factor [k, b] times a row [k, width];
    # this holds for a parameter of layer 0 up to the pre-activations of layer 1.
    rows = unit_rows(0)
    if len(layers) > 1:
        first = touches[0].here[:, None]
        rows = jnp.where(first, kernels[1][touches[0].unit], unit_rows(1))
        before = z[0].T[touches[0].unit]

    def factor(step):
        if len(layers) == 1:
            return step * sources[0]
        moved = activation_change(structure.activation, before, step * sources[0])
        return jnp.where(first, moved, step * sources[1])

    factors = [factor(step) for step in steps]
    if len(layers) <= 2:
        return base, cross_entropy.mean_changes(q, labels, rows, factors)

    def change(step, factor):
        dense = factor[..., None] * rows[:, None]  # [k, b, width]
        for n in range(2, len(layers)):
            dense = activation_change(structure.activation, z[n - 1][None], dense)
            dense = dense @ kernels[n] + (step * sources[n])[..., None] * unit_rows(n)[:, None]
        own = jnp.take_along_axis(dense, labels[None, :, None], axis=-1)[..., 0]
        return cross_entropy.change(q[None], own, dense).mean(axis=-1)

    return base, [change(*both) for both in zip(steps, factors, strict=True)]


class Changes(NamedTuple):
    """How losses change by steps along coordinates, as a `Problem` may say."""

    losses: Callable[[Array, Any], Array]
    loss_changes: Callable[..., tuple[Array, list[Array]]]


def coordinate_two_point(
    structure: MLPStructure | Changes,
    *,
    k: int,
    batch_size: int,
    delta: float | Schedule = 1e-3,
    coupled: bool = True,
    noise_std: float = 0.0,
    scheme: str = "central",
) -> Worker:
    """`two_point` for coordinates (`directions.identity`), where a base pass can be shared.

    The answers are the same. For an MLP with cross entropy, they are about a hundred times
    cheaper, and accurate in float32 for any delta; the loss is assumed to change little along
    one coordinate, and where it changes by tens, the plain difference is more accurate.

    Args:
        structure: the network, `Problem.structure`, or the changes of its losses.
        k: the number of coordinates per question.
        batch_size: b; this and the following arguments are those of `two_point`.
        delta: the perturbation.
        coupled: whether both points share one mini-batch.
        noise_std: the standard deviation of further noise on each evaluation.
        scheme: "central" or "forward".

    Raises:
        InvalidConfig: if batch_size < 1, delta <= 0, or the scheme is unknown; when it is
            asked, if the losses are computed in half precision (`check_precision`).
    """
    check(batch_size, delta, scheme)
    delta = as_schedule(delta)
    if isinstance(structure, MLPStructure):
        changes_of: Any = functools.partial(loss_changes, structure)
    else:
        changes_of = structure.loss_changes

    def respond(state, query, shard, key):
        check_question(query, k)
        plus_key, minus_key, noise_key = jax.random.split(key, 3)
        x, j = query.params, query.direction
        radius = jnp.asarray(delta(query.version), x.dtype)
        plus = shard.batch(plus_key, batch_size)
        if isinstance(structure, MLPStructure):
            check_precision(structure.activation, x[:1])
        else:
            check_precision(structure.losses, x, plus)
        minus = plus if coupled else shard.batch(minus_key, batch_size)
        steps = (radius, -radius) if scheme == "central" else (radius,)
        with jax.default_matmul_precision("highest"):  # TF32 flips signs
            if coupled:
                _, changes = changes_of(x, plus, j, steps)
                between: Any = 0.0
            else:
                above, (up,) = changes_of(x, plus, j, steps[:1])
                below, down = changes_of(x, minus, j, steps[1:])
                changes, between = [up, *down], above.mean() - below.mean()
        difference = between + (changes[0] - changes[1] if steps[1:] else changes[0])
        noise: Any = evaluation_noise(noise_key, k, noise_std, coupled, x.dtype, scheme)
        return state, (difference + noise) / (len(steps) * radius)

    return Worker(lambda shard: (), respond, evaluations(k, scheme), batch_size)
