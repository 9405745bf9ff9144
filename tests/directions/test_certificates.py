"""The margin of a dictionary: against closed forms, brute force, and itself."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import directions
from farsign_jax.directions.designs import design
from farsign_jax.directions.margin import certify
from farsign_jax.validation import InvalidConfig

HALF = np.sqrt(0.5)
FOUR = np.array([[1, 0], [HALF, HALF], [0, 1], [-HALF, HALF]])


def fan(m):
    angles = np.pi * np.arange(m) / m
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def bracket(d_i, q, v):
    """Assumption 6 by the book: the worst of all sets of at most q workers."""
    d_i = d_i[:, None] if d_i.ndim == 2 else d_i
    sizes = np.abs(d_i @ v).sum(axis=1)
    sets = (set(j) for n in range(q + 1) for j in itertools.combinations(range(len(d_i)), n))
    return min(sum(s * (-1 if i in j else 1) for i, s in enumerate(sizes)) for j in sets)


@pytest.mark.parametrize(
    ("rows", "q", "eta"),
    [
        (FOUR, 1, np.sqrt(2) - 1),
        ([[2, 1], [1, 2], [-1, 2], [-2, 1]], 1, 4 / np.sqrt(20)),
        ([[1, 0], [0, 1], [1, 1], [1, -1]], 1, 0.0),
        ([[1, 0], [1, 0], [0, 1], [0, 1]], 1, 0.0),
        ([[1, 0], [0, 1], [1, 2], [2, -1]], 1, -4 / np.sqrt(20)),
        (fan(5), 1, 1.1756),
        (fan(6), 1, np.sqrt(3)),
        (fan(6), 2, 0.0),
        (fan(8), 1, 3.0273),
        (fan(8), 2, 1.1796),
        (fan(8), 3, -0.6682),
        (np.broadcast_to(np.eye(4), (5, 4, 4)), 2, 1.0),
        (np.broadcast_to(np.eye(4), (5, 4, 4)), 3, -2.0),
        (np.broadcast_to(np.eye(50), (25, 50, 50)), 5, 15.0),
        ([[3.0], [-1.0], [1.0]], 1, -1.0),
        (FOUR, 0, 1 + np.sqrt(2)),
        ([[0, 0], [1, 0], [0, 1]], 0, 1.0),
    ],
)
def test_known_margins(rows, q, eta):
    got = certify(rows, q)
    assert got.exact and got.low == pytest.approx(eta, abs=1e-4)
    assert got.holds is bool(eta > 0)
    assert len(got.adversaries) == q


def test_a_direction_that_no_worker_is_asked_about_fails_at_once():
    got = certify([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0], [1, -2, 0]], 1)
    assert got.high == 0 and got.exact and got.holds is False
    np.testing.assert_allclose(np.abs(got.witness), [0, 0, 1], atol=1e-12)
    tilted = np.array([[1.0, 1, 0], [0, 1, 1]])  # rank 2 in one block
    assert certify(tilted, 0).high == 0
    np.testing.assert_allclose(tilted @ certify(tilted, 0).witness, 0, atol=1e-12)


@pytest.mark.parametrize(("m", "k", "d", "q"), [(7, 1, 3, 1), (9, 1, 3, 2), (5, 2, 3, 1)])
def test_the_margin_is_the_least_of_the_bracket(m, k, d, q):
    rng = np.random.default_rng(m + k)
    rows = rng.standard_normal((m, k, d))
    got = certify(rows, q)
    assert got.exact
    assert bracket(rows, q, got.witness) == pytest.approx(got.low, abs=1e-7)
    assert np.linalg.norm(got.witness) == pytest.approx(1)
    v = rng.standard_normal((20_000, d))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    sizes = np.sort(np.abs(np.einsum("mkd,nd->mkn", rows, v)).sum(axis=1), axis=0)
    sampled = sizes.sum(axis=0) - 2 * sizes[m - q :].sum(axis=0)
    assert got.low <= sampled.min() <= got.low + 0.35  # so many points come near


def test_margins_scale_and_do_not_depend_on_names_or_signs():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 3))
    eta = certify(rows, 1).low
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    for other in (rows[::-1], rows @ turn, rows * rng.choice([-1, 1], (8, 1))):
        assert certify(other, 1).low == pytest.approx(eta)
    assert certify(1e-6 * rows, 1).low == pytest.approx(1e-6 * eta)
    margins = [certify(rows, q).high for q in range(4)]
    assert margins == sorted(margins, reverse=True)


def test_blocks_of_coordinates_go_apart_and_fail_together():
    good, bad = FOUR, np.array([[1, 0], [0, 1], [1, 2], [2, -1]])
    both = np.zeros((4, 2, 4))
    both[:, 0, :2], both[:, 1, 2:] = good, bad
    got = certify(both, 1)
    assert got.low == pytest.approx(certify(bad, 1).low) and got.exact
    assert not got.witness[:2].any()
    twice = np.zeros((4, 2, 4))
    twice[:, 0, :2], twice[:, 1, 2:] = bad, bad
    got = certify(twice, 1)
    assert got.low - 1e-12 <= got.high <= certify(bad, 1).low * 1.2
    assert bracket(twice, 1, got.witness) == pytest.approx(got.high)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_bounds_hold_where_edges_are_too_many(seed):
    rows = np.random.default_rng(seed).standard_normal((12, 4))
    exact = certify(rows, 1)
    assert exact.low > 0
    programs = certify(rows, 1, limit=10)
    bounds = certify(rows, 1, limit=10, programs=10)
    assert programs.how == "linear programs" and bounds.how == "bounds"
    for got in (programs, bounds):
        assert got.low <= exact.low + 1e-9 and exact.high <= got.high + 1e-9
        assert bracket(rows, 1, got.witness) == pytest.approx(got.high)
    # Linear programs decide.
    assert programs.holds is exact.holds


@pytest.mark.parametrize("seed", range(6))
def test_no_margin_is_never_taken_for_one(seed):
    """eta = 0: one line is seen by four workers only, of whom two may lie; by any method."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((24, 4))
    rows[:, 0], rows[:4] = 0, 0
    rows[:4, 0] = 1
    rows = rows @ np.linalg.qr(rng.standard_normal((4, 4)))[0]
    for settings in ({}, {"limit": 0}, {"limit": 0, "programs": 0}):
        got = certify(rows, 2, **settings)
        assert got.low <= got.high and got.low <= 1e-12 and got.holds is not True
    assert certify(rows, 2).holds is False


def test_the_scale_of_a_coordinate_is_no_margin_of_zero():
    rows = np.random.default_rng(0).standard_normal((8, 2))
    for scale in (1e10, 1e-10, 1e150):
        got = certify(rows * np.array([1.0, scale]), 1)
        assert got.holds and got.exact and 0 < got.low == got.high
        apart = certify(np.stack([np.diag([scale, 1.0])] * 5), 2)
        assert apart.holds and apart.exact and apart.low == pytest.approx(min(scale, 1.0))
    bad = rows[:3] * np.array([1.0, 1e-10])
    assert certify(bad, 1).holds is False
    assert certify(np.random.default_rng(1).standard_normal((40, 6)) * [1] * 6, 1).holds


def test_blocks_that_fail_are_exact_where_all_cases_can_be_tried():
    got = certify([[1, 0], [0, -2]], 1)
    assert got.exact and got.low == pytest.approx(-2)


def test_many_coordinates_take_no_time():
    got = certify(np.broadcast_to(np.eye(400), (25, 400, 400)), 5)
    assert got.exact and got.low == pytest.approx(15)


def test_linear_programs_decide_against_a_dictionary_too():
    rows = np.random.default_rng(3).standard_normal((8, 4))
    exact = certify(rows, 2)
    assert exact.high < 0
    got = certify(rows, 2, limit=10)
    assert got.holds is False and got.low <= exact.low <= got.high


@pytest.mark.parametrize(
    ("rows", "q", "message"),
    [
        ([1.0, 2.0], 0, "got shape"),
        ([[1.0, np.nan]], 0, "finite"),
        (FOUR, None, "certify needs a whole number q >= 0: got None"),
        ([[1.0, 2.0], [1.0]], 0, "directions are one array"),
        ([[1.0 + 2.0j]], 0, "directions are real numbers: got complex128"),
        (FOUR, 4, "need 0 <= q < workers: got q=4, workers=4"),
        (FOUR, -1, "certify needs a whole number q >= 0: got -1"),
        (FOUR, 1.5, "certify needs a whole number q >= 0: got 1.5"),
    ],
)
def test_invalid_dictionaries_are_refused(rows, q, message):
    with pytest.raises(InvalidConfig, match=message):
        certify(rows, q)


def test_designs_hold_and_get_better():
    margins = {}
    for method in ("random", "equiangular", "optimised"):
        found = design(10, 3, 2, method=method, tries=16, steps=150)
        np.testing.assert_allclose(np.linalg.norm(found.directions, axis=2), 1)
        assert found.directions.shape == (10, 1, 3)
        assert certify(found.directions, 2).low == found.certificate.low
        margins[method] = found.certificate.low
    assert margins["optimised"] > margins["equiangular"] - 1e-3 and margins["random"] > 0
    again = design(10, 3, 2, tries=16, steps=150)
    assert again.certificate.low == margins["optimised"]
    # In the plane, evenly spread lines.
    assert design(6, 2, 1, method="equiangular").certificate.low == pytest.approx(3**0.5, 1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 5, "dim": 4, "q": 1}, r"\(m - 2 q\) K >= d: got m=5, q=1, K=1, d=4"),
        ({"num_workers": 4, "dim": 2, "q": 2}, r"got m=4, q=2"),
        ({"num_workers": 9, "dim": 2, "q": 1, "method": "best"}, "one of random, equiangular"),
    ],
)
def test_impossible_designs_are_refused(settings, message):
    with pytest.raises(InvalidConfig, match=message):
        design(**settings)


def test_a_design_is_a_dictionary():
    found = design(6, 2, 1, steps=20).directions
    dictionary = directions.matrix(jnp.asarray(found, jnp.float32))
    assert dictionary.num_workers == 6 and dictionary.dim == 2
    got = dictionary.project(jnp.array([1.0, 0.0]), jnp.int32(3), jnp.array([0]))
    np.testing.assert_allclose(got, found[3, :, 0], rtol=1e-6)
    assert dictionary.draw(jax.random.key(0), jnp.int32(0)).tolist() == [0]
