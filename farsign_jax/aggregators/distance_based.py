"""Aggregators that choose among the rows by their distances: Krum, Multi-Krum, Bulyan, MDA."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.coordinatewise import around_median
from farsign_jax.aggregators.row_ops import (
    mean_of,
    number,
    positions,
    square_distances,
    usable,
)
from farsign_jax.aggregators.rule import MAJORITY, Need, Rule, without_options
from farsign_jax.base import Array
from farsign_jax.validation import check_integer, is_concrete, require

MDA_SUBSETS = 200_000


KRUM = Need(2, 3)


BULYAN = Need(4, 3)


NEIGHBOURS = {"n-f-2": 2, "n-f-1": 1, "n-f": 0}


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
    f = check_integer("krum", "f", f, 0)
    rule = without_options("krum", functools.partial(_krum, **options), KRUM, f)
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
    f = check_integer("multi_krum", "f", f, 0)
    most = 2 if strict and neighbours == "n-f-2" and m != "n-f" else 0
    short = 2
    if isinstance(m, str):
        known = f"multi_krum needs m of n-f-2, n-f or a number: got {m!r}"
        require(m in ("n-f-2", "n-f"), known)
        m, short = None, 0 if m == "n-f" else 2
    elif m is not None:
        m = check_integer("multi_krum", "m", m, 1)

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
    return around_median(x, chosen, theta - 2 * f)


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
    rule = without_options("bulyan", _bulyan, BULYAN, check_integer("bulyan", "f", f, 0))
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
    f = check_integer("mda", "f", f, 0)

    def check(count):
        MAJORITY.check("mda", count, f)
        sets = math.comb(count.rows, f)
        rule = f"mda tries all C(n, f) <= {MDA_SUBSETS:,} sets: got n={count.rows}, f={f}"
        require(sets <= MDA_SUBSETS, f"{rule}, {sets:,} sets")

    return Rule("mda", lambda x, mask, start, key: _mda(x, mask, f), check)
