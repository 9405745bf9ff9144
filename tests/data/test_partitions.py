"""Partitions of examples among workers."""

import jax
import numpy as np
import pytest

from farsign_jax.data import partitions
from farsign_jax.validation import InvalidConfig

LABELS = np.random.default_rng(1).integers(0, 10, 1003)
USERS = np.random.default_rng(2).permutation(np.arange(1003) % 40)


@pytest.mark.parametrize("kind", [k for k in partitions.PARTITIONS if k != "unbalanced"])
@pytest.mark.parametrize("workers", [1, 7, 25])
def test_every_example_belongs_to_exactly_one_worker(kind, workers):
    options = {"users": USERS} if kind == "by_user" else {}
    rows, sizes = partitions.partition(LABELS, workers, kind, jax.random.key(0), **options)
    held = np.concatenate([row[:size] for row, size in zip(rows, sizes, strict=True)])
    np.testing.assert_array_equal(np.sort(held), np.arange(len(LABELS)))
    again, _ = partitions.partition(LABELS, workers, kind, jax.random.key(0), **options)
    np.testing.assert_array_equal(rows, again)
    if workers > 1:
        other, _ = partitions.partition(LABELS, workers, kind, jax.random.key(1), **options)
        assert rows.shape != other.shape or (rows != other).any()


def test_a_worker_has_whole_users():
    rows, sizes = partitions.partition(LABELS, 7, "by_user", jax.random.key(0), users=USERS)
    own = [set(USERS[row[:size]]) for row, size in zip(rows, sizes, strict=True)]
    assert sorted(map(len, own)) == [5, 5, 6, 6, 6, 6, 6] and len(set.union(*own)) == 40
    for options, message in (
        ({}, "partition by_user needs a data set with users"),
        ({"users": USERS % 3}, "by_user needs workers <= users: got 7 for 3 users"),
        ({"users": USERS, "heterogeneity": 1.0}, "by_user takes no heterogeneity: got 1"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            partitions.partition(LABELS, 7, "by_user", jax.random.key(0), **options)


def test_heterogeneity_of_partitions():
    def skewness(kind, heterogeneity=None):
        rows, sizes = partitions.partition(LABELS, 10, kind, jax.random.key(0), heterogeneity)
        pairs = zip(rows, sizes, strict=True)
        fractions = [np.bincount(LABELS[r[:s]], minlength=10) / max(s, 1) for r, s in pairs]
        return np.abs(np.asarray(fractions) - np.bincount(LABELS) / len(LABELS)).sum(
            1
        ).mean(), sizes

    even, sizes = skewness("iid")
    assert sizes.max() - sizes.min() <= 1
    assert even < skewness("dirichlet", 1.0)[0] < skewness("dirichlet", 0.1)[0]
    rows, sizes = partitions.partition(LABELS, 10, "label_skew", jax.random.key(0), 2)
    held = [len(np.unique(LABELS[r[:s]])) for r, s in zip(rows, sizes, strict=True)]
    assert max(held) <= 4  # two pieces, each with at most two labels


def test_unbalanced_shards_are_of_one_size_and_disjoint():
    rows, sizes = partitions.partition(LABELS, 10, "unbalanced", jax.random.key(0))
    assert rows.shape == (10, 100) and (sizes == 100).all()
    sets = [set(row.tolist()) for row in rows]
    assert sum(map(len, sets)) == len(set.union(*sets)) < 1000  # some repeated, at one worker
    even, _ = partitions.partition(LABELS, 10, "iid", jax.random.key(0))
    largest = lambda rows: max(np.bincount(LABELS[row]).max() for row in rows)  # noqa: E731
    assert largest(rows) > 1.5 * largest(even[:, :100])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "idd"}, "unknown partition 'idd': did you mean 'iid'"),
        ({"num_workers": 2000}, "got workers=2000, examples=1003"),
        ({"kind": "dirichlet", "heterogeneity": 0.0}, "heterogeneity > 0: got 0"),
        (
            {"kind": "unbalanced", "heterogeneity": 1e-3, "num_workers": 100},
            "leaves a worker without examples: heterogeneity=0.001 is too small",
        ),
        (
            {"kind": "label_skew", "heterogeneity": 0.5},
            "whole number of pieces: got heterogeneity=0.5",
        ),
        ({"kind": "iid", "heterogeneity": 1.0}, "takes no heterogeneity: got 1.0"),
    ],
)
def test_impossible_partitions_are_refused(options, message):
    options = {"num_workers": 5, "kind": "iid"} | options
    with pytest.raises(InvalidConfig, match=message):
        partitions.partition(LABELS, key=jax.random.key(0), **options)
