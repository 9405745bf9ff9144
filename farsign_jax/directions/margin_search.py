"""The searches of `margin`: over edges, by least squares and by linear programs."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy

TINY = 1e-9  # margins below this, in an orthonormal basis, are 0


SURE = 1e-6  # the tolerance for linear programs, which are accurate to 1e-7


_ROWS = 128  # the largest number of rows that are bounded by linear programs


class Block(NamedTuple):
    """Rows D_i = U_i M of a group of coordinates, the columns of U orthonormal, w = M v."""

    rows: np.ndarray  # f64[m, K, d], D_i
    white: np.ndarray  # f64[m, K, r], U_i
    back: np.ndarray  # f64[d, r], the shortest v for each w
    spread: tuple[float, float]  # the least and the largest |w| / |v| in the row space


def margins_of(d_i: np.ndarray, v: np.ndarray, q: int) -> np.ndarray:
    """Returns the bracket of Assumption 6 for the worst J at each row of v f[n, d], f[n]."""
    sizes = np.sort(np.abs(np.einsum("mkd,nd->mkn", d_i, v)).sum(axis=1), axis=0)  # [m, n]
    return sizes.sum(axis=0) - 2 * sizes[len(sizes) - q :].sum(axis=0)


def lines_of(white: np.ndarray) -> np.ndarray:
    """Returns the distinct lines among all rows as unit vectors f[R, r]."""
    flat = white.reshape(-1, white.shape[2])
    lengths = np.linalg.norm(flat, axis=1)
    flat = flat[lengths > 0] / lengths[lengths > 0, None]
    first = np.argmax(np.abs(flat) > 1e-9, axis=1)
    flat = flat * np.sign(flat[np.arange(len(flat)), first])[:, None]
    _, keep = np.unique(np.round(flat, 10), axis=0, return_index=True)
    return flat[np.sort(keep)]


def edges_of(lines: np.ndarray) -> Iterator[np.ndarray]:
    """Yields, in chunks, all unit vectors f[n, r] that are orthogonal to r - 1 of the lines."""
    r = lines.shape[1]
    if r == 1:
        yield np.ones((1, 1))
        return
    subsets = itertools.combinations(range(len(lines)), r - 1)
    while chunk := list(itertools.islice(subsets, max(2_000_000 // r**2, 1))):
        chosen = lines[np.array(chunk)]  # [n, r - 1, r]
        if r == 2:
            yield np.stack([-chosen[:, 0, 1], chosen[:, 0, 0]], axis=1)
        else:
            # If the chosen lines are dependent, this is one of many orthogonal vectors; the
            # edges among them are found from other subsets.
            yield np.linalg.svd(chosen, full_matrices=True)[2][:, -1]


class _Lowest(NamedTuple):
    """The least bracket over some w for |w| = 1, for |v| = 1, and where it is."""

    sign: float
    value: float
    witness: np.ndarray  # v


def lowest_of(block: Block, vectors: Iterable[np.ndarray], q: int) -> _Lowest:
    """Returns the least bracket over the rows w of some arrays f[n, r]."""
    found = _Lowest(math.inf, math.inf, block.back[:, 0])
    for w in vectors:
        bracket, v = margins_of(block.white, w, q), w @ block.back.T
        lengths = np.linalg.norm(v, axis=1)
        at = int(np.argmin(bracket / lengths))
        sign, value = float(bracket.min()), float(bracket[at] / lengths[at])
        if value < found.value:
            found = found._replace(value=value, witness=v[at] / lengths[at])
        if sign < found.sign:
            found = found._replace(sign=sign)
            if sign <= TINY:  # from here on only a place where it fails matters
                at = int(np.argmin(bracket))
                found = found._replace(witness=v[at] / lengths[at], value=min(value, 0.0))
    return found


def cases_of(d_i: np.ndarray, q: int) -> int:
    """Returns the number of sets J with signs of their rows."""
    return math.comb(len(d_i), q) * 2 ** (q * d_i.shape[1])


def _cases(d_i: np.ndarray, q: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for all sets J of q workers with all signs of their rows, the rows of the other
    workers, f[n, d], and the signed sum of those of J, f[d]."""
    m, k, d = d_i.shape
    for chosen in itertools.combinations(range(m), q):
        mask = np.zeros(m, bool)
        mask[list(chosen)] = True
        others, theirs = d_i[~mask].reshape(-1, d), d_i[mask].reshape(-1, d)
        for signs in itertools.product((-1.0, 1.0), repeat=q * k):
            yield others, np.array(signs) @ theirs if q else np.zeros(d)


def least_squares(d_i: np.ndarray, q: int) -> tuple[float, np.ndarray]:
    """Returns the minimum of the bracket over the unit ball, or 0, and where it is.

    For fixed J and signs, the bracket is convex and homogeneous. Its minimum over the ball is
    minus the distance of 0 from its subgradients {D'^T t - c : |t|_inf <= 1}, which is a
    box-constrained least squares problem, and v points away from the nearest subgradient.
    """
    deepest, witness = 0.0, np.eye(d_i.shape[2])[0]
    for others, theirs in _cases(d_i, q):
        others = others[others.any(axis=1)]
        t = np.zeros(0)
        if len(others):
            with np.errstate(all="ignore"):
                found = scipy.optimize.lsq_linear(
                    others.T, theirs, (-1, 1), method="bvls", tol=1e-14
                )
            t = found.x
        nearest = others.T @ t - theirs
        distance = float(np.linalg.norm(nearest))
        if -distance < deepest - TINY:
            deepest, witness = -distance, -nearest / distance
    return deepest, witness


def linear_programs(white: np.ndarray, q: int) -> tuple[float, np.ndarray]:
    """Returns the minimum over |w|_inf = 1, one face w_l = 1 of the cube at a time (HiGHS)."""
    r = white.shape[2]
    lowest, corner = math.inf, np.zeros(r)
    for others, theirs in _cases(white, q):
        n = len(others)
        cost = np.concatenate([-theirs, np.ones(n)])
        above = np.block([[others, -np.eye(n)], [-others, -np.eye(n)]])
        for face in range(r):
            box = [(-1.0, 1.0)] * r + [(0, None)] * n
            box[face] = (1.0, 1.0)
            found = scipy.optimize.linprog(
                cost, above, np.zeros(2 * n), bounds=box, method="highs"
            )
            if found.fun < lowest:
                lowest, corner = float(found.fun), found.x[:r]
    return lowest, corner / np.linalg.norm(corner)


def descend(white: np.ndarray, q: int, seed: int) -> Iterator[np.ndarray]:
    """Yields points f[n, r] of the sphere that descend from many starts along subgradients."""
    r = white.shape[2]
    v = np.random.default_rng(seed).standard_normal((4096, r))
    v = np.concatenate([v, np.eye(r)])
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    v = v[np.argsort(margins_of(white, v, q))[:64]]
    yield v
    for step in 0.3 * 0.97 ** np.arange(200):
        values = np.einsum("mkd,nd->mkn", white, v)
        order = np.argsort(np.argsort(np.abs(values).sum(axis=1), axis=0), axis=0)
        side = np.where(order >= len(white) - q, -1.0, 1.0)  # [m, n]
        down = np.einsum("mkn,mn,mkd->nd", np.sign(values), side, white)
        down -= (down * v).sum(axis=1, keepdims=True) * v
        v = v - step * down / np.maximum(np.linalg.norm(down, axis=1, keepdims=True), TINY)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        yield v


def relative_margin(white: np.ndarray, q: int) -> float:
    """Returns s with bracket >= s |U w|_1 for all w, where |U w|_1 >= |U w|_2 = |w|.

    With M_i >= max |U_i w|_1 subject to |U w|_1 <= 1, s = 1 - 2 (sum of the q largest M_i): a
    linear program for each row, or the length of the row if there are many rows.
    """
    m, k, r = white.shape
    flat = white.reshape(-1, r)
    n = len(flat)
    most = np.linalg.norm(flat, axis=1)  # as |w| <= |U w|_1
    if n <= _ROWS:
        above = np.block([[flat, -np.eye(n)], [-flat, -np.eye(n)]])
        above = np.concatenate([above, np.concatenate([np.zeros(r), np.ones(n)])[None]])
        right = np.concatenate([np.zeros(2 * n), [1.0]])
        box = [(None, None)] * r + [(0, None)] * n
        for i, row in enumerate(flat):
            cost = np.concatenate([-row, np.zeros(n)])
            found = scipy.optimize.linprog(cost, above, right, bounds=box, method="highs")
            most[i] = min(most[i], -found.fun) if found.status == 0 else most[i]
    sizes = np.sort(most.reshape(m, k).sum(axis=1))
    factor = 1 - 2 * float(sizes[m - q :].sum()) - SURE
    return 0.0 if abs(factor) <= 2 * SURE else factor
