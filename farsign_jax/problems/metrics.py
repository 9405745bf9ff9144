"""Metrics that are computed between segments of a run: functions `params -> {name: value}`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
_CHUNK_OF_TEXTS = 50
_WORST = 10  # the worst tenth of the users


class TestData(NamedTuple):
    """What is measured on.

    Attributes:
        inputs: [N, ...].
        labels: i32[N], or i32[N, t] where every position has one.
        users: i32[N], to whom the examples belong, 0, 1, ...; or None.
        num_users: their number.
        frozen: what the model reads beside its parameters; or None.
    """

    inputs: Array
    labels: Array
    users: Array | None = None
    num_users: int = 0
    frozen: Any = None


def _correct(logits: Array, labels: Array) -> Array:
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


class _Compiled(NamedTuple):
    """Functions of parameters and `TestData`, but for its `num_users`, as programs."""

    one: Callable[..., dict[str, Array]]  # the metrics of a vector f32[d]
    many: Callable[..., dict[str, Array]]  # of f32[n, d]
    of_users: Callable[..., Array]  # of f32[d], the accuracy for each user


@functools.lru_cache(maxsize=16)
def _compiled(apply: Callable[..., Array], num_users: int) -> _Compiled:
    def of_examples(
        params: Array, inputs: Array, labels: Array, frozen: Any
    ) -> tuple[Array, Array]:
        own = () if frozen is None else (frozen,)

        def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
            one_input, label = example
            logits = apply(params, one_input[None], *own)[0]
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return _correct(logits, label), loss

        tokens = jnp.issubdtype(inputs.dtype, jnp.signedinteger)
        chunk = _CHUNK_OF_TEXTS if tokens else _CHUNK
        return jax.lax.map(one, (inputs, labels), batch_size=chunk)

    def by_user(hit: Array, users: Array) -> Array:
        right, count = _totals(num_users, hit.reshape(len(hit), -1).mean(axis=1), users)
        return jnp.where(count > 0, right / count, jnp.nan)

    def evaluate(
        params: Array, inputs: Array, labels: Array, users: Any, frozen: Any
    ) -> dict[str, Array]:
        hit, loss = of_examples(params, inputs, labels, frozen)
        own = () if frozen is None else (frozen,)
        classes = jax.eval_shape(apply, params, inputs[:1], *own).shape[-1]
        correct, number = _totals(classes, hit.reshape(-1), labels.reshape(-1))
        found = {
            "test_accuracy": hit.mean(dtype=jnp.float32),
            "test_loss": loss.mean(),
            "worst_class": jnp.min(jnp.where(number > 0, correct / number, 1.0)),
        }
        if num_users:
            accuracies = jnp.sort(by_user(hit, users))  # NaN last: who has no test examples
            worst = -(-jnp.sum(~jnp.isnan(accuracies)) // _WORST)
            among = jnp.arange(num_users) < worst
            found["worst_users"] = jnp.sum(jnp.where(among, accuracies, 0)) / worst
        return found

    def of_users(
        params: Array, inputs: Array, labels: Array, users: Array, frozen: Any
    ) -> Array:
        return by_user(of_examples(params, inputs, labels, frozen)[0], users)

    def one_by_one(params: Array, *data: Any) -> dict[str, Array]:
        return jax.lax.map(lambda x: evaluate(x, *data), params)

    # On a CPU, vmap is not faster, and half as fast for a CNN, and the last bit of a loss would
    # depend on the number of vectors.
    together = jax.vmap(evaluate, in_axes=(0, None, None, None, None))
    on_cpu = jax.default_backend() == "cpu"
    many = jax.jit(one_by_one if on_cpu else together)
    return _Compiled(jax.jit(evaluate), many, jax.jit(of_users))


def _totals(groups: int, values: Array, group: Array) -> Array:
    """The sums of the values of each group, and their numbers, f32[2, groups]."""
    pairs = jnp.stack([values.astype(jnp.float32), jnp.ones(values.shape)])
    return jnp.zeros((2, groups)).at[:, group].add(pairs)


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """The function that `classification` returns.

    Attributes:
        apply: `(params f32[d], inputs) -> logits`, or with what is frozen after the inputs.
        data: the test data.
    """

    apply: Callable[..., Array]
    data: TestData

    def __call__(self, params: Array) -> dict[str, Array]:
        inputs, labels, users, num_users, frozen = self.data
        compiled = _compiled(self.apply, num_users)
        if params.ndim == 1:
            return compiled.one(params, inputs, labels, users, frozen)
        vectors = params.reshape(-1, params.shape[-1])
        values = compiled.many(vectors, inputs, labels, users, frozen)
        return {name: value.reshape(params.shape[:-1]) for name, value in values.items()}

    def of_users(self, params: Array) -> Array:
        """The accuracy for each user, f32[users], NaN for one without test examples.

        Args:
            params: f32[d].

        Raises:
            InvalidConfig: if the examples belong to nobody.
        """
        inputs, labels, users, num_users, frozen = self.data
        require(num_users > 0, "the test examples of this data set belong to no users")
        of_users = _compiled(self.apply, num_users).of_users
        return of_users(params, inputs, labels, users, frozen)


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
        """The test data of both."""
        return self.clean.data, self.others.data

    def of_users(self, params: Array) -> Array:
        """As that of `Classification`."""
        return self.clean.of_users(params)

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
    labels = np.asarray(clean.data.labels)
    examples = clean.data.inputs, clean.data.labels
    images, wanted = goal(examples, jnp.arange(len(labels)), num_classes)
    others = np.flatnonzero(labels != np.asarray(wanted))
    require(len(others) > 0, "a backdoor needs test images of labels other than its target")
    images, wanted = jax.device_put((np.asarray(images)[others], np.asarray(wanted)[others]))
    data = TestData(images, wanted, frozen=clean.data.frozen)
    return WithAccuracy(clean, dataclasses.replace(clean, data=data), "backdoor_success")


def classification(
    model: nn.Module | Callable[..., Array],
    inputs: np.ndarray,
    labels: np.ndarray,
    users: np.ndarray | None = None,
    frozen: Any = None,
) -> Classification:
    """The metrics of a classifier on test data.

    They are `test_accuracy`, the fraction of examples classified correctly; `test_loss`, the
    mean cross entropy; `worst_class`, the smallest accuracy among the classes; and, where
    examples belong to users, `worst_users`, the mean accuracy of the worst tenth of those that
    have test examples.

    Args:
        model: a module that maps inputs to logits, or the function `apply` of a
            `problems.SubspaceModel`.
        inputs: [N, ...], the test inputs.
        labels: i32[N], or i32[N, t] where every position has one.
        users: i32[N], to whom the examples belong, or None.
        frozen: what such a function reads beside its parameters.

    Returns:
        A function of one parameter vector f32[d], or of several f32[..., d], that returns each
        metric as f32[] or f32[...]. Its method `of_users` returns the accuracy for each user.
    """
    if isinstance(model, nn.Module):
        model = models.flatten(model, tuple(inputs.shape[1:])).apply
    num_users = 0 if users is None else int(users.max()) + 1
    on_device = jax.device_put((inputs, np.asarray(labels, np.int32), users))
    return Classification(model, TestData(*on_device, num_users=num_users, frozen=frozen))
