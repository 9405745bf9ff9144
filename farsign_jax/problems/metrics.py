"""Metrics that are computed between segments of a run: functions `params -> {name: value}`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from farsign_jax import models
from farsign_jax.base import Array, Poison
from farsign_jax.validation import require

Measure = Callable[[Array], dict[str, Array]]


_CHUNK = 2000  # images evaluated at once, which bounds the memory of activations


@functools.lru_cache(maxsize=16)
def _evaluator(
    module: nn.Module, input_shape: tuple[int, ...]
) -> tuple[Callable[..., dict[str, Array]], Callable[..., dict[str, Array]]]:
    """The metrics of one parameter vector, and of several, as compiled functions."""
    flat = models.flatten(module, input_shape)

    def evaluate(params: Array, images: Array, labels: Array) -> dict[str, Array]:
        def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
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
        correct, number = per_class
        return {
            "test_accuracy": hit.mean(dtype=jnp.float32),
            "test_loss": loss.mean(),
            "worst_class": jnp.min(jnp.where(number > 0, correct / number, 1.0)),
        }

    def one_by_one(params: Array, images: Array, labels: Array) -> dict[str, Array]:
        return jax.lax.map(lambda x: evaluate(x, images, labels), params)

    # On a CPU, vmap is not faster, and half as fast for a CNN, and the last bit of a loss would
    # depend on the number of vectors.
    together = jax.vmap(evaluate, in_axes=(0, None, None))
    on_cpu = jax.default_backend() == "cpu"
    return jax.jit(evaluate), jax.jit(one_by_one if on_cpu else together)


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """The function that `classification` returns.

    Attributes:
        one: the metrics of one parameter vector, `(params f32[d], images, labels)`.
        many: those of several, f32[n, d].
        data: the test images and labels.
    """

    one: Callable[..., dict[str, Array]]
    many: Callable[..., dict[str, Array]]
    data: tuple[Array, Array]

    def __call__(self, params: Array) -> dict[str, Array]:
        if params.ndim == 1:
            return self.one(params, *self.data)
        values = self.many(params.reshape(-1, params.shape[-1]), *self.data)
        return {name: value.reshape(params.shape[:-1]) for name, value in values.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class WithAccuracy:
    """The metrics of some examples, and the accuracy on others under a name of its own.

    Attributes:
        clean: the metrics of the test images as they are.
        others: those of the other examples: of a backdoor, images with the trigger and the
            label that the attacker wants; or examples that are held out.
        name: of the accuracy on them.
    """

    clean: "Classification | WithAccuracy"
    others: Classification
    name: str

    @property
    def data(self) -> Any:
        """The images and labels of both."""
        return self.clean.data, self.others.data

    def __call__(self, params: Array) -> dict[str, Array]:
        return self.clean(params) | {self.name: self.others(params)["test_accuracy"]}


def with_backdoor(clean: Classification, goal: Poison, num_classes: int) -> WithAccuracy:
    """The metrics of a classifier on test data, and the success rate of a backdoor.

    `backdoor_success` is the fraction of the test images with another label than the attacker's
    that are classified as the attacker wants once they have the trigger.

    Args:
        clean: the metrics of the test data.
        goal: of the attack (`Attack.goal`).
        num_classes: the number of labels.

    Raises:
        InvalidConfig: if all test images have the label of the attacker.
    """
    labels = np.asarray(clean.data[1])
    images, wanted = goal(clean.data, jnp.arange(len(labels)), num_classes)
    others = np.flatnonzero(labels != np.asarray(wanted))
    require(len(others) > 0, "a backdoor needs test images of labels other than its target")
    data = jax.device_put((np.asarray(images)[others], np.asarray(wanted)[others]))
    return WithAccuracy(clean, dataclasses.replace(clean, data=data), "backdoor_success")


def classification(module: nn.Module, images: np.ndarray, labels: np.ndarray) -> Classification:
    """The metrics of a classifier on test data.

    They are `test_accuracy`, the fraction of examples classified correctly; `test_loss`, the
    mean cross entropy; and `worst_class`, the smallest accuracy among the classes.

    Args:
        module: maps inputs to logits.
        images: [N, ...], the test inputs.
        labels: i32[N].

    Returns:
        A function of one parameter vector f32[d], or of several f32[..., d], that returns each
        metric as f32[] or f32[...].
    """
    one, many = _evaluator(module, tuple(images.shape[1:]))
    return Classification(one, many, jax.device_put((images, np.asarray(labels, np.int32))))
