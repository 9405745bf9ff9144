"""The key of a checkpoint: whatever its content depends on changes it."""

import dataclasses

import jax
import numpy as np
import pytest

from farsign_jax import models
from farsign_jax.problems import metrics
from farsign_jax.sweeps import chunks
from tests.sweeps.test_sweeps import BUILD, digits_batch

IMAGES = np.zeros((6, 6, 6, 1), np.uint8)
LABELS = np.arange(6, dtype=np.int32) % 4


def measure_of(images=IMAGES, labels=LABELS):
    return metrics.classification(models.MLP((8, 4)), images, labels)


def fingerprint(build=BUILD, batch=None, delivery="fresh", every=20, measure=None):
    batch = digits_batch() if batch is None else batch
    return chunks.fingerprint(build, batch, delivery, every, measure or measure_of()).tobytes()


def test_the_same_inputs_have_the_same_fingerprint():
    assert fingerprint() == fingerprint()


@pytest.mark.parametrize(
    "changed",
    [
        {"build": dataclasses.replace(BUILD, attack="none", attack_options=())},
        {"delivery": "outstanding"},
        {"every": 10},
        {"measure": measure_of(IMAGES + 1)},
        {"measure": measure_of(labels=LABELS[::-1])},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_other_inputs_have_another_fingerprint(changed):
    assert fingerprint(**changed) != fingerprint()


def test_every_array_of_a_batch_counts_with_its_shape_and_type():
    batch = digits_batch()
    leaves, tree = jax.tree.flatten(batch)
    found = {fingerprint(batch=batch)}
    for number, leaf in enumerate(leaves):
        changed = np.array(leaf)
        changed.flat[0] = not changed.flat[0] if changed.dtype == bool else changed.flat[0] + 1
        for other in (changed, np.array(leaf)[None]):
            others = [*leaves[:number], other, *leaves[number + 1 :]]
            found.add(fingerprint(batch=jax.tree.unflatten(tree, others)))
    assert len(found) == 1 + 2 * len(leaves)
