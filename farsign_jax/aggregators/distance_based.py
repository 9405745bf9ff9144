"""Aggregators that select rows by their distances to each other: Krum, Multi-Krum, Bulyan."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import functools
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.aggregators.coordinatewise import mean_around
from farsign_jax.aggregators.row_ops import (
    mean_of,
    number,
    positions,
    square_distances,
    usable,
)
from farsign_jax.aggregators.rule import Count, Need, Rule, without_options
from farsign_jax.base import Array, Key
from farsign_jax.validation import check_integer, is_concrete, require

KRUM = Need(2, 3)
BULYAN = Need(4, 3)

# The number of neighbours that Krum sums over, as n - f minus the value.
NEIGHBOURS = {"n-f-2": 2, "n-f-1": 1, "n-f": 0}


def _distances(x: Array, present: Array) -> tuple[Array, Array]:
    """The squared distances of each row to the others, ascending, and the order of the rows.

    Distances to rows that do not count and to the row itself are +inf, so that the nearest
    row is never the row itself, also where rows repeat.

    Returns:
        Distances f[n, n] and the indices i32[n, n] of the rows at these distances.
    """
    others = present[:, None] & present[None] & ~jnp.eye(x.shape[0], dtype=bool)
    distances = jnp.where(others, square_distances(x, present), jnp.inf)
    order = jnp.argsort(distances, axis=1, stable=True)
    return jnp.take_along_axis(distances, order, axis=1), order


def _scores(distances: Array, order: Array, alive: Array, nearest: Array, power: int) -> Array:
    """Krum's scores f[n] among the remaining rows: sums of distances to the nearest others.

    The other rows have the score +inf. For power 4 the score is the square root of the sum,
    scaled by its largest term, because a fourth power may overflow.

    Args:
        distances: f[n, n], from `_distances`.
        order: i32[n, n], from `_distances`.
        alive: bool[n], the remaining rows.
        nearest: i32[], the number of distances to sum.
        power: the power of the distance, 1, 2 or 4.
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


def _krum_scores(
    x: Array, mask: Array, f: Array, neighbours: str, power: int
) -> tuple[Array, Array, Array]:
    """The rows that count bool[n], Krum's scores f[n], and the f that was used, i32[]."""
    present = usable(x, mask, squares=True)
    f = KRUM.clamp(f, present)
    nearest = jnp.maximum(number(present) - f - NEIGHBOURS[neighbours], 1)
    return present, _scores(*_distances(x, present), present, nearest, power), f


@functools.partial(jax.jit, static_argnames=("neighbours", "power"))
def _krum(x: Array, mask: Array, f: Array, neighbours: str, power: int) -> Array:
    present, scores, _ = _krum_scores(x, mask, f, neighbours, power)
    return jnp.where(present.any(), x[jnp.argmin(scores)], 0)


def _krum_options(name: str, neighbours: str, power: int) -> dict[str, Any]:
    """The options that Krum and Multi-Krum share, checked."""
    rule = f"{name} needs neighbours of {', '.join(NEIGHBOURS)}: got {neighbours!r}"
    require(neighbours in NEIGHBOURS, rule)
    require(power in (1, 2, 4), f"{name} needs power 1, 2 or 4: got {power!r}")
    return {"neighbours": neighbours, "power": power}


def krum(
    f: int | Array, neighbours: str = "n-f-2", power: int = 2, strict: bool = True
) -> Rule:
    """The row with the smallest sum of distances |x_i - x_j|^power to its nearest others.

    It needs n >= 2f + 3; O(n^2 d). What the field does, where it is not the default:

    | where                                      | neighbours | power |
    |--------------------------------------------|------------|-------|
    | Blanchard et al.; flower, xcgoner, DeComFL | n-f-2      | 2     |
    | ByzFL, byzpy                               | n-f-1      | 2     |
    | ByzantineMomentum, krum, FLPoison          | n-f-1      | 1     |
    | epfml, blades (squared twice)              | n-f-2      | 4     |
    | the authors of "A Little Is Enough"        | n-f        | 1     |

    Args:
        f: the number of Byzantine rows to tolerate.
        neighbours: the number of other rows summed over, one of the table; never more than
            there are.
        power: the power of the distance, 1, 2 or 4.
        strict: False accepts an f that is too large for n, and uses the largest that is not:
            some papers ran n = 11 with f = 5.

    Raises:
        InvalidConfig: if an option is not one of these values.

    References:
        Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017.
    """
    options = _krum_options("krum", neighbours, power)
    f = check_integer("krum", "f", f, 0)
    rule = without_options("krum", functools.partial(_krum, **options), KRUM, f)
    return rule if strict else Rule(rule.name, rule.core)


@functools.partial(jax.jit, static_argnames=("neighbours", "power", "most", "short"))
def _multi_krum(
    x: Array,
    mask: Array,
    f: Array,
    m: Array | None,
    neighbours: str,
    power: int,
    most: int,
    short: int,
) -> Array:
    """The mean of the m best rows, m = n - f - short by default and at most n - f - most."""
    present, scores, f = _krum_scores(x, mask, f, neighbours, power)
    n = number(present)
    m = n - f - short if m is None else m
    m = jnp.clip(m, 1, jnp.maximum(n - f - most, 1))
    return mean_of(x, (positions(scores) < m) & present)


def multi_krum(
    f: int | Array,
    m: int | str | Array | None = None,
    neighbours: str = "n-f-2",
    power: int = 2,
    strict: bool = True,
) -> Rule:
    """The mean of the m rows with the smallest scores of `krum`, computed once.

    It needs n >= 2f + 3 and 1 <= m <= n - f - 2; O(n^2 d). ByzFL's Multi-Krum is m="n-f" with
    neighbours="n-f-1", for which m may be as large as n - f; with f = 0 that is the mean.

    Args:
        f: the number of Byzantine rows to tolerate.
        m: the number of rows to average: None or "n-f-2" (the paper, C-KU), a number up to
            that (flower, byzpy, epfml), or "n-f" (ByzFL), which is more than the paper allows.
        neighbours: as for `krum`.
        power: as for `krum`.
        strict: as for `krum`; False also accepts m up to n - f.

    Raises:
        InvalidConfig: if an option is not one of these values.

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

    def check(count: Count) -> None:
        if not strict:
            return
        KRUM.check("multi_krum", count, f)
        if m is not None and is_concrete(m) and is_concrete(f):
            limit = "n - f - 2" if most else "n - f"
            rule = f"multi_krum needs 1 <= m <= {limit}: got m={m}, {count}, f={f}"
            require(int(m) <= count.present - int(f) - most, rule)

    def core(x: Array, mask: Array, start: Any, key: Key | None) -> Array:
        chosen = None if m is None else jnp.asarray(m, jnp.int32)
        f_now = jnp.asarray(f, jnp.int32)
        return _multi_krum(x, mask, f_now, chosen, most=most, short=short, **options)

    return Rule("multi_krum", core, check)


@jax.jit
def _bulyan(x: Array, mask: Array, f: Array) -> Array:
    present = usable(x, mask, squares=True)
    n, f = number(present), BULYAN.clamp(f, present)
    distances, order = _distances(x, present)
    theta = n - 2 * f

    def select(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        alive, chosen = state
        nearest = jnp.maximum(n - step - f - 2, 1)
        winner = jnp.argmin(_scores(distances, order, alive, nearest, 2))
        wins = (jnp.arange(x.shape[0]) == winner) & (step < theta)
        return alive & ~wins, chosen | (wins & present)

    none = jnp.zeros_like(present)
    _, chosen = jax.lax.fori_loop(0, x.shape[0], select, (present, none))
    return mean_around(x, chosen, theta - 2 * f)


def bulyan(f: int | Array, strict: bool = True) -> Rule:
    """Krum selects theta = n - 2f rows; the result is the mean of those near their median.

    The selection removes the winner of Krum and applies Krum again to the n_t remaining rows,
    with max(1, n_t - f - 2) neighbours: with f = 1 the last rounds would have none, and all
    scores would tie. (With one neighbour the two closest rows do tie, the lowest index wins,
    and the result depends on the order of the rows.) The result is, per coordinate, the mean
    of the theta - 2f values nearest to the median of the selected rows. It needs n >= 4f + 3;
    O(n^2 d + n^3).

    The code of "A Little Is Enough" computes the scores again, as here; flower and C-KU take
    the theta lowest of the first scores, which selects other rows; krum, ByzantineMomentum
    and Garfield select averages of rows.

    Args:
        f: the number of Byzantine rows to tolerate.
        strict: as for `krum`.

    Raises:
        InvalidConfig: if f is not an integer >= 0.

    References:
        El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning
        in Byzantium", ICML 2018.
    """
    rule = without_options("bulyan", _bulyan, BULYAN, check_integer("bulyan", "f", f, 0))
    return rule if strict else Rule(rule.name, rule.core)
