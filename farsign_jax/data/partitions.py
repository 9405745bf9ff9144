"""Who holds which example: every example belongs to exactly one worker, but in `unbalanced`."""

import numpy as np

from farsign_jax.base import Key
from farsign_jax.keys import host_rng
from farsign_jax.validation import lookup, require


def _iid(labels: np.ndarray, m: int, rng: np.random.Generator, _: float) -> list[np.ndarray]:
    """At random, in equal parts."""
    return np.array_split(rng.permutation(len(labels)), m)


def _dirichlet(
    labels: np.ndarray, m: int, rng: np.random.Generator, alpha: float
) -> list[np.ndarray]:
    """Each class in Dirichlet(heterogeneity) proportions."""
    parts: list[list[np.ndarray]] = [[] for _ in range(m)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet(np.full(m, alpha)))[:-1] * len(rows)
        for part, piece in zip(parts, np.split(rows, cuts.astype(int)), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _unbalanced(
    labels: np.ndarray, m: int, rng: np.random.Generator, alpha: float
) -> list[np.ndarray]:
    """As dirichlet, but all get equally many: some are lost, some are there twice."""
    size = len(labels) // m
    parts = _dirichlet(labels, m, rng, alpha)
    rule = "partition unbalanced leaves a worker without examples: "
    rule += f"heterogeneity={alpha:g} is too small"
    require(all(len(part) for part in parts), rule)
    return [
        rng.permutation(part)[:size]
        if len(part) >= size
        else np.concatenate([part, rng.choice(part, size - len(part))])
        for part in parts
    ]


def _label_skew(
    labels: np.ndarray, m: int, rng: np.random.Generator, pieces: float
) -> list[np.ndarray]:
    """Sorted by label, in pieces of which everybody gets `heterogeneity`."""
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    cut = np.array_split(ordered, m * int(pieces))
    dealt = rng.permutation(len(cut)).reshape(m, -1)
    return [np.concatenate([cut[i] for i in hand]) for hand in dealt]


def _two_camps(
    labels: np.ndarray, m: int, rng: np.random.Generator, share: float
) -> list[np.ndarray]:
    """The first m * heterogeneity workers hold the lower half of the labels only."""
    camp, size = min(max(round(share * m), 1), m - 1), len(labels) // m
    low = labels < np.median(np.unique(labels))
    order = rng.permutation(len(labels))
    theirs = order[low[order]][: camp * size]
    others = rng.permutation(np.setdiff1d(order, theirs))
    first = np.array_split(theirs, camp) if camp else []
    return [*first, *np.array_split(others, m - camp)]


PARTITIONS = {
    "iid": (_iid, 0.0),
    "dirichlet": (_dirichlet, 0.5),
    "unbalanced": (_unbalanced, 1.0),
    "label_skew": (_label_skew, 2),
    "two_camps": (_two_camps, 0.2),
}


def partition(
    labels: np.ndarray,
    num_workers: int,
    kind: str,
    key: Key,
    heterogeneity: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Deals the examples out.

    Args:
        labels: i32[N].
        num_workers: m.
        kind: "iid", a random split into equal parts; "dirichlet", each class is split in
            Dirichlet(heterogeneity) proportions (Hsu, Qi and Brown, 2019); "unbalanced", the same, but
            all get N // m examples: who has more loses some at random, who has fewer gets some
            of its own twice ("Asynchronous Byzantine-Robust Stochastic Aggregation with
            Variance Reduction", Section IV, as far as it is stated); "label_skew", sorted by
            label and cut into m * heterogeneity pieces of which each worker gets `heterogeneity` (McMahan et
            al., AISTATS 2017); "two_camps", the first m * heterogeneity workers hold nothing but the
            lower half of the labels, the others share what is left.
        key: a run's `keys.partition`.
        heterogeneity: default 0.5 for dirichlet (smaller is more uneven), 1 for unbalanced, 2 for
            label_skew, 0.2 for two_camps.

    Returns:
        rows i32[m, n], each worker's examples, padded to the largest n with the worker's
        first one, and sizes i32[m], how many of them count.

    Raises:
        InvalidConfig: on an unknown kind, more workers than examples, or a heterogeneity <= 0.
    """
    split, default = lookup("partition", kind, PARTITIONS)
    require(
        kind != "iid" or heterogeneity is None,
        f"partition iid takes no heterogeneity: got {heterogeneity}",
    )
    heterogeneity = float(default if heterogeneity is None else heterogeneity)
    whole = kind != "label_skew" or heterogeneity == int(heterogeneity)
    require(
        whole,
        f"partition label_skew needs a whole number of pieces: got heterogeneity={heterogeneity:g}",
    )
    rule = f"partition two_camps needs 0 < heterogeneity <= 0.5: got {heterogeneity:g}"
    require(kind != "two_camps" or heterogeneity <= 0.5, rule)
    require(
        kind == "iid" or heterogeneity > 0,
        f"partition {kind} needs heterogeneity > 0: got {heterogeneity}",
    )
    require(
        1 <= num_workers <= len(labels),
        f"need 1 <= workers <= examples: got workers={num_workers}, examples={len(labels)}",
    )
    parts = split(np.asarray(labels), num_workers, host_rng(key), heterogeneity)
    sizes = np.asarray([len(part) for part in parts], np.int32)
    rows = np.zeros((num_workers, sizes.max()), np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
        row[len(part) :] = part[0] if len(part) else 0
    return rows, sizes
