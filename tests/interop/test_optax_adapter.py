"""FAR-SIGN as a gradient transformation of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from farsign_jax import optax_transform
from farsign_jax.base import Report
from farsign_jax.directions.dictionary import identity
from farsign_jax.methods import average_storage
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.validation import InvalidConfig
from tests import helpers

M = 7
PARAMS = {"w": jnp.ones((3, 4)), "b": {"c": jnp.zeros(5), "d": jnp.float32(2)}}
SIZE = 18
STEPS = {"step_size": optax.exponential_decay(0.1, 5, 0.9), "average_step": 0.3}


def flat(tree):
    return jnp.concatenate(
        [jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    )


def draw(key, like=PARAMS, scale=1.0):
    leaves, form = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    made = [scale * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in pairs]
    return jax.tree.unflatten(form, made)


@pytest.mark.parametrize("k", [5, *helpers.slow([None])])
def test_parameters_equal_those_of_the_server(k):
    """x and y have the bits of `far_sign` with the same coordinates of the gradients."""
    tx = optax_transform(M, **STEPS, k=k, key=3)
    params, state = PARAMS, tx.init(PARAMS)
    server = far_sign(M, identity(SIZE, k or SIZE), **STEPS)
    expected = server.init(flat(params))
    update, receive = jax.jit(tx.update), jax.jit(server.update)
    for event in range(25):
        gradients = draw(jax.random.key(event))
        i = jnp.int32(event**2 % M)
        j = jnp.arange(SIZE)
        if k is not None:
            j = server.query(expected, i, jax.random.split(state.key)[1]).direction
            assert len(set(j.tolist())) == k
        report = Report(i[None], expected.step[None], j[None], flat(gradients)[j][None])
        expected, _ = receive(expected, report)
        updates, state = update(gradients, state, params, worker=i)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(flat(params), expected.params)
        np.testing.assert_array_equal(state.server.averages, expected.averages)
    assert (flat(params) != flat(PARAMS)).sum() > (k or 0)


def train(tx, key, steps=400, byzantine=2, scale=-10.0):
    """The distance to the minimiser of a quadratic, with some Byzantine workers."""
    target = jnp.linspace(-1, 1, 10)

    def event(carry, number):
        params, state = carry
        own = jax.random.fold_in(key, number)
        i = jax.random.randint(own, (), 0, M, jnp.int32)
        gradients = params - target + 0.1 * jax.random.normal(own, (10,))
        gradients = jnp.where(i < byzantine, scale * gradients, gradients)
        updates, state = tx.update(gradients, state, params, worker=i)
        return (optax.apply_updates(params, updates), state), None

    begin = jnp.zeros(10)
    (params, _), _ = jax.lax.scan(event, (begin, tx.init(begin)), jnp.arange(steps))
    return jnp.abs(params - target).max()


def test_it_tolerates_byzantine_workers_that_sgd_does_not():
    def distance(key):
        options = {"step_size": 0.02, "average_step": 0.5, "k": 5}
        return train(optax_transform(M, **options, key=key), key)

    keys = jax.random.split(jax.random.key(0), 3)
    assert (jax.jit(jax.vmap(distance))(keys) < 0.2).all()  # one program for all seeds
    sgd = optax.with_extra_args_support(optax.sgd(0.02))
    assert train(sgd, keys[0], byzantine=0) < 0.2
    assert not train(sgd, keys[0]) < 1e3


def test_it_is_part_of_a_chain():
    tx = optax.chain(
        optax.clip(1e3),
        optax_transform(M, step_size=0.5, average_step=1.0),
        optax.add_decayed_weights(-0.25),
    )
    state = tx.init(PARAMS)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = tx.update(ones, state, PARAMS, worker=0)
    np.testing.assert_array_equal(updates["w"], np.full((3, 4), -0.75))

    def make(step_size):
        return optax_transform(M, step_size=step_size, average_step=1.0)

    injected = optax.inject_hyperparams(make)(step_size=0.5)
    state = injected.init(PARAMS)
    state.hyperparams["step_size"] = jnp.float32(0.25)
    updates, _ = injected.update(ones, state, worker=1)
    np.testing.assert_array_equal(updates["b"]["c"], np.full(5, -0.25))


def test_hyperparameters_may_be_injected():
    """Without a wrapper: the state of optax determines alpha of every update."""
    injected = optax.inject_hyperparams(optax_transform)
    ones = jnp.ones(6)
    state = injected(num_workers=4, step_size=0.1, average_step=0.5).init(ones)
    for step_size in (0.25, 0.5):
        state.hyperparams["step_size"] = jnp.float32(step_size)
        update = injected(num_workers=4, step_size=0.1, average_step=0.5).update
        for own in (update, jax.jit(update)):
            updates, after = own(ones, state, worker=3)
            np.testing.assert_array_equal(updates, np.full(6, -step_size))
    np.testing.assert_array_equal(after.inner_state.server.counts, [0, 0, 0, 1])

    options = {
        "num_workers": 4,
        "step_size": optax.exponential_decay(0.5, 1, 0.5),
        "average_step": 0.5,
    }
    with pytest.raises(InvalidConfig, match=r"num_workers before .* static_args=\("):
        jax.jit(injected(**options).init)(ones)
    static = optax.inject_hyperparams(
        optax_transform, static_args=("num_workers", "k", "soft", "rate_cap", "gain")
    )
    tx = static(
        **options, k=np.int64(2), soft=0.1, rate_cap=2.0, gain=lambda j: jnp.full(j.shape, 2.0)
    )
    update, state = jax.jit(tx.update), jax.jit(tx.init)(ones)
    for step_size in (0.5, 0.25):
        updates, state = update(ones, state, worker=0)
        np.testing.assert_array_equal(np.sort(updates), [-2 * step_size] * 2 + [0] * 4)


def test_seeds_and_other_storage():
    options = {"step_size": 0.5, "average_step": 1.0, "k": 2}
    starts = (2, np.int64(2), jnp.int32(2), jax.random.key(2))
    keys = [optax_transform(3, **options, key=key).init(PARAMS).key for key in starts]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 1
    tx = optax_transform(3, **options, storage=average_storage.make("sketch", 3, 8))
    updates, state = tx.update(jnp.ones(8), tx.init(jnp.ones(8)), worker=np.int64(1))
    assert (updates != 0).sum() == 2
    with pytest.raises(InvalidConfig, match="gradients of d=8: got d=9"):
        tx.update(jnp.ones(9), state, worker=1)


def test_numbers_that_are_not_finite_are_ignored():
    tx = optax_transform(2, step_size=0.5, average_step=0.5)
    params = {"x": jnp.zeros(4), "y": jnp.zeros(3, jnp.bfloat16)}
    state = tx.init(params)
    bad = {"x": jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 3e38]), "y": jnp.ones(3, jnp.bfloat16)}
    updates, state = tx.update(bad, state, worker=jnp.int32(0))
    np.testing.assert_array_equal(updates["x"], [0, 0, 0, -0.5])
    assert updates["y"].dtype == jnp.bfloat16
    assert np.isfinite(state.server.averages).all()
    for worker in (2, -1):
        updates, after = jax.jit(tx.update)(bad, state, worker=worker)
        assert not flat(updates).any()
        assert after.server.step == state.server.step + 1  # schedules count it as an update
        np.testing.assert_array_equal(after.server.averages, state.server.averages)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optax_transform(2, step_size=0, average_step=0.5), "step_size > 0: got 0"),
        (lambda: optax_transform(2, step_size=1, average_step=2), "average_step <= 1: got 2"),
        (lambda: optax_transform(2, **STEPS, k=0), "k >= 1 or None: got 0"),
        (lambda: optax_transform(2, **STEPS, k=1.5), "k >= 1 or None: got 1.5"),
        (lambda: optax_transform(4.5, **STEPS), "num_workers=4.5"),
        (lambda: optax_transform(2, step_size="x", average_step=1), "got step_size='x'"),
        (lambda: optax_transform(2, step_size=1, average_step=[1]), r"average_step=\[1\]"),
        (lambda: optax_transform(2, **STEPS, soft="x"), "needs a number: got soft='x'"),
        (lambda: optax_transform(2, **STEPS, cap_rank=1.5), "cap_rank=1.5"),
        (lambda: optax_transform(2, **STEPS, key="x"), "got key='x'"),
        (lambda: optax_transform(2, **STEPS, key=jnp.ones(3)), "got key="),
        (lambda: jax.jit(lambda k: optax_transform(2, **STEPS, k=k))(1), "to know k before"),
        (lambda: optax_transform(2, **STEPS, k=9).init(jnp.ones(4)), "k=9, K=4"),
        (lambda: optax_transform(2, **STEPS).init(jnp.arange(4)), r"floats: got \['int32'\]"),
        (lambda: optax_transform(2, **STEPS).init({}), r"floats: got \[\]"),
        (lambda: update(jnp.ones(4)), "the worker of the gradients: worker=i"),
        (lambda: update(jnp.ones(4), worker=2), r"workers 0..1: got worker=2"),
        (lambda: update(jnp.ones(4), worker=2**40), "workers 0..1: got worker=1099511627776"),
        (lambda: update(jnp.ones(4), worker=1.7), r"an integer of shape \(\) .* got 1.7"),
        (lambda: update(jnp.ones(4), worker=[0]), r"as worker: got \[0\]"),
        (lambda: update(jnp.ones(4), worker=jnp.arange(2)), "as worker: got Array"),
        (lambda: update(jnp.ones(5), worker=1), "gradients of d=4: got d=5"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(InvalidConfig, match=message):
        call()


def update(gradients, **options):
    tx = optax_transform(2, **STEPS)
    return tx.update(gradients, tx.init(jnp.ones(4)), **options)
