"""Few directions of a large model, and problems whose parameters are their amounts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import directions, models, oracles, problems
from farsign_jax.base import Query
from farsign_jax.directions import subspaces
from farsign_jax.directions.subspaces import Layer
from farsign_jax.models.transformer import Transformer
from farsign_jax.problems.supervised import loss_of_each
from farsign_jax.validation import InvalidConfig

SMALL = Transformer(layers=3, num_classes=20, width=16, heads=2, context=8)
FLAT = models.flatten(SMALL, (8,))
RNG = np.random.default_rng(0)
INPUTS = RNG.integers(0, 20, (6, 8)).astype(np.int32)
LABELS = RNG.integers(0, 20, (6, 8)).astype(np.int32)
KINDS = (
    "low_rank:size=70,rank=2",
    "low_rank:size=20,layers=blocks/*",
    "low_rank:size=3,layers=output",
    "sparse:size=30,block=8",
    "sparse:size=10,block=4,layers=tokens|blocks/up",
    "dense:size=12",
)


def made(kind, module=SMALL, shape=(8,)):
    model = problems.subspace_model(module, shape, kind)
    return model, model.frozen()


def vectors(kind):
    """The directions as the columns of a matrix f[d, K], by moving along each of them."""
    layers = [Layer("a/kernel", (5, 6)), Layer("blocks/b/kernel", (2, 4, 3), blocks=2)]
    name, given = problems.parse_subspace(kind)
    of = subspaces.SUBSPACES[name](layers, size=given["size"], **_own(given))
    factors = of.draw(jax.random.key(1))
    zero = {layer.path: jnp.zeros(layer.shape) for layer in layers}

    def at(z):
        if of.move is not None:
            leaves = of.move(zero, factors, z)
        else:
            parts = of.adapters(factors, z)
            leaves = {n: (a * s[..., None, :]) @ b for n, (a, b, s) in parts.items()}
        return jnp.concatenate([leaf.reshape(-1) for leaf in leaves.values()])

    return of, factors, zero, np.asarray(jax.jacobian(at)(jnp.zeros(of.size)))


def _own(given):
    return {n: v for n, v in given.items() if n not in ("size", "layers", "seed")}


@pytest.mark.parametrize(
    "kind",
    [
        "low_rank:size=11,rank=1",
        "low_rank:size=11,rank=2",
        "sparse:size=9,block=5",
        "dense:size=7",
    ],
)
def test_directions_have_unit_length_and_are_what_their_kind_says(kind):
    of, factors, zero, columns = vectors(kind)
    lengths = np.linalg.norm(columns, axis=0)
    rank_two = "rank=2" in kind  # two terms of length 1 / sqrt(2), nearly orthogonal
    np.testing.assert_allclose(lengths, 1, atol=0.6 if rank_two else 1e-5)
    touched = columns != 0
    if kind.startswith("low_rank"):
        parts = np.split(columns, [30, 42])  # the three matrices
        for column in range(of.size):
            ranks = [
                np.linalg.matrix_rank(part[:, column].reshape(shape), tol=1e-6)
                for part, shape in zip(parts, [(5, 6), (4, 3), (4, 3)], strict=True)
            ]
            assert sorted(ranks) == [0, 0, 2 if rank_two else 1]
            assert int(of.block(jnp.int32(column))) == (0, 0, 1)[int(np.argmax(ranks))]
    elif kind.startswith("sparse"):
        assert (touched.sum(axis=0) == 5).all() and (touched.sum(axis=1) <= 1).all()
    else:
        assert touched.all()
    if of.step is not None:
        one = of.step(zero, factors, jnp.int32(3), jnp.float32(1))
        moved = np.concatenate([np.ravel(leaf) for leaf in one.values()])
        np.testing.assert_allclose(moved, columns[:, 3], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_a_subspace_begins_at_its_base_and_knows_how_its_loss_changes(kind):
    model, frozen = made(kind)
    batch = (INPUTS, LABELS, frozen)
    losses = jax.jit(model.losses)
    base = FLAT.apply(FLAT.init(jax.random.split(jax.random.key(0))[0]), INPUTS)
    zero = jnp.zeros(model.size)
    np.testing.assert_allclose(losses(zero, batch), loss_of_each(base, LABELS), rtol=1e-5)
    z = jnp.asarray(RNG.normal(size=model.size), jnp.float32)
    j = jnp.asarray(RNG.permutation(model.size)[:3], jnp.int32)
    here, (up, down) = jax.jit(lambda z, batch: model.loss_changes(z, batch, j, (0.5, -0.5)))(
        z, batch
    )
    np.testing.assert_allclose(here, losses(z, batch), rtol=1e-5)
    for changes, step in ((up, 0.5), (down, -0.5)):
        want = [(losses(z.at[n].add(step), batch) - here).mean() for n in j]
        np.testing.assert_allclose(changes, np.asarray(want), atol=2e-6)
        assert np.abs(changes).max() > 1e-4


def test_every_model_with_dense_layers_has_low_rank_directions():
    module = models.make("mlp:hidden=6")
    model, frozen = made("low_rank:size=9,rank=1", module, (4, 4))
    flat = models.flatten(module, (4, 4))
    x = flat.tree(flat.init(jax.random.split(jax.random.key(0))[0]))
    z = jnp.asarray(RNG.normal(size=9), jnp.float32)
    inputs = RNG.normal(size=(5, 4, 4)).astype(np.float32)
    for n, name in enumerate(("Dense_0", "Dense_1")):
        left, right = frozen.factors[f"{name}/kernel"]
        amounts = jnp.pad(z, (0, 1)).reshape(5, 2)[:, n]
        x[name]["kernel"] += (left * amounts[None]) @ right
    want = module.apply({"params": x}, inputs)
    np.testing.assert_allclose(model.apply(z, inputs, frozen), want, atol=1e-5)


class WithFactors(nn.Module):
    """A dense layer that is adapted by the product of two factors."""

    @nn.compact
    def __call__(self, x):
        down = self.param("lora_a", nn.initializers.normal(), (x.shape[-1], 2))
        up = self.param("lora_b", nn.initializers.zeros, (2, 5))
        return nn.Dense(5)(x) + x @ down @ up


def test_the_factors_of_a_module_of_ones_own_are_moved_alone():
    model = problems.subspace_model(WithFactors(), (3,), "sparse:size=4,block=4,layers=*lora*")
    frozen = model.frozen()
    leaves = dict(frozen.leaves)
    z = jnp.asarray(RNG.normal(size=4), jnp.float32)
    at, signs = frozen.factors
    flat = np.concatenate([np.ravel(leaves["lora_a"]), np.ravel(leaves["lora_b"])])
    flat[np.ravel(at)] += np.ravel(z[:, None] * signs)  # all 16 of them
    leaves |= {"lora_a": flat[:6].reshape(3, 2), "lora_b": flat[6:].reshape(2, 5)}
    inputs = RNG.normal(size=(7, 3)).astype(np.float32)
    dense = leaves["Dense_0/kernel"], leaves["Dense_0/bias"]
    want = inputs @ dense[0] + dense[1][None] + inputs @ leaves["lora_a"] @ leaves["lora_b"]
    np.testing.assert_allclose(model.apply(z, inputs, frozen), want, atol=1e-5)


def test_answers_are_differences_along_directions_of_mini_batches():
    model, frozen = made("low_rank:size=30,rank=1")
    rows, sizes = np.arange(6).reshape(2, 3), np.asarray([3, 3])
    problem = problems.in_subspace(model, frozen, INPUTS, LABELS, rows, sizes)
    assert problem.x0.shape == (30,) and not problem.x0.any()
    shared = directions.identity(30, 4)
    j = jnp.asarray([3, 29, 0, 11], jnp.int32)
    query = Query(problem.x0 + 0.3, jnp.int32(1), j, jnp.int32(0))
    for scheme in ("central", "forward"):
        options = {"batch_size": 3, "delta": 0.3, "scheme": scheme}
        fast = oracles.zeroth_order(problem, shared, **options)
        slow = oracles.two_point(problem.losses, shared, **options)
        answers = [
            jax.jit(worker.respond)((), query, problem.shard(1), jax.random.key(2))[1]
            for worker in (fast, slow)
        ]
        np.testing.assert_allclose(*answers, atol=2e-6)


def test_saga_remembers_gradients_of_examples_in_a_subspace():
    model, frozen = made("low_rank:size=30,rank=1")
    problem = problems.in_subspace(
        model, frozen, INPUTS, LABELS, np.arange(6)[None], np.asarray([6])
    )
    shard = problem.shard(0)
    entries = jax.jit(lambda shard: oracles.saga_gradient(problem).init(shard))(shard)
    own = jax.grad(lambda z: model.losses(z, shard.take(jnp.asarray([4])))[0])(problem.x0)
    np.testing.assert_allclose(entries.table.rows[4], own, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("low_rnk", "unknown subspace 'low_rnk': did you mean 'low_rank'"),
        ("low_rank:size=0", "low_rank needs a whole number size >= 1: got 0"),
        ("low_rank:rank=x", "rank"),
        (
            "low_rank:layers=head/*",
            r"no layer of Transformer matches 'head/\*': it has blocks/",
        ),
        ("sparse:size=900,block=900", "sparse directions share no parameter: 900 of 900 need"),
        ("low_rank:seed=-1", "low_rank needs a whole number seed >= 0: got -1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kind, message):
    with pytest.raises(InvalidConfig, match=message) as error:
        problems.subspace_model(SMALL, (8,), kind)
    assert "\n" not in str(error.value)
