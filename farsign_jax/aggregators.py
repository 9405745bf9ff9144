"""Robust aggregation rules: n vectors in, one out, of which up to f may be lies.

A factory returns a pure callable `rule(x, mask=None, *, start=None, key=None) -> f[d]` with
x f[n, d], one row per worker, and mask bool[n], which rows count (None: all). `start` f[d]
is the previous output, which centered_clipping continues from: state is the caller's. `key`
is for what draws (bucketing). Every rule takes all four, so that a server can call all of
them alike, under `jit`, `vmap`, `lax.cond` and `lax.scan`.

    rule = aggregators.make("nnm+trimmed_mean", f=3)
    update = rule(gradients)

Absent rows, non-finite numbers, what is checked when, types: `rows` says, for all rules.
In short: the result is that of x[mask] without rows that hold NaN, infinities or numbers
too large to be squared; preconditions are `InvalidConfig`s that name the numbers; no input
gives a non-finite result.

Where the field disagrees, the definition of the original paper is the default and the
others are options. Rules that look at each coordinate on its own sort by a network of
minima and maxima between whole rows, which XLA turns into one pass over the numbers (25 x
1,000,000 on two cores: 11 ms; `jnp.sort` along the rows takes 1.9 s).
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key, is_concrete, lookup, require
from farsign_jax.preaggregators import PREAGGREGATORS, Pre
from farsign_jax.rows import (
    MAJORITY,
    Count,
    Need,
    add_up,
    cleaned,
    enter,
    headroom,
    listed,
    listed_last,
    mean_of,
    middle_of,
    norms,
    number,
    pick,
    positions,
    positive,
    pull,
    shorten,
    sort_rows,
    square_distances,
    usable,
    whole,
)

MDA_SUBSETS = 200_000

KRUM = Need(2, 3)
BULYAN = Need(4, 3)
NEIGHBOURS = {"n-f-2": 2, "n-f-1": 1, "n-f": 0}


@dataclasses.dataclass(frozen=True)
class Rule:
    """An aggregation rule: `check` sees how many rows there are, `core` the numbers."""

    name: str
    core: Callable[[Array, Array, Any, Any], Array]
    check: Callable[[Count], None] = lambda count: None

    def __call__(
        self, x: Any, mask: Any = None, *, start: Any = None, key: Key | None = None
    ) -> Array:
        x, mask, count = enter(self.name, x, mask)
        self.check(count)
        return self.core(x, mask, start, key)


def _plain(name: str, core: Callable[..., Array], need: Need | None = None, f: Any = 0) -> Rule:
    """A rule without state; `core(x, mask, f)` where it has a precondition on f."""
    if need is None:
        return Rule(name, lambda x, mask, start, key: core(x, mask))
    return Rule(
        name,
        lambda x, mask, start, key: core(x, mask, jnp.asarray(f, jnp.int32)),
        lambda count: need.check(name, count, f),
    )


@jax.jit
def _present_mean(x, mask):
    return mean_of(x, usable(x, mask))


def mean() -> Rule:
    """The average, (1 / n) sum x_i: no liar is tolerated. O(n d)."""
    return _plain("mean", _present_mean)


# Coordinate by coordinate.


def _median(x, mask, even):
    present = usable(x, mask)
    middle = middle_of(sort_rows(listed_last(x, present)), number(present), even)
    return jnp.where(present.any(), middle, 0)


_median = jax.jit(_median, static_argnames="even")


def median(even: str = "mean") -> Rule:
    """The coordinate-wise median. Tolerates f < n / 2; O(n d log^2 n).

    Args:
        even: of an even number of values, "mean", the mean of the two in the middle (Yin et
            al.; ByzFL, flower, epfml); or "low", the lower of them (torch.median; byzpy,
            krum).

    References:
        Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
        Rates", ICML 2018.
    """
    require(even in ("mean", "low"), f"median needs even 'mean' or 'low': got {even!r}")
    return _plain("median", functools.partial(_median, even=even))


@jax.jit
def _trimmed_mean(x, mask, f):
    present = usable(x, mask)
    f, n = MAJORITY.clamp(f, present), number(present)
    scale = headroom(x.shape[0])
    ordered = sort_rows(listed_last(x, present, scale))
    lowest = pick(ordered, f)
    # Differences to a value that is kept: no large outlier touches the sum.
    kept = ((f <= i) & (i < n - f) for i in range(len(ordered)))
    total = add_up(jnp.where(k, row - lowest, 0) for k, row in zip(kept, ordered, strict=True))
    result = lowest + total / jnp.maximum(n - 2 * f, 1).astype(x.dtype)
    return jnp.where(n > 0, result * scale, 0)


def _share(fraction: Any, n: int) -> np.ndarray:
    """i32[n + 1], floor(fraction k) for k = 0..n; 0.29 * 100 = 28.999... counts as 29."""
    return np.floor(float(fraction) * np.arange(n + 1) + 1e-9).astype(np.int32)


def trimmed_mean(f: Any = None, fraction: Any = None) -> Rule:
    """Per coordinate, the mean of what is left without the f lowest and f highest values.

    Needs n > 2f; f = 0 is the mean, n = 2f + 1 the median. O(n d log^2 n).

    Args:
        f: how many to drop on each side (ByzFL, byzpy, epfml).
        fraction: instead of f, of the rows present, rounded down (flower's beta).

    References:
        Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
        Rates", ICML 2018. Not the mean around the median that goes by the same name in the
        code of "A Little Is Enough": that is `meamed`.
    """
    require((f is None) != (fraction is None), "trimmed_mean needs f, or a fraction")
    if fraction is None:
        f = whole("trimmed_mean", "f", f, 0)
        return _plain("trimmed_mean", _trimmed_mean, MAJORITY, f)
    if is_concrete(fraction):
        rule = f"trimmed_mean needs 0 <= fraction < 0.5: got {fraction!r}"
        require(np.ndim(fraction) == 0 and np.isreal(fraction), rule)
        require(0 <= fraction < 0.5, rule)

    def core(x, mask, start, key):
        n = number(mask)
        if is_concrete(fraction):
            drop = jnp.asarray(_share(fraction, x.shape[0]))[n]
        else:
            drop = jnp.floor(fraction * n.astype(fraction.dtype) + 1e-5).astype(jnp.int32)
        return _trimmed_mean(x, mask, drop)

    return Rule("trimmed_mean", core)


def _around_median(x: Array, present: Array, keep: Array) -> Array:
    """Per coordinate, the mean of the `keep` values nearest to the median of those present.

    The distance of the last one kept comes from a second sort; of those at exactly that
    distance the first are taken.
    """
    scale, n = headroom(x.shape[0]), number(present)
    middle = middle_of(sort_rows(listed_last(x, present, scale)), n)
    rows = listed(x, present, 0, scale)
    top = jnp.finfo(x.dtype).max
    away = [
        jnp.where(p, jnp.abs(row - middle), top) for row, p in zip(rows, present, strict=True)
    ]
    farthest = pick(sort_rows(away), keep - 1)
    left = keep - add_up((a < farthest).astype(jnp.int32) for a in away)
    total = jnp.zeros_like(middle)
    for row, distance in zip(rows, away, strict=True):
        tie = distance == farthest
        total += jnp.where((distance < farthest) | (tie & (left > 0)), row - middle, 0)
        left -= tie.astype(jnp.int32)
    result = middle + total / jnp.maximum(keep, 1).astype(x.dtype)
    return jnp.where(n > 0, result * scale, 0)


@jax.jit
def _meamed(x, mask, f):
    present = usable(x, mask)
    return _around_median(x, present, number(present) - MAJORITY.clamp(f, present))


def meamed(f: Any) -> Rule:
    """Mean around the median: per coordinate, of the n - f values nearest to the median.

    Needs n > 2f; O(n d log^2 n). Values at the same distance: the lowest index first.

    Args:
        f: liars to tolerate.

    References:
        Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", 2018; as in ByzFL.
        The code of "A Little Is Enough" calls it the trimmed mean, and keeps n - f - 1.
    """
    return _plain("meamed", _meamed, MAJORITY, whole("meamed", "f", f, 0))


@jax.jit
def _majority_vote(x, mask):
    return jnp.sign(add_up(jnp.sign(row) for row in listed(x, usable(x, mask))))


def majority_vote() -> Rule:
    """sign(sum_i sign(x_i)): each row has one vote per coordinate, a tie is 0. O(n d).

    References:
        Bernstein et al., "signSGD with Majority Vote is Communication Efficient and Fault
        Tolerant", ICLR 2019.
    """
    return _plain("majority_vote", _majority_vote)


# By distances between rows.


def _distances(x: Array, present: Array) -> tuple[Array, Array]:
    """Squared distances to other rows that count, ascending, and whose: f and i32[n, n].

    Everything else is at +inf, itself included: who is nearest to a row is not itself,
    also where rows repeat.
    """
    others = present[:, None] & present[None] & ~jnp.eye(x.shape[0], dtype=bool)
    distances = jnp.where(others, square_distances(x, present), jnp.inf)
    order = jnp.argsort(distances, axis=1, stable=True)
    return jnp.take_along_axis(distances, order, axis=1), order


def _scores(distances: Array, order: Array, alive: Array, nearest: Array, power: int) -> Array:
    """f[n], Krum's scores among the rows alive: sums over the nearest; +inf for the others.

    For power 4 the root of the sum, scaled by its largest term: a fourth power overflows.
    """
    counted = alive[order] & jnp.isfinite(distances)
    counted &= jnp.cumsum(counted, axis=1, dtype=jnp.int32) <= nearest
    distances = jnp.where(counted, distances, 0)
    if power == 4:
        largest = distances.max(axis=1)
        relative = distances / jnp.where(largest > 0, largest, 1)[:, None]
        scores = largest * jnp.sqrt((relative**2).sum(axis=1))
    else:
        scores = (jnp.sqrt(distances) if power == 1 else distances).sum(axis=1)
    return jnp.where(alive, scores, jnp.inf)


def _krum_scores(x, mask, f, neighbours, power):
    """Which rows count, Krum's scores, and the f that was used."""
    present = usable(x, mask, squares=True)
    f = KRUM.clamp(f, present)
    nearest = jnp.maximum(number(present) - f - NEIGHBOURS[neighbours], 1)
    return present, _scores(*_distances(x, present), present, nearest, power), f


def _krum(x, mask, f, neighbours, power):
    present, scores, _ = _krum_scores(x, mask, f, neighbours, power)
    return jnp.where(present.any(), x[jnp.argmin(scores)], 0)


_krum = jax.jit(_krum, static_argnames=("neighbours", "power"))


def _krum_options(name: str, neighbours: str, power: int) -> dict[str, Any]:
    rule = f"{name} needs neighbours of {', '.join(NEIGHBOURS)}: got {neighbours!r}"
    require(neighbours in NEIGHBOURS, rule)
    require(power in (1, 2, 4), f"{name} needs power 1, 2 or 4: got {power!r}")
    return {"neighbours": neighbours, "power": power}


def krum(f: Any, neighbours: str = "n-f-2", power: int = 2, strict: bool = True) -> Rule:
    """The row with the smallest sum of distances |x_i - x_j|^power to its nearest others.

    Needs n >= 2f + 3; O(n^2 d). What the field does, where it is not the default:

    | where                                      | neighbours | power |
    |--------------------------------------------|------------|-------|
    | Blanchard et al.; flower, xcgoner, DeComFL | n-f-2      | 2     |
    | ByzFL, byzpy                               | n-f-1      | 2     |
    | ByzantineMomentum, krum, FLPoison          | n-f-1      | 1     |
    | epfml, blades (squared twice)              | n-f-2      | 4     |
    | the authors of "A Little Is Enough"        | n-f        | 1     |

    Args:
        f: liars to tolerate.
        neighbours: how many others are summed over, never more than there are.
        power: of the distance.
        strict: False lets f be too large for n, and uses the largest that is not: some
            papers ran n = 11 with f = 5.

    References:
        Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017.
    """
    options = _krum_options("krum", neighbours, power)
    f = whole("krum", "f", f, 0)
    rule = _plain("krum", functools.partial(_krum, **options), KRUM, f)
    return rule if strict else Rule(rule.name, rule.core)


def _multi_krum(x, mask, f, m, neighbours, power, most, short):
    present, scores, f = _krum_scores(x, mask, f, neighbours, power)
    n = number(present)
    m = n - f - short if m is None else m
    m = jnp.clip(m, 1, jnp.maximum(n - f - most, 1))
    return mean_of(x, (positions(scores) < m) & present)


_multi_krum = jax.jit(_multi_krum, static_argnames=("neighbours", "power", "most", "short"))


def multi_krum(
    f: Any,
    m: Any = None,
    neighbours: str = "n-f-2",
    power: int = 2,
    strict: bool = True,
) -> Rule:
    """The mean of the m rows with the smallest scores of `krum`, computed once.

    Needs n >= 2f + 3 and 1 <= m <= n - f - 2; O(n^2 d). ByzFL's is m="n-f" with
    neighbours="n-f-1", for which m may be as large as n - f; with f = 0 that is the mean.

    Args:
        m: how many; None or "n-f-2" (the paper, C-KU), a number up to that (flower, byzpy,
            epfml), or "n-f" (ByzFL), which is more than the paper allows.
        f: as for `krum`, and so are the others; strict=False also lets m be up to n - f.

    References:
        Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017.
    """
    options = _krum_options("multi_krum", neighbours, power)
    f = whole("multi_krum", "f", f, 0)
    most = 2 if strict and neighbours == "n-f-2" and m != "n-f" else 0
    short = 2
    if isinstance(m, str):
        known = f"multi_krum needs m of n-f-2, n-f or a number: got {m!r}"
        require(m in ("n-f-2", "n-f"), known)
        m, short = None, 0 if m == "n-f" else 2
    elif m is not None:
        m = whole("multi_krum", "m", m, 1)

    def check(count):
        if not strict:
            return
        KRUM.check("multi_krum", count, f)
        if m is not None and is_concrete(m) and is_concrete(f):
            limit = "n - f - 2" if most else "n - f"
            rule = f"multi_krum needs 1 <= m <= {limit}: got m={m}, {count}, f={f}"
            require(m <= count.present - f - most, rule)

    def core(x, mask, start, key):
        chosen = None if m is None else jnp.asarray(m, jnp.int32)
        f_now = jnp.asarray(f, jnp.int32)
        return _multi_krum(x, mask, f_now, chosen, most=most, short=short, **options)

    return Rule("multi_krum", core, check)


@jax.jit
def _bulyan(x, mask, f):
    present = usable(x, mask, squares=True)
    n, f = number(present), BULYAN.clamp(f, present)
    distances, order = _distances(x, present)
    theta = n - 2 * f

    def select(step, state):
        alive, chosen = state
        nearest = jnp.maximum(n - step - f - 2, 1)
        winner = jnp.argmin(_scores(distances, order, alive, nearest, 2))
        wins = (jnp.arange(x.shape[0]) == winner) & (step < theta)
        return alive & ~wins, chosen | (wins & present)

    nobody = jnp.zeros_like(present)
    _, chosen = jax.lax.fori_loop(0, x.shape[0], select, (present, nobody))
    return _around_median(x, chosen, theta - 2 * f)


def bulyan(f: Any, strict: bool = True) -> Rule:
    """Krum selects theta = n - 2f rows; per coordinate, the mean of those near their median.

    Selection: the winner of Krum is taken out and Krum is asked again, among the n_t rows
    left with max(1, n_t - f - 2) neighbours: with f = 1 the last rounds would have none and
    all scores tie. (With one neighbour the two closest rows do tie, the lowest index wins,
    and the order of the rows matters.) Then, per coordinate, the mean of the theta - 2f
    values nearest to the median of the selected. Needs n >= 4f + 3; O(n^2 d + n^3).

    The code of "A Little Is Enough" scores again, as here; flower and C-KU take the theta
    lowest of the first scores, which selects other rows; krum, ByzantineMomentum and
    Garfield select averages of rows.

    Args:
        f: liars to tolerate.
        strict: as for `krum`.

    References:
        El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning
        in Byzantium", ICML 2018.
    """
    rule = _plain("bulyan", _bulyan, BULYAN, whole("bulyan", "f", f, 0))
    return rule if strict else Rule(rule.name, rule.core)


def _subsets(n: int, f: int) -> Array:
    """bool[C(n, f), n], all ways to keep n - f of n, in lexicographic order of who is kept.

    The r-th comes from r in the combinatorial number system: nothing is stored in the
    program. Counted from the end, so that who is dropped first is high.
    """
    rest = jnp.arange(math.comb(n, f), dtype=jnp.int32)
    kept = jnp.ones((rest.size, n), bool)
    for size in range(f, 0, -1):
        below = jnp.asarray([min(math.comb(c, size), 2**31 - 1) for c in range(n)], jnp.int32)
        c = jnp.searchsorted(below, rest, side="right").astype(jnp.int32) - 1
        rest = rest - below[c]
        kept &= jnp.arange(n, dtype=jnp.int32)[None] != n - 1 - c[:, None]
    return kept


def _mda(x, mask, f):
    present = usable(x, mask, squares=True)
    n = x.shape[0]
    distances = square_distances(x, present)
    kept = _subsets(n, f)
    # Rows that do not count may be dropped too where f shrinks; their place is immaterial.
    size = (kept & present[None]).sum(axis=1, dtype=jnp.int32)
    kept &= present[None]
    target = number(present) - MAJORITY.clamp(jnp.int32(f), present)

    def widen(i, diameter):
        reach = jnp.where(kept, distances[i][None], 0).max(axis=1)
        return jnp.maximum(diameter, jnp.where(kept[:, i], reach, 0))

    diameter = jax.lax.fori_loop(0, n, widen, jnp.zeros(kept.shape[0], x.dtype))
    return mean_of(x, kept[jnp.argmin(jnp.where(size == target, diameter, jnp.inf))])


_mda = jax.jit(_mda, static_argnames="f")


def mda(f: int) -> Rule:
    """Minimum diameter averaging: the mean of the n - f rows that lie closest together.

    Closest: the largest distance between two of them is the smallest; of several such sets
    the lexicographically first. Needs n > 2f; O(n^2 d + C(n, f) n^2), and refuses more than
    200,000 sets.

    Args:
        f: liars to tolerate, a number known before compilation.

    References:
        Rousseeuw, "Multivariate Estimation with High Breakdown Point", 1985; El Mhamdi et
        al., "Genuinely Distributed Byzantine Machine Learning", PODC 2020. As in ByzFL.
    """
    require(is_concrete(f), "mda needs an f that is known before compilation")
    f = whole("mda", "f", f, 0)

    def check(count):
        MAJORITY.check("mda", count, f)
        sets = math.comb(count.rows, f)
        rule = f"mda tries all C(n, f) <= {MDA_SUBSETS:,} sets: got n={count.rows}, f={f}"
        require(sets <= MDA_SUBSETS, f"{rule}, {sets:,} sets")

    return Rule("mda", lambda x, mask, start, key: _mda(x, mask, f), check)


# By an iteration.


def _minimiser(x: Array, present: Array) -> tuple[Array, Array]:
    """Is one of the rows the geometric median, and which.

    Then it is the row of least total distance, and the pull of the others on it is below the
    number of rows at that place.
    """
    distances = jnp.sqrt(square_distances(x, present))
    totals = jnp.where(present[None], distances, 0).sum(axis=1)
    near = jnp.argmin(jnp.where(present, totals, jnp.inf))
    # Where some rows are far away, totals are all alike but for rounding; how much larger than
    # that of `near` they are is not: |x_i - x_j| - |x_i - x_k| from z = x - x_k, as the
    # difference of their squares divided by their sum.
    z = x - x[near][None]
    products = jnp.matmul(z, z.T, precision="highest")
    both = distances + distances[near][None]
    more = (jnp.diagonal(products)[:, None] - 2 * products) / jnp.where(both > 0, both, 1)
    more = jnp.where(present[None], more, 0).sum(axis=1)
    best = jnp.argmin(jnp.where(present, more, jnp.inf))
    away = distances[best]
    others = present & (away > 0)
    weights = jnp.where(others, 1 / jnp.where(others, away, 1), 0)
    same = number(present & (away == 0)).astype(x.dtype)
    excess = norms(pull(x, weights, x[best])[None])[0] - same
    # Not at exactly 1: there a row is one of many, the ends of a segment that all minimise.
    slack = 4 * x.shape[0] * jnp.finfo(x.dtype).eps
    return present.any() & (excess < -slack), x[best]


@jax.jit
def _geometric_median(x, mask, iterations, tolerance):
    x, present = cleaned(x, mask)
    found, row = _minimiser(x, present)
    z = middle_of(sort_rows(listed_last(x, present)), number(present))
    z = jnp.where(present.any(), jnp.where(found, row, z), 0)
    count = jnp.maximum(number(present), 1).astype(x.dtype)

    def step(state):
        z, steps, _ = state
        r = norms(x - z[None])
        here = present & (r == 0)
        weights = jnp.where(present & ~here, 1 / jnp.where(r > 0, r, 1), 0)
        force = pull(x, weights, z)
        held = number(here).astype(x.dtype)
        strength = jnp.sqrt((force**2).sum())
        stay = jnp.where(strength > held, held / jnp.where(strength > 0, strength, 1), 1)
        total = weights.sum()
        change = (1 - stay) * force / jnp.where(total > 0, total, 1)
        spread = jnp.where(present, r, 0).sum() / count
        moved = jnp.sqrt((change**2).sum()) > tolerance * spread
        return z + change, steps + 1, moved

    def going(state):
        return state[2] & (state[1] < iterations)

    return jax.lax.while_loop(going, step, (z, jnp.int32(0), present.any() & ~found))[0]


def geometric_median(iterations: Any = 1000, tolerance: Any = 1e-8) -> Rule:
    """argmin_z sum_i |z - x_i|. Tolerates f < n / 2; O(n^2 d), and O(n d) per iteration.

    First it is asked whether one of the rows is the minimiser: the x_j of least total distance
    is where the pull R_j = |sum of (x_i - x_j) / |x_i - x_j| over the others| is less than the
    number of rows at x_j. Otherwise Weiszfeld's iteration, z <- sum(x_i / r_i) / sum(1 / r_i)
    with r_i = |z - x_i|, from the coordinate-wise median; where z has hit w of the rows, Vardi
    and Zhang's step, 1 - w / R of the way. Stops where a step is below `tolerance`, or
    rounding, of the mean distance; steps are shorter than the way that is left, above all near
    a row.

    ByzFL's GeometricMedian is `rfa(nu=0.1, iterations=3, start="zero")`, not converged.

    Args:
        iterations: at most so many.
        tolerance: of the mean distance from the rows to z.

    References:
        Weiszfeld, 1937; Vardi and Zhang, "The multivariate L1-median and associated data
        depth", PNAS 2000.
    """
    iterations = whole("geometric_median", "iterations", iterations, 1)
    positive("geometric_median", "tolerance", tolerance)

    def core(x, mask):
        steps = jnp.asarray(iterations, jnp.int32)
        least = jnp.maximum(jnp.asarray(tolerance, x.dtype), jnp.finfo(x.dtype).eps)
        return _geometric_median(x, mask, steps, least)

    return _plain("geometric_median", core)


def _rfa(x, mask, nu, iterations, origin):
    x, present = cleaned(x, mask)
    if origin == "zero":
        z = jnp.zeros_like(x[0])
    elif origin == "mean":
        z = mean_of(x, present)
    else:
        z = middle_of(sort_rows(listed_last(x, present)), number(present))
        z = jnp.where(present.any(), z, 0)

    def step(_, z):
        weights = jnp.where(present, 1 / jnp.maximum(nu, norms(x - z[None])), 0)
        total = weights.sum()
        return z + pull(x, weights, z) / jnp.where(total > 0, total, 1)

    return jax.lax.fori_loop(0, iterations, step, z)


_rfa = jax.jit(_rfa, static_argnames="origin")


def rfa(nu: Any = 1e-6, iterations: Any = 4, start: str = "mean") -> Rule:
    """Smoothed Weiszfeld: z <- sum(b_i x_i) / sum(b_i), b_i = 1 / max(nu, |z - x_i|).

    Tolerates f < n / 2; O(n d) per iteration, of which there is a fixed number.

    Args:
        nu: smallest distance; 1e-6 in the paper, 0.1 in ByzFL and epfml.
        iterations: 4 in its authors' code, 3 in ByzFL, 8 in epfml.
        start: "mean", as the authors; "zero", as ByzFL and epfml; "median".

    References:
        Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE
        Transactions on Signal Processing, 2022.
    """
    positive("rfa", "nu", nu)
    iterations = whole("rfa", "iterations", iterations, 1)
    known = ("mean", "zero", "median")
    require(start in known, f"rfa needs start of {', '.join(known)}: got {start!r}")

    def core(x, mask):
        steps = jnp.asarray(iterations, jnp.int32)
        return _rfa(x, mask, jnp.asarray(nu, x.dtype), steps, origin=start)

    return _plain("rfa", core)


@jax.jit
def _centered_clipping(x, mask, start, tau, iterations):
    x, present = cleaned(x, mask)
    n = jnp.maximum(number(present), 1).astype(x.dtype)

    def step(_, v):
        weights = jnp.where(present, shorten(norms(x - v[None]), tau), 0)
        return v + pull(x, weights, v) / n

    v = jax.lax.fori_loop(0, iterations, step, start)
    return jnp.where(present.any(), v, 0)


def centered_clipping(tau: Any = 10.0, iterations: Any = 1) -> Rule:
    """v <- v + (1 / n) sum_i (x_i - v) min(1, tau / |x_i - v|), from v = `start`.

    `start` is the previous output, zeros at first or where it is not finite; the caller keeps
    it. One iteration moves v by at most tau. Tolerates f < n / 2 (the theory: about n / 10);
    O(n d) per iteration. n counts the rows present.

    Args:
        tau: 10 in the paper, 10 / (1 - beta) with momentum beta; 100 in ByzFL, which keeps
            v in the object (its `m`).
        iterations: 1 in the paper; L in ByzFL.

    References:
        Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust
        Optimization", ICML 2021.
    """
    positive("centered_clipping", "tau", tau)
    iterations = whole("centered_clipping", "iterations", iterations, 1)

    def core(x, mask, start, key):
        v = jnp.zeros_like(x[0]) if start is None else jnp.asarray(start, x.dtype)
        v = jnp.where(jnp.isfinite(v).all(), v, 0)  # or it would stay so for ever
        rule = f"centered_clipping needs a start of shape {x.shape[1:]}: got {v.shape}"
        require(v.shape == x.shape[1:], rule)
        steps = jnp.asarray(iterations, jnp.int32)
        return _centered_clipping(x, mask, v, jnp.asarray(tau, x.dtype), steps)

    return Rule("centered_clipping", core)


AGGREGATORS = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "meamed": meamed,
    "majority_vote": majority_vote,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "mda": mda,
    "geometric_median": geometric_median,
    "rfa": rfa,
    "centered_clipping": centered_clipping,
}

# Names of ByzFL and of papers, in any case. An alias changes the name only: numbers and
# conventions stay the defaults above. GeometricMedian is what ByzFL's rule of that name is,
# a few smoothed iterations; `geometric_median` is the exact one.
ALIASES = {
    "Average": "mean",
    "CWMed": "median",
    "TrMean": "trimmed_mean",
    "CWTM": "trimmed_mean",
    "TrimmedMean": "trimmed_mean",
    "MultiKrum": "multi_krum",
    "GeometricMedian": "rfa",
    "CenteredClipping": "centered_clipping",
    "CC": "centered_clipping",
    "MajorityVote": "majority_vote",
    "SignMV": "majority_vote",
}
# Parameters under other names: ByzFL's T and L, flower's beta.
PARAMETERS = {"T": "iterations", "L": "iterations", "beta": "fraction"}

Stage = tuple[str, dict[str, Any]]  # name, options


def _canonical(name: Any) -> str:
    known = {n.lower(): n for n in (*AGGREGATORS, *PREAGGREGATORS)}
    known |= {alias.lower(): n for alias, n in ALIASES.items()}
    return lookup("aggregator", str(name).lower(), known)


def _value(text: str) -> Any:
    """An int, a float, true, false, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def parse(text: str) -> tuple[Stage, ...]:
    """The stages of `name:option=value,...+name:...`, names as they are in the registries."""
    stages = []
    for part in re.split(r"\+(?![0-9])", text):  # not the + of 1e+5
        name, _, rest = part.strip().partition(":")
        stages.append((_canonical(name.strip()), options_of(rest, text, "aggregator ")))
    return tuple(stages)


def options_of(rest: str, text: str, kind: str = "") -> dict[str, Any]:
    """The options in `option=value,...`, the end of `text`; of which kind, a message says."""
    options = {}
    for item in filter(None, rest.split(",")):
        option, equals, value = (s.strip() for s in item.partition("="))
        rule = f"{kind}options are option=value: got {item!r} in {text!r}"
        require(bool(option and equals and value), rule)
        require(option not in options, f"{option!r} is given twice in {text!r}")
        options[option] = _value(value)
    return options


def canonical(text: str) -> str:
    """The same description in the registries' names: `nnm:f=2+krum` for `NNM:f=2+Krum`."""
    names = [name for name, _ in parse(text)]
    parts = re.split(r"\+(?![0-9])", text)
    rest = (part.strip().partition(":")[1:] for part in parts)
    return "+".join(name + "".join(tail) for name, tail in zip(names, rest, strict=True))


def _stages(spec: Any) -> tuple[Stage, ...]:
    """The stages of a text, of ByzFL's dict, or of a list of either."""
    if isinstance(spec, str):
        return parse(spec)
    if isinstance(spec, Mapping):
        extra = sorted(map(str, set(spec) - {"name", "parameters"}))
        require("name" in spec, f"an aggregator needs a name: got {dict(spec)!r}")
        require(not extra, f"an aggregator has a name and parameters: got {', '.join(extra)}")
        return ((_canonical(spec["name"]), dict(spec.get("parameters") or {})),)
    known = "an aggregator is a text, a dict with name and parameters, or a list of them"
    require(isinstance(spec, Sequence) and len(spec) > 0, f"{known}: got {spec!r}")
    return tuple(stage for item in spec for stage in _stages(item))


def _build(name: str, own: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[Any, set]:
    """One stage, from its own options and those of all that it takes; and which it took."""
    factory = AGGREGATORS.get(name) or PREAGGREGATORS[name]
    takes = inspect.signature(factory).parameters
    taken = {o: PARAMETERS.get(o, o) for o in shared if PARAMETERS.get(o, o) in takes}
    options = {taken[o]: shared[o] for o in taken}
    named: dict[str, Any] = {}
    for option, value in own.items():
        known = PARAMETERS.get(option, option)
        rule = f"{name} has no option {option!r}: it has {', '.join(takes) or 'none'}"
        require(known in takes, rule)
        require(known not in named, f"{name} is given {known} twice")
        named[known] = value
    options |= named
    missing = [o for o, p in takes.items() if p.default is p.empty and o not in options]
    require(not missing, f"{name} needs {', '.join(missing)}")
    return factory(**options), set(taken)


def _compose(pres: Sequence[Pre], rule: Rule) -> Rule:
    """Stages one after the other; only the first sees the caller's mask."""
    if not pres:
        return rule
    draws = sum(pre.draws for pre in pres)

    def check(count):
        for pre in pres:
            pre.check(count)
            count = pre.left(count)
        rule.check(count)

    def core(x, mask, start, key):
        # One key per stage that draws; a single one gets the caller's own.
        several = key is not None and draws > 1
        keys = iter(jax.random.split(jnp.asarray(key), draws) if several else [key] * draws)
        for pre in pres:
            x, mask = pre.core(x, mask, next(keys) if pre.draws else None)
        return rule.core(x, mask, start, None)

    return Rule("+".join(stage.name for stage in (*pres, rule)), core, check)


def make(spec: Any, **options: Any) -> Rule:
    """The rule that a text, a dict or a list describes.

    `make("krum", f=2)`; `make("nnm+krum", f=2)`, pre-aggregators first;
    `make("clipping:c=2+nnm:f=3+trimmed_mean:f=3")`; ByzFL's
    `make({"name": "TrMean", "parameters": {"f": 3}})`, or a list of such dicts.

    Args:
        spec: what to make; names in any case, ByzFL's and papers' too (`ALIASES`).
        options: go to every stage that takes them; a stage's own come first.

    Raises:
        InvalidConfig: for names and options that do not exist, with those that do; or where
            the last stage is not a rule, or another one is.
    """
    stages = _stages(spec)
    names = [name for name, _ in stages]
    require(names[-1] in AGGREGATORS, f"{names[-1]} is a pre-aggregator: a rule must follow")
    for name in names[:-1]:
        require(name in PREAGGREGATORS, f"{name} is a rule: only the last stage can be one")
    built, taken = [], set()
    for name, own in stages:
        stage, took = _build(name, own, options)
        built.append(stage)
        taken |= took
    for option in options:
        known = f"{'+'.join(names)} has no option {option!r}"
        if len(names) == 1:
            takes = inspect.signature(AGGREGATORS[names[0]]).parameters
            known += f": it has {', '.join(takes) or 'none'}"
        require(option in taken, known)
    return _compose(built[:-1], built[-1])
