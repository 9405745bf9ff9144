"""A small base model, trained in a minute on the text that is part of the package."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from farsign_jax import models, specs
from farsign_jax.base import Array
from farsign_jax.data import texts
from farsign_jax.data.dataset import Dataset
from farsign_jax.models import checkpoints
from farsign_jax.problems.supervised import loss_of_each
from farsign_jax.validation import require

TOKENS = len(texts.ALPHABET)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a base model is trained.

    Attributes:
        model: as of `models.make`, without a path.
        steps: of Adam.
        batch_size: texts of a step.
        step_size: the highest one, after a tenth of the steps; it then falls to 0.
        seed: of parameters and mini-batches.
    """

    model: str = "transformer"
    steps: int = 1000
    batch_size: int = 32
    step_size: float = 3e-3
    seed: int = 0

    def name(self, data: Dataset) -> str:
        """A name that no other plan or text has."""
        digest = hashlib.sha256(repr(self).encode())
        digest.update(data.train_images.tobytes())
        return f"base-{digest.hexdigest()[:12]}.npz"


def base_model(plan: Plan, folder: pathlib.Path, progress: bool = False) -> str:
    """The model with the path of its parameters, which are trained if the folder lacks them.

    Args:
        plan: how it is trained.
        folder: where its parameters are kept.
        progress: whether a progress bar is shown.

    Raises:
        InvalidConfig: if the plan has no step or names a path.
    """
    require(plan.steps > 0, f"a base model needs steps > 0: got {plan.steps}")
    require("path=" not in plan.model, f"a base model is trained: got {plan.model}")
    data = texts.license_text()
    path = folder / plan.name(data)
    if not path.exists():
        module = models.make(plan.model, data.num_classes)
        flat = models.flatten(module, data.train_images.shape[1:])
        x = _train(plan, flat, data, progress)
        leaves = flax.traverse_util.flatten_dict(flat.tree(x), sep="/")
        checkpoints.save(path, {name: np.asarray(leaf) for name, leaf in leaves.items()})
    return specs.extended(plan.model, f"path={path}")


def _train(plan: Plan, flat: models.Flat, data: Dataset, progress: bool) -> Array:
    """The parameters after all steps of Adam on the windows to train on."""
    inputs, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    start, draw = jax.random.split(jax.random.key(plan.seed))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, plan.step_size, max(plan.steps // 10, 1), max(plan.steps, 2)
    )
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @jax.jit
    def step(x: Array, state: optax.OptState, key: Array) -> tuple[Any, Any]:
        rows = jax.random.randint(key, (plan.batch_size,), 0, len(inputs))

        def loss(x: Array) -> Array:
            return loss_of_each(flat.apply(x, inputs[rows]), labels[rows]).mean()

        updates, state = adam.update(jax.grad(loss)(x), state)
        return optax.apply_updates(x, updates), state

    x = flat.init(start)
    state = adam.init(x)
    for key in tqdm.tqdm(
        jax.random.split(draw, plan.steps), "base model", disable=not progress, leave=False
    ):
        x, state = step(x, state, key)
    return x
