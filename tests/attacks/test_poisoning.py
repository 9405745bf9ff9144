"""Attacks on data: what becomes of examples, and that runs are those of poisoned data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import Lockstep, SystemSpec, attacks, interop, models, simulation
from farsign_jax.base import Shard
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.sweep_specs import sweep_specs
from farsign_jax.methods import OracleConfig
from farsign_jax.problems import metrics
from farsign_jax.runtime.worker import LocalWorker
from farsign_jax.validation import InvalidConfig
from tests import helpers

CLASSES, WORKERS = 4, 5
PROBLEM = helpers.digits(models.MLP((CLASSES,)), WORKERS)
IMAGES, LABELS = (np.asarray(leaf) for leaf in PROBLEM.data)
SETTINGS = OracleConfig(batch_size=8, directions=5, per_round=1)


def poisoned(name, images, labels, rows):
    """What a Byzantine worker makes of examples, in NumPy."""
    if name == "label_flip":
        return images, CLASSES - 1 - labels
    if name == "label_flip:offset=6":
        return images, (labels + 6) % CLASSES
    size, target, fraction = 2, 3, 0.4
    chosen = rows.astype(np.uint64) * 2654435769 % 2**32 / 2**32 < fraction
    images, labels = images.copy(), labels.copy()
    at = np.flatnonzero(chosen)
    images[at[:, None, None], np.arange(size)[:, None], np.arange(-size, 0)] = 128
    labels[at] = target
    return images, labels


BACKDOOR = "backdoor:target=3,size=2,value=0.5,corner=top_right,fraction=0.4"
NAMES = ("label_flip", "label_flip:offset=6", BACKDOOR)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_those_of_the_definition(name):
    rows = np.random.default_rng(0).permutation(len(LABELS)).astype(np.int32)
    want = poisoned(name, IMAGES[rows], LABELS[rows], rows)
    got = attacks.make(name).poison((IMAGES[rows], LABELS[rows]), jnp.asarray(rows), CLASSES)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_trigger_covers_its_square_alone_whatever_the_type_of_images():
    rows = jnp.arange(2)
    for corner, (down, right) in {
        "top_left": (0, 0), "top_right": (0, 4), "bottom_left": (4, 0), "bottom_right": (4, 4),
    }.items():  # fmt: skip
        attack = attacks.backdoor(size=2, value=0.5, corner=corner)
        for dtype, value in ((np.uint8, 128), (np.float32, 0.5)):
            images, labels = attack.goal((jnp.zeros((2, 6, 6), dtype), rows), rows, CLASSES)
            want = np.zeros((2, 6, 6), dtype)
            want[:, down : down + 2, right : right + 2] = value
            np.testing.assert_array_equal(images, want)
            assert labels.tolist() == [0, 0]


@pytest.mark.parametrize("fraction", [1e-3, 0.3, 1.0])
def test_the_trigger_is_spread_evenly_over_the_rows(fraction):
    labels = jnp.ones(10_000, jnp.int32)
    images = jnp.zeros((10_000, 3, 3), jnp.uint8)
    attack = attacks.backdoor(fraction=fraction)
    _, got = attack.poison((images, labels), jnp.arange(10_000), CLASSES)
    for part in np.split(np.asarray(got) == 0, 5):
        assert part.mean() == pytest.approx(fraction, abs=2 / 2000)


def poisoned_problem(name, byzantine):
    """The problem in which Byzantine workers own poisoned copies of their examples."""
    count = len(LABELS)
    copies = poisoned(name, IMAGES, LABELS, np.arange(count))
    data = [np.concatenate(pair) for pair in zip(PROBLEM.data, copies, strict=True)]
    rows = PROBLEM.rows + count * byzantine[:, None]
    return dataclasses.replace(PROBLEM, data=tuple(map(jnp.asarray, data)), rows=rows)


def system(method, attack, problem=PROBLEM):
    hyper = {"step_size": 0.1}
    return SystemSpec(method, attack, (), SETTINGS)(problem, hyper)


@pytest.mark.parametrize(
    ("method", "name", "delivery"),
    [
        ("async_zo_sgd", "label_flip", "fresh"),
        *helpers.slow(
            [
                ("async_sgd", BACKDOOR, "outstanding:2"),
                ("async_sgd", "label_flip:offset=6", "fresh"),
            ]
        ),
    ],
)
def test_runs_are_those_of_workers_with_poisoned_data(method, name, delivery):
    byzantine = np.asarray([0, 1, 0, 0, 1], bool)
    schedule = np.random.default_rng(0).integers(0, WORKERS, 60)
    options = {"delivery": delivery, "byzantine": byzantine}
    got, _ = simulation.run(PROBLEM, system(method, name), schedule, **options)
    other = poisoned_problem(name, byzantine)
    want, _ = simulation.run(other, system(method, "none", other), schedule, **options)
    assert np.abs(want.server.params - PROBLEM.x0).max() > 0.01
    np.testing.assert_allclose(got.server.params, want.server.params, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_tables_begin_with_poisoned_examples_too():
    byzantine = np.asarray([0, 1, 0, 0, 1], bool)
    schedule = np.random.default_rng(0).integers(0, WORKERS, (20, 1))
    got, _ = simulation.run(
        PROBLEM, system("byrd_saga", "label_flip"), schedule, byzantine=byzantine
    )
    other = poisoned_problem("label_flip", byzantine)
    want, _ = simulation.run(other, system("byrd_saga", "none", other), schedule)
    for a, b in zip(jax.tree.leaves(got.workers), jax.tree.leaves(want.workers), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("delivery", ["fresh", "outstanding"])
def test_who_is_byzantine_may_change_from_event_to_event(delivery):
    """A recorder answers with the labels of its examples, which tell who poisons them."""
    honest = system("async_sgd", "label_flip")

    def respond(state, query, shard: Shard, key):
        changed = shard.take(jnp.arange(4))[1] != shard.data[1][shard.rows[:4]]
        return state, jnp.full_like(query.params, changed.any())

    server = honest.server._replace(
        update=lambda state, reports: (state, {"flipped": reports.value[0, 0]})
    )
    recorder = honest._replace(worker=honest.worker._replace(respond=respond), server=server)
    masks = np.eye(2, WORKERS, dtype=bool)  # worker 0, then worker 1, and so on
    schedule = np.asarray([0, 1, 0, 0, 1, 1])
    keys = simulation.runner.keys_lib.split(0)
    run = simulation.start(recorder, PROBLEM, keys, delivery, jnp.asarray(masks))
    _, info = simulation.advance(
        recorder, PROBLEM, jnp.asarray(masks), keys, delivery, run, jnp.asarray(schedule)
    )
    asked = np.arange(6)
    if (
        delivery == "outstanding"
    ):  # questions have the number of the event after the last answer
        last = {w: -1 for w in range(WORKERS)}
        for event, worker in enumerate(schedule):
            asked[event], last[worker] = last[worker] + 1, event
    want = masks[asked % 2, schedule]
    np.testing.assert_array_equal(np.asarray(info["flipped"]) > 0, want)


def test_a_real_worker_poisons_its_data():
    x, keys = np.asarray(PROBLEM.x0), {"number": 3, "step": 0, "direction": None}
    byzantine = np.arange(WORKERS) == 2
    own = system("async_sgd", "none")
    liar = LocalWorker(own, PROBLEM, 0, 2, attacks.make(BACKDOOR)).answer(x, **keys)
    other = poisoned_problem(BACKDOOR, byzantine)
    want = LocalWorker(system("async_sgd", "none", other), other, 0, 2).answer(x, **keys)
    np.testing.assert_allclose(liar, want, rtol=1e-4, atol=1e-6)
    assert (liar != LocalWorker(own, PROBLEM, 0, 2).answer(x, **keys)).any()


def test_the_success_of_a_backdoor_is_counted_on_images_of_other_labels():
    module, attack = models.MLP((CLASSES,)), attacks.make("backdoor:target=1,size=4")
    measure = metrics.with_backdoor(
        metrics.classification(module, IMAGES, LABELS), attack.goal, CLASSES
    )
    x = np.random.default_rng(1).normal(size=PROBLEM.x0.shape).astype(np.float32)
    images = IMAGES[LABELS != 1].copy()
    images[:, -4:, -4:] = 255
    bias, kernel = x[:CLASSES], x[CLASSES:].reshape(-1, CLASSES)
    wins = (images.reshape(len(images), -1) / 255 @ kernel + bias).argmax(axis=1) == 1
    found = measure(jnp.asarray([x, np.zeros_like(x)]))
    np.testing.assert_allclose(found["backdoor_success"], [wins.mean(), 0], atol=1e-6)
    assert 0 < wins.mean() < 1 and set(found) == {"backdoor_success", *measure.clean(x)}
    ones = measure.clean.data._replace(labels=np.ones_like(LABELS))
    alone = dataclasses.replace(measure.clean, data=ones)
    with pytest.raises(InvalidConfig, match="of labels other than its target"):
        metrics.with_backdoor(alone, attack.goal, CLASSES)


def test_an_attack_on_data_is_a_sweep_of_its_own_in_lock_step():
    config = PanelConfig(
        methods=("sgd", "far_sign"),
        attacks=("none", "label_flip", "sign_flip", "backdoor:size=4"),
        aggregators=("mean", "median"),
    )
    specs = sweep_specs(config)
    assert [spec.name for spec in specs] == [
        "sgd", "sgd-label_flip", "sgd-backdoor-size4",
        "far_sign-none", "far_sign-label_flip", "far_sign-sign_flip", "far_sign-backdoor-size4",
    ]  # fmt: skip
    assert [len(spec.runs) for spec in specs[:3]] == [4, 2, 2]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("label_flip:offset=0", "label_flip needs a whole number offset >= 1: got 0"),
        ("label_flip:offset=8", "no multiple of the 4 classes: got 8"),
        ("backdoor:target=4", r"backdoor needs target in 0..3: got 4"),
        ("backdoor:target=-1", "whole number target >= 0: got -1"),
        ("backdoor:size=0", "whole number size >= 1: got 0"),
        ("backdoor:size=7", r"size <= 6 in images .*: got 7"),
        ("backdoor:value=2", "0 <= value <= 1 in bytes: got 2"),
        ("backdoor:value=1e39", "needs a finite value, .*: got 1e"),
        ("backdoor:corner=middle", "unknown corner of backdoor 'middle'"),
        ("backdoor:fraction=0", "backdoor needs 0 < fraction <= 1: got 0"),
        ("backdoor:fraction=1.5", "backdoor needs 0 < fraction <= 1: got 1.5"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_run(attack, message):
    with pytest.raises(InvalidConfig, match=message):
        simulation.run(PROBLEM, system("async_sgd", attack), np.zeros(3, int), byzantine=1)


def test_data_that_an_attack_cannot_poison_are_refused():
    quadratic, schedule = helpers.quadratic(), np.zeros(3, int)
    with pytest.raises(InvalidConfig, match=r"examples with labels.*: this problem has none"):
        simulation.run(quadratic, system("async_sgd", "label_flip", quadratic), schedule)
    flat = dataclasses.replace(PROBLEM, data=(IMAGES.reshape(len(IMAGES), -1), LABELS))
    with pytest.raises(InvalidConfig, match=r"needs images .*: got inputs \[36\]"):
        simulation.run(flat, system("async_sgd", "backdoor"), schedule)
    with pytest.raises(InvalidConfig, match=r"backdoor needs images .*: got inputs \[36\]"):
        LocalWorker(system("async_sgd", "none"), flat, 0, 0, attacks.backdoor())
    grown = attacks.none()._replace(poison=lambda examples, rows, classes: (examples[0], 1.0))
    spoiled = system("async_sgd", "none")._replace(attack=grown)
    with pytest.raises(InvalidConfig, match=r"keeps the types of examples: uint8.*became"):
        simulation.run(PROBLEM, spoiled, schedule)


def test_what_has_no_data_of_its_own_refuses_attacks_on_data():
    with pytest.raises(InvalidConfig, match=r"changes examples, .*: got 'label_flip'"):
        interop.Attack("label_flip", 1)
    specs = tuple(SystemSpec("sgd", a, options={"aggregator": "mean"}) for a in NAMES[:2])
    with pytest.raises(InvalidConfig, match="alone there: got 2 attacks side by side"):
        Lockstep((specs,))(PROBLEM, {"step_size": np.full((1, 1), 0.1, np.float32)})
