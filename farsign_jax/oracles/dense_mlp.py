"""Two-point differences of an MLP along dense directions.

A step along a dense direction moves every weight, so that each point is a forward pass. But the
contribution of the direction to the first layer, inputs times its weights, does not depend on
the iterate: runs that are asked the same question share it, and with it nearly all of the cost.
As in `coordinate_mlp`, the change is propagated as a change, and the loss difference is formed
from the change D of the logits, so that float32 is accurate enough:

    F(x + step) - F(x) = log(sum_c p_c exp(D_c - D_label))
                       = log1p(sum_c p_c expm1(D_c - D_label))

Arrays are [k, units, b]: the mini-batch is the last axis, along which matrix products run.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from farsign_jax.base import Array
from farsign_jax.models.flat import as_float
from farsign_jax.models.structure import Layer, MLPStructure
from farsign_jax.oracles.coordinate_mlp import activation_change


def _split(vectors: Array, layer: Layer) -> tuple[Array, Array]:
    """Returns the kernel [..., fan_in, fan_out] and the bias [..., fan_out] of one layer."""
    kernel, bias, fan_in, fan_out = layer
    weights = vectors[..., kernel : kernel + fan_in * fan_out]
    weights = weights.reshape(*vectors.shape[:-1], fan_in, fan_out)
    return weights, vectors[..., bias : bias + fan_out]


def dense_loss_changes(
    structure: MLPStructure,
    x: Array,
    batch: tuple[Array, Array],
    directions: Array,
    step: Array,
    signs: Sequence[int] = (1, -1),
) -> tuple[Array, list[Array]]:
    """Returns the losses at x, and their changes by steps along dense directions.

    Args:
        structure: the network.
        x: f32[d].
        batch: inputs [b, ...] and labels i32[b].
        directions: f32[k, d], of any length.
        step: f32[k], the length of the step along each direction.
        signs: 1 for a step forwards, -1 for a step backwards; there is one result per entry.

    Returns:
        Per-example losses f32[b], and for each entry of `signs` the changes f32[k, b].
    """
    inputs, labels = batch
    h = as_float(inputs.reshape(inputs.shape[0], -1), x.dtype).T  # [fan_in, b]
    changes: list[Array | None] = [None] * len(signs)  # of h, [k, fan_in, b]
    step = step[:, None, None]
    last = len(structure.layers) - 1
    z = h
    for n, layer in enumerate(structure.layers):
        kernel, bias = _split(x, layer)
        moves, shifts = _split(directions, layer)
        moves, shifts = jnp.swapaxes(moves, 1, 2), shifts[..., None]  # [k, fan_out, fan_in]
        if n == 0:
            along = step * (moves @ h + shifts)  # [k, fan_out, b]; the same for all iterates
        else:
            moves = step * moves
            along = moves @ h + step * shifts
        z = kernel.T @ h + bias[:, None]
        for i, sign in enumerate(signs):
            change, moved = sign * along, changes[i]
            if moved is not None:
                change = (kernel.T[None] + sign * moves) @ moved + change
            if n < last:
                change = activation_change(structure.activation, z[None], change)
            changes[i] = change
        h = structure.activation(z)

    log_p = jax.nn.log_softmax(z, axis=0)  # [c, b]
    is_label = jax.nn.one_hot(labels, z.shape[0], axis=0, dtype=x.dtype)
    p = jnp.exp(log_p)[None]

    def total(terms, least):  # the sum over classes; no term is below `least`
        # Without the maximum, XLA on a CPU turns these sums into matrix products, which take
        # twice the time of the whole function.
        return jnp.sum(jnp.maximum(terms, least), axis=1)

    def loss_change(change):  # the label's own term is expm1(0) = 0
        own = total(change * is_label[None], -jnp.finfo(x.dtype).max)
        return jnp.log1p(total(p * jnp.expm1(change - own[:, None]), -1))

    return -jnp.sum(log_p * is_label, axis=0), [loss_change(change) for change in changes]
