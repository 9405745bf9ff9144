"""Partitions of the examples of a data set among workers.

In every partition but `unbalanced`, each example belongs to exactly one worker. To add a
partition, write a function `(labels, m, rng, heterogeneity)` that returns the rows of each
worker, and enter it in `PARTITIONS` with its default heterogeneity. Only `by_user` is given the
users in the place of the labels.
"""

from collections.abc import Callable

import numpy as np

from farsign_jax import specs
from farsign_jax.base import Key
from farsign_jax.keys import host_rngs
from farsign_jax.validation import InvalidConfig, lookup, require


def _iid(labels: np.ndarray, m: int, rng: np.random.Generator, _: float) -> list[np.ndarray]:
    """A random split into equal parts."""
    return np.array_split(rng.permutation(len(labels)), m)


def _dirichlet(
    labels: np.ndarray, m: int, rng: np.random.Generator, alpha: float
) -> list[np.ndarray]:
    """Each class is split in Dirichlet(alpha) proportions."""
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
    """As `_dirichlet`, with N // m examples for everyone: some are lost, some are repeated."""
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
    """The examples are sorted by label and cut, with `pieces` pieces for each worker."""
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    cut = np.array_split(ordered, m * int(pieces))
    assigned = rng.permutation(len(cut)).reshape(m, -1)
    return [np.concatenate([cut[i] for i in indices]) for indices in assigned]


def _two_camps(
    labels: np.ndarray, m: int, rng: np.random.Generator, fraction: float
) -> list[np.ndarray]:
    """The first fraction * m workers hold examples of the lower half of the labels only."""
    camp, size = min(max(round(fraction * m), 1), m - 1), len(labels) // m
    low = labels < np.median(np.unique(labels))
    order = rng.permutation(len(labels))
    lower = order[low[order]][: camp * size]
    rest = rng.permutation(np.setdiff1d(order, lower))
    first = np.array_split(lower, camp) if camp else []
    return [*first, *np.array_split(rest, m - camp)]


def _by_user(users: np.ndarray, m: int, rng: np.random.Generator, _: float) -> list[np.ndarray]:
    """Every worker has whole users: about as many of these each, whatever they have written."""
    names = rng.permutation(np.unique(users))
    require(len(names) >= m, f"by_user needs workers <= users: got {m} for {len(names)} users")
    return [np.flatnonzero(np.isin(users, part)) for part in np.array_split(names, m)]


Split = Callable[[np.ndarray, int, np.random.Generator, float], list[np.ndarray]]

PARTITIONS: dict[str, tuple[Split, float]] = {
    "iid": (_iid, 0.0),
    "dirichlet": (_dirichlet, 0.5),
    "unbalanced": (_unbalanced, 1.0),
    "label_skew": (_label_skew, 2),
    "two_camps": (_two_camps, 0.2),
    "by_user": (_by_user, 0.0),
}
_NATURAL = ("iid", "by_user")  # without a number


def parse(text: str) -> tuple[str, float | None]:
    """The name of a partition, and its heterogeneity if the text names one.

    Raises:
        InvalidConfig: on an unknown name or option.
    """
    name, options = specs.parse(text)
    lookup("partition", name, PARTITIONS)
    found = specs.typed(name, options, specs.option("heterogeneity", float))
    return name, float(found["heterogeneity"]) if found else None


def partition(
    labels: np.ndarray,
    num_workers: int,
    kind: str,
    key: Key,
    heterogeneity: float | None = None,
    users: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Distributes the examples among the workers.

    Args:
        labels: i32[N].
        num_workers: m.
        kind: the partition:
            "iid" is a random split into equal parts.
            "dirichlet" splits each class in Dirichlet(heterogeneity) proportions (Hsu, Qi and
            Brown, 2019).
            "unbalanced" does the same, but gives every worker N // m examples: a worker with
            more loses some at random, and one with fewer gets some of its own twice
            ("Asynchronous Byzantine-Robust Stochastic Aggregation with Variance Reduction",
            Section IV, as far as it is stated).
            "label_skew" sorts the examples by label and cuts them into m * heterogeneity
            pieces, of which each worker gets `heterogeneity` (McMahan et al., AISTATS 2017).
            "two_camps" gives the first m * heterogeneity workers examples of the lower half of
            the labels only, and splits the remaining ones among the other workers.
            "by_user" gives every worker whole users, about as many of them each.
        key: a run's `keys.partition`.
        heterogeneity: how different the data of the workers are; the default is 0.5 for
            dirichlet (smaller is more uneven), 1 for unbalanced, 2 for label_skew and 0.2 for
            two_camps.
        users: i32[N], whose example each is, or None if nobody is named.

    Returns:
        rows i32[m, n], the examples of each worker, padded to the largest n with the worker's
        first one, and sizes i32[m], how many of them count.

    Raises:
        InvalidConfig: if the kind is unknown, there are more workers than examples, or the
            heterogeneity is out of range.
    """
    kind, given = parse(kind)
    rule = f"heterogeneity={heterogeneity} and partition {kind}:heterogeneity={given} name "
    require(given is None or heterogeneity is None, rule + "one each")
    heterogeneity = heterogeneity if given is None else given
    split, default = PARTITIONS[kind]
    require(
        kind not in _NATURAL or heterogeneity is None,
        f"partition {kind} takes no heterogeneity: got {heterogeneity}",
    )
    if kind == "by_user":
        if users is None:
            raise InvalidConfig("partition by_user needs a data set with users")
        labels = users
    require(np.ndim(labels) == 1 or kind in _NATURAL, f"partition {kind} needs one label each")
    heterogeneity = float(default if heterogeneity is None else heterogeneity)
    rule = "partition label_skew needs a whole number of pieces: got "
    rule += f"heterogeneity={heterogeneity:g}"
    require(kind != "label_skew" or heterogeneity == int(heterogeneity), rule)
    rule = f"partition two_camps needs 0 < heterogeneity <= 0.5: got {heterogeneity:g}"
    require(kind != "two_camps" or heterogeneity <= 0.5, rule)
    require(
        kind in _NATURAL or heterogeneity > 0,
        f"partition {kind} needs heterogeneity > 0: got {heterogeneity}",
    )
    require(
        1 <= num_workers <= len(labels),
        f"need 1 <= workers <= examples: got workers={num_workers}, examples={len(labels)}",
    )
    (rng,) = host_rngs(key, 1)
    parts = split(np.asarray(labels), num_workers, rng, heterogeneity)
    sizes = np.asarray([len(part) for part in parts], np.int32)
    rows = np.zeros((num_workers, sizes.max()), np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
        row[len(part) :] = part[0] if len(part) else 0
    return rows, sizes
