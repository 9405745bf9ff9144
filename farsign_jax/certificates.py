"""Assumption 6, the condition on directions that bounds what liars can do: is it met, and by
how much?

    eta = min_(|v|_2 = 1) min_(|J| <= q)  sum_(i not in J) |D_i v|_1 - sum_(i in J) |D_i v|_1

must be positive. The margin eta enters the rate of FAR-SIGN (Proposition C.5).

For a given v the worst J holds the q workers with the largest |D_i v|_1, so what remains is a
minimum over v of a function that is linear on each cone between the hyperplanes a_ij . v = 0.
If it is positive on all edges of these cones it is positive everywhere, and then its minimum
over the sphere lies on an edge: eta is exact after as many edges as rows have (d - 1)-subsets.
Where there are too many of them, linear programs decide (one for each J, signs of its rows and
coordinate), or bound it.

References:
    Paul et al., arXiv 2605.09337, 2026, Assumption 6. Ganesh, Reiffers-Masson and Thoppe, CDC
    2023, for one direction per worker.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize
from scipy.sparse import csgraph

from farsign_jax.base import require

_CHUNK = 20_000  # edges at a time
_TINY = 1e-9  # margins below this, in units of the longest row, are 0


class Certificate(NamedTuple):
    """What is known about eta: low <= eta <= high."""

    low: float
    high: float  # what `witness` and `adversaries` make of it
    witness: np.ndarray  # f64[d], a unit vector: grad f along it is where liars do best
    adversaries: tuple[int, ...]  # the q workers that do most there
    how: str  # "edges", "least squares", "linear programs" or "bounds"

    @property
    def exact(self) -> bool:
        return self.high - self.low <= 1e-6 * max(abs(self.high), _TINY)

    @property
    def holds(self) -> bool | None:
        """Whether Assumption 6 holds; None where that is not decided."""
        return True if self.low > 0 else False if self.high <= 0 else None


def certify(
    directions: Any, q: int, *, limit: int = 200_000, programs: int = 4_000, seed: int = 0
) -> Certificate:
    """The robustness margin eta of a dictionary against q liars.

    Args:
        directions: f[m, d], one direction per worker; or f[m, K, d], zero rows being none. For
            D_i = I, `np.eye(d)` for each of m workers, eta is m - 2 q at any d.
        q: liars.
        limit: edges to look at, at most.
        programs: linear programs and least squares problems to solve, at most.
        seed: of the search for a witness where eta is only bounded.

    Returns:
        A `Certificate`, exact (up to rounding) where the limits allow it.

    Raises:
        InvalidConfig: on another shape, numbers that are not finite, or q outside 0..m-1.
    """
    d_i = _checked(directions, q)
    scale = max(float(np.linalg.norm(d_i, axis=2).max()), np.finfo(float).tiny)
    d_i = d_i / scale
    d = d_i.shape[2]
    parts = []
    for block in _blocks(d_i):
        basis = _row_space(d_i[:, :, block])
        if basis.shape[0]:
            inner = _decide(d_i[:, :, block] @ basis.T, q, limit, programs, seed)
            witness = np.zeros(d)
            witness[block] = inner.witness @ basis
            parts.append(inner._replace(witness=witness))
        if basis.shape[0] < len(block):  # a direction that nobody asks about
            witness = np.zeros(d)
            witness[block] = _outside(basis, len(block))
            parts.append(Certificate(0.0, 0.0, witness, (), "edges"))
    return _whole(d_i, parts, q, scale)


def _checked(directions: Any, q: int) -> np.ndarray:
    d_i = np.asarray(directions, np.float64)
    d_i = d_i[:, None, :] if d_i.ndim == 2 else d_i
    rule = f"directions are [m, d] or [m, K, d]: got shape {np.shape(directions)}"
    require(d_i.ndim == 3 and d_i.size > 0, rule)
    require(np.isfinite(d_i), "directions must be finite")
    require(q == int(q), f"q is a whole number: got {q}")
    require(0 <= q < len(d_i), f"need 0 <= q < workers: got q={q}, workers={len(d_i)}")
    return d_i


def _blocks(d_i: np.ndarray) -> list[np.ndarray]:
    """Coordinates that no row joins go apart: eta is then the least of theirs."""
    used = (d_i.reshape(-1, d_i.shape[2]) != 0).astype(np.int64)
    count, label = csgraph.connected_components(used.T @ used, directed=False)
    return [np.flatnonzero(label == block) for block in range(count)]


def _row_space(d_i: np.ndarray) -> np.ndarray:
    """An orthonormal basis f[r, d] of what the rows span: beyond it nobody sees anything."""
    flat = d_i.reshape(-1, d_i.shape[2])
    _, values, basis = np.linalg.svd(flat, full_matrices=False)
    rank = int((values > 1e-12 * max(values[0], 1.0)).sum())
    return np.eye(d_i.shape[2]) if rank == d_i.shape[2] else basis[:rank]


def _outside(basis: np.ndarray, d: int) -> np.ndarray:
    rest = np.eye(d) - basis.T @ basis
    longest = rest[np.argmax(np.linalg.norm(rest, axis=1))]
    return longest / np.linalg.norm(longest)


def _whole(d_i: np.ndarray, parts: list[Certificate], q: int, scale: float) -> Certificate:
    """From the blocks to all of it; where several fail, liars can press on all of them."""
    lows = np.array([part.low for part in parts])
    worst = parts[int(np.argmin([part.high for part in parts]))]
    low = float(lows.min()) if lows.min() >= 0 else -math.hypot(*np.minimum(lows, 0))
    candidates = [part.witness for part in parts]
    failing = [-min(part.high, 0) * part.witness for part in parts]
    if sum(part.high < 0 for part in parts) > 1:
        joint = np.sum(failing, axis=0)
        candidates.append(joint / np.linalg.norm(joint))
    heights = _margins(d_i, np.array(candidates), q)
    best = int(np.argmin(heights))
    witness, high = candidates[best], max(float(heights[best]), low)
    high = high if abs(high) > _TINY else 0.0
    shares = np.abs(d_i @ witness).sum(axis=1)
    liars = tuple(sorted(np.argsort(-shares, kind="stable")[:q].tolist()))
    return Certificate(scale * low, scale * high, witness, liars, worst.how)


def _margins(d_i: np.ndarray, v: np.ndarray, q: int) -> np.ndarray:
    """The bracket of Assumption 6 with the worst J, at each row of v f[n, d], f[n]."""
    shares = np.sort(np.abs(np.einsum("mkd,nd->mkn", d_i, v)).sum(axis=1), axis=0)  # [m, n]
    return shares.sum(axis=0) - 2 * shares[len(shares) - q :].sum(axis=0)


def _lines(d_i: np.ndarray) -> np.ndarray:
    """The distinct lines among all rows, unit vectors f[R, d]."""
    flat = d_i.reshape(-1, d_i.shape[2])
    lengths = np.linalg.norm(flat, axis=1)
    flat = flat[lengths > 0] / lengths[lengths > 0, None]
    first = np.argmax(np.abs(flat) > 1e-9, axis=1)
    flat = flat * np.sign(flat[np.arange(len(flat)), first])[:, None]
    _, keep = np.unique(np.round(flat, 10), axis=0, return_index=True)
    return flat[np.sort(keep)]


def _edges(lines: np.ndarray) -> Iterator[np.ndarray]:
    """Unit vectors f[n, d] orthogonal to d - 1 of the lines each, all of them, in chunks."""
    d = lines.shape[1]
    if d == 1:
        yield np.ones((1, 1))
        return
    subsets = itertools.combinations(range(len(lines)), d - 1)
    while chunk := list(itertools.islice(subsets, _CHUNK)):
        chosen = lines[np.array(chunk)]  # [n, d - 1, d]
        if d == 2:
            yield np.stack([-chosen[:, 0, 1], chosen[:, 0, 0]], axis=1)
        else:
            # Where the chosen lines are dependent, this is one of many orthogonal vectors; the
            # edges among these are found from other subsets.
            yield np.linalg.svd(chosen, full_matrices=True)[2][:, -1]


def _lowest(d_i: np.ndarray, vectors: Iterator[np.ndarray], q: int) -> tuple[float, np.ndarray]:
    value, witness = math.inf, np.zeros(d_i.shape[2])
    for v in vectors:
        heights = _margins(d_i, v, q)
        best = int(np.argmin(heights))
        if heights[best] < value:
            value, witness = float(heights[best]), v[best]
    return value, witness


def _decide(d_i: np.ndarray, q: int, limit: int, programs: int, seed: int) -> Certificate:
    """One block whose rows span it."""
    m, k, d = d_i.shape
    lines = _lines(d_i)
    if math.comb(len(lines), d - 1) <= limit:
        value, witness = _lowest(d_i, _edges(lines), q)
        if value > _TINY or d == 1:
            return Certificate(value, value, witness, (), "edges")
        cases = math.comb(m, q) * 2 ** (q * k)
        if cases <= programs:
            deepest, below = _least_squares(d_i, q)
            if deepest < -_TINY:
                return Certificate(deepest, deepest, below, (), "least squares")
            return Certificate(0.0, 0.0, witness, (), "edges")
        value, witness = _descend(d_i, q, seed, witness)
        return Certificate(_lower_bound(d_i, q), value, witness, (), "bounds")
    value, witness = _descend(d_i, q, seed)
    if value > 0 and d * math.comb(m, q) * 2 ** (q * k) <= programs:
        lowest, vertex = _linear_programs(d_i, q)
        height = float(_margins(d_i, vertex[None], q)[0])
        if height < value:
            value, witness = height, vertex
        # |v|_inf <= |v|_2 <= sqrt(d) |v|_inf
        low = lowest / math.sqrt(d) if lowest > _TINY else min(lowest, 0.0)
        return Certificate(low, value, witness, (), "linear programs")
    return Certificate(min(_lower_bound(d_i, q), value), value, witness, (), "bounds")


def _cases(d_i: np.ndarray, q: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All sets of q liars with all signs of their rows: the rows of the others, f[r, d], and
    the sum of theirs, f[d]."""
    m, k, d = d_i.shape
    for liars in itertools.combinations(range(m), q):
        mask = np.zeros(m, bool)
        mask[list(liars)] = True
        others, theirs = d_i[~mask].reshape(-1, d), d_i[mask].reshape(-1, d)
        for signs in itertools.product((-1.0, 1.0), repeat=q * k):
            yield others, np.array(signs) @ theirs if q else np.zeros(d)


def _least_squares(d_i: np.ndarray, q: int) -> tuple[float, np.ndarray]:
    """The minimum over the unit ball, where it is negative.

    For fixed J and signs, the bracket is convex and homogeneous: its minimum over the ball is
    minus the distance of 0 from its subgradients {D'^T t - c : |t|_inf <= 1}, a box-constrained
    least squares problem, and v points away from the nearest of them.
    """
    deepest, witness = 0.0, np.zeros(d_i.shape[2])
    for others, theirs in _cases(d_i, q):
        t = optimize.lsq_linear(others.T, theirs, (-1, 1), method="bvls", tol=1e-14).x
        nearest = others.T @ t - theirs
        distance = float(np.linalg.norm(nearest))
        if -distance < deepest - _TINY:
            deepest, witness = -distance, -nearest / distance
    return deepest, witness


def _linear_programs(d_i: np.ndarray, q: int) -> tuple[float, np.ndarray]:
    """The minimum over |v|_inf = 1, one face v_l = 1 of the cube at a time (HiGHS)."""
    d = d_i.shape[2]
    lowest, vertex = math.inf, np.zeros(d)
    for others, theirs in _cases(d_i, q):
        r = len(others)
        cost = np.concatenate([-theirs, np.ones(r)])
        above = np.block([[others, -np.eye(r)], [-others, -np.eye(r)]])
        for face in range(d):
            box = [(-1.0, 1.0)] * d + [(0, None)] * r
            box[face] = (1.0, 1.0)
            found = optimize.linprog(cost, above, np.zeros(2 * r), bounds=box, method="highs")
            if found.fun < lowest:
                lowest, vertex = float(found.fun), found.x[:d]
    return lowest, vertex / np.linalg.norm(vertex)


def _descend(
    d_i: np.ndarray, q: int, seed: int, start: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """A low point of the bracket on the sphere, by subgradients from many places."""
    d = d_i.shape[2]
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((4096, d))
    v = np.concatenate([v, np.eye(d)] + ([start[None]] if start is not None else []))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    v = v[np.argsort(_margins(d_i, v, q))[:64]]
    best, witness = _lowest(d_i, iter([v]), q)
    for step in 0.3 * 0.97 ** np.arange(200):
        values = np.einsum("mkd,nd->mkn", d_i, v)
        shares = np.abs(values).sum(axis=1)
        order = np.argsort(np.argsort(shares, axis=0), axis=0)
        side = np.where(order >= len(d_i) - q, -1.0, 1.0)  # [m, n]
        down = np.einsum("mkn,mn,mkd->nd", np.sign(values), side, d_i)
        down -= (down * v).sum(axis=1, keepdims=True) * v
        length = np.linalg.norm(down, axis=1, keepdims=True)
        v = v - step * down / np.maximum(length, _TINY)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        value, lowest = _lowest(d_i, iter([v]), q)
        if value < best:
            best, witness = value, lowest
    return best, witness


def _lower_bound(d_i: np.ndarray, q: int) -> float:
    """A certified bound from as many linear programs as there are rows.

    With M_i >= max |D_i v|_1 subject to |D v|_1 <= 1, and S the sum of the q largest M_i, the
    bracket is at least (1 - 2 S) |D v|_1, and |D v|_1 >= |D v|_2 >= the least singular value.
    """
    m, k, d = d_i.shape
    flat = d_i.reshape(-1, d)
    r = len(flat)
    above = np.block([[flat, -np.eye(r)], [-flat, -np.eye(r)]])
    above = np.concatenate([above, np.concatenate([np.zeros(d), np.ones(r)])[None]])
    right = np.concatenate([np.zeros(2 * r), [1.0]])
    box = [(None, None)] * d + [(0, None)] * r
    most = []
    for row in flat:
        cost = np.concatenate([-row, np.zeros(r)])
        most.append(-optimize.linprog(cost, above, right, bounds=box, method="highs").fun)
    shares = np.sort(np.reshape(most, (m, k)).sum(axis=1))
    share = 1 - 2 * shares[m - q :].sum()
    values = np.linalg.svd(flat, compute_uv=False)
    return float(share * (values[-1] if share > 0 else math.sqrt(r) * values[0]))


class Design(NamedTuple):
    directions: np.ndarray  # f64[m, K, d], unit rows
    certificate: Certificate


DESIGNS = ("random", "equiangular", "optimised")


def design(
    num_workers: int,
    dim: int,
    q: int,
    *,
    per_worker: int = 1,
    method: str = "optimised",
    tries: int = 32,
    steps: int = 300,
    seed: int = 0,
) -> Design:
    """A dictionary of unit directions with a good margin against q liars.

    Args:
        num_workers: m. Without any 2 q of them, the others must still span R^d, or somebody's
            lies decide there: (m - 2 q) K >= d.
        dim: d.
        q: liars.
        per_worker: K, directions of each worker: 1 takes O(m) memory, d takes O(m d).
        method: "random", the best of `tries` draws from the sphere; "equiangular", rows as far
            from each other as they go, by descent on their coherence; "optimised", the better
            of both, then ascent on the margin itself, at its worst v.
        tries, steps: of the search.
        seed: of the draws.

    Returns:
        The directions and their `Certificate`; its `holds` may be False, where the search found
        none that does.

    Raises:
        InvalidConfig: where no dictionary of this size can do it, or on an unknown method.
    """
    m, k, d = num_workers, per_worker, dim
    require(min(m, k, d) > 0, f"design needs workers, directions and d > 0: got {m}, {k}, {d}")
    rule = "design needs 0 <= q and (m - 2 q) K >= d"
    require(0 <= q < m and (m - 2 * q) * k >= d, f"{rule}: got m={m}, q={q}, K={k}, d={d}")
    require(method in DESIGNS, f"method is one of {', '.join(DESIGNS)}: got {method!r}")
    rng = np.random.default_rng(seed)

    def value(d_i):  # cheap: a lower point of the bracket, or eta where edges are few
        return certify(d_i, q, limit=5_000, programs=0).high

    candidates = []
    if method != "equiangular":
        drawn = (_unit(rng.standard_normal((m, k, d))) for _ in range(tries))
        candidates.append(max(drawn, key=value))
    if method != "random":
        candidates.append(_spread(_unit(rng.standard_normal((m, k, d))), steps))
    best = max(candidates, key=value)
    if method == "optimised":
        best = _ascend(best, q, steps)
    return Design(best, certify(best, q))


def _unit(d_i: np.ndarray) -> np.ndarray:
    return d_i / np.linalg.norm(d_i, axis=-1, keepdims=True)


def _spread(d_i: np.ndarray, steps: int) -> np.ndarray:
    """Lines that keep away from each other: descent on a high power of their cosines."""
    flat = d_i.reshape(-1, d_i.shape[2])
    for step in 0.3 * np.linspace(1, 0.01, steps):
        cosines = flat @ flat.T
        np.fill_diagonal(cosines, 0)
        weight = np.sign(cosines) * (np.abs(cosines) / max(np.abs(cosines).max(), _TINY)) ** 15
        flat = _unit(flat - step * weight @ flat)
    return flat.reshape(d_i.shape)


def _ascend(d_i: np.ndarray, q: int, steps: int) -> np.ndarray:
    """Raises the bracket where it is lowest: honest rows turn towards v, those of J away."""
    best, most = d_i, -math.inf
    for step in 0.1 * np.linspace(1, 0.01, steps):
        found = certify(d_i, q, limit=20_000, programs=0)
        if found.high > most:
            best, most = d_i, found.high
        v = found.witness
        side = np.ones(len(d_i))
        side[list(found.adversaries)] = -1
        d_i = _unit(d_i + step * side[:, None, None] * np.sign(d_i @ v)[..., None] * v)
    return best
