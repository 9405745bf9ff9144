"""What is measured between segments: functions `params -> {name: number}`."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from farsign_jax import models
from farsign_jax.base import Array

Measure = Callable[[Array], dict[str, Array]]


_CHUNK = 2000  # images side by side: bounds the memory of activations


@functools.lru_cache(maxsize=16)
def _evaluator(module: nn.Module, input_shape: tuple[int, ...]):
    flat = models.flatten(module, input_shape)

    def evaluate(params, images, labels):
        def one(example):
            image, label = example
            logits = flat.apply(params, image[None])[0]
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return jnp.argmax(logits) == label, loss

        hit, loss = jax.lax.map(one, (images, labels), batch_size=_CHUNK)
        classes = jax.eval_shape(flat.apply, params, images[:1]).shape[-1]
        per_class = (
            jnp.zeros((2, classes))
            .at[:, labels]
            .add(jnp.stack([hit.astype(jnp.float32), jnp.ones(labels.shape)]))
        )
        right, number = per_class
        return {
            "test_accuracy": hit.mean(dtype=jnp.float32),
            "test_loss": loss.mean(),
            "worst_class": jnp.min(jnp.where(number > 0, right / number, 1.0)),
        }

    def one_by_one(params, images, labels):
        return jax.lax.map(lambda x: evaluate(x, images, labels), params)

    # On a CPU side by side is no faster, half as fast for a CNN, and the last bit of a loss
    # would depend on how many there are.
    together = jax.vmap(evaluate, in_axes=(0, None, None))
    on_cpu = jax.default_backend() == "cpu"
    return jax.jit(evaluate), jax.jit(one_by_one if on_cpu else together)


def classification(module: nn.Module, images: np.ndarray, labels: np.ndarray) -> Measure:
    """`test_accuracy` (a fraction), `test_loss` (mean cross entropy) and `worst_class`, the
    accuracy among the examples of the class that fares worst.

    The measure takes one vector f32[d], or several f32[..., d].
    """
    one, many = _evaluator(module, tuple(images.shape[1:]))
    data = jax.device_put((images, np.asarray(labels, np.int32)))

    def measure(params):
        if params.ndim == 1:
            return one(params, *data)
        values = many(params.reshape(-1, params.shape[-1]), *data)
        return {name: value.reshape(params.shape[:-1]) for name, value in values.items()}

    return measure
