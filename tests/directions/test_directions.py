import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import directions
from farsign_jax.validation import InvalidConfig


@pytest.mark.parametrize(
    ("size", "k"),
    [(1, 1), (2, 2), (3, 1), (4, 3), (7, 7), (16, 5), (25_450, 100), (2**20 + 3, 64)],
)
def test_sampled_ids_are_distinct_and_in_range(size, k):
    draw = jax.jit(lambda key: directions.sample_distinct(key, size, k))
    for seed in range(20):
        ids = np.asarray(draw(jax.random.key(seed)))
        assert len(set(ids.tolist())) == k
        assert ids.min() >= 0 and ids.max() < size


def test_sampled_ids_are_uniform_one_by_one_and_in_pairs():
    size, k, draws = 12, 3, 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    ids = np.asarray(jax.vmap(lambda key: directions.sample_distinct(key, size, k))(keys))
    for column in range(k):
        counts = np.bincount(ids[:, column], minlength=size)
        chi2 = ((counts - draws / size) ** 2 / (draws / size)).sum()
        assert chi2 < size - 1 + 5 * np.sqrt(2 * (size - 1))
    cells = size * (size - 1)  # ordered pairs of distinct ids
    counts = np.bincount(ids[:, 0] * size + ids[:, 1], minlength=size * size)
    counts = counts.reshape(size, size)[~np.eye(size, dtype=bool)]
    chi2 = ((counts - draws / cells) ** 2 / (draws / cells)).sum()
    assert chi2 < cells - 1 + 5 * np.sqrt(2 * (cells - 1))


def test_neighbours_do_not_stay_neighbours_at_the_size_of_the_paper():
    size, k, draws = 25_450, 100, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    ids = np.asarray(jax.vmap(lambda key: directions.sample_distinct(key, size, k))(keys))
    ordered = np.sort(ids, axis=1)
    for gap in (1, 2, 3):
        found = np.mean([np.isin(row + gap, row).sum() for row in ordered])
        expected = k * (k - 1) / size  # of random sets: 0.39 pairs at each distance
        assert abs(found - expected) < 5 * np.sqrt(expected / draws)


def dictionaries():
    key = jax.random.key(3)
    return {
        "identity": directions.identity(6, 2),
        "matrix": directions.matrix(jax.random.normal(key, (4, 5, 6)), 2),
        "seeded": directions.seeded(6, 5, 2, key),
        "seeded_own": directions.seeded(6, 5, 2, key, shared=False),
    }


@pytest.mark.parametrize("name", dictionaries())
def test_move_and_project_use_the_same_vectors(name):
    dictionary = dictionaries()[name]
    g = jax.random.normal(jax.random.key(1), (6,))
    worker, ids = jnp.asarray(3), jnp.asarray([4, 1])
    rows = [
        dictionary.move(jnp.zeros(6), worker, ids[i : i + 1], jnp.ones(1)) for i in range(2)
    ]
    projected = dictionary.project(g, worker, ids)
    np.testing.assert_allclose(projected, [r @ g for r in rows], rtol=1e-5)
    # Several workers at once: moves add up.
    both = dictionary.move(g, jnp.asarray([3, 3]), ids[:, None], jnp.asarray([[2.0], [-1.0]]))
    np.testing.assert_allclose(both, g + 2 * rows[0] - rows[1], rtol=1e-5, atol=1e-6)


def test_seeded_directions_are_unit_vectors_and_shared_if_stated():
    ids, one = jnp.asarray([2]), jnp.ones(1)
    for name, same in (("seeded", True), ("seeded_own", False)):
        dictionary = dictionaries()[name]
        assert dictionary.shared == same
        a, b = (dictionary.move(jnp.zeros(6), jnp.asarray(i), ids, one) for i in (0, 1))
        np.testing.assert_allclose(jnp.linalg.norm(a), 1, rtol=1e-6)
        assert np.array_equal(a, b) == same


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: directions.identity(5, 6), "k <= number of directions: got k=6, K=5"),
        (lambda: directions.identity(5, 0), "at least one direction: got k=0"),
        (lambda: directions.matrix(np.zeros((2, 3))), r"must be \[m, K, d\]"),
    ],
)
def test_impossible_dictionaries_are_refused(make, message):
    with pytest.raises(InvalidConfig, match=message):
        make()
