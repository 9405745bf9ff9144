"""Assumption 6, the condition on directions that bounds what liars can do: is it met, and by
how much?

    eta = min_(|v|_2 = 1) min_(|J| <= q)  sum_(i not in J) |D_i v|_1 - sum_(i in J) |D_i v|_1

must be positive. The margin eta enters the rate of FAR-SIGN (Proposition C.5).

For a given v the worst J holds the q workers with the largest |D_i v|_1, so what remains is a
minimum over v of a homogeneous function that is concave on each cone between the hyperplanes
a_ij . v = 0. If it is positive on all edges of these cones it is positive everywhere, and then
its minimum over the sphere lies on an edge: eta is exact after as many edges as rows have
(d - 1)-subsets. Where there are too many of them, linear programs decide (one for each J, signs
of its rows and coordinate), or bound it.

Whether eta > 0 does not depend on the basis of R^d: that is decided where the columns of D are
orthonormal, so that the scale of a coordinate cannot be taken for a margin of 0.

References:
    Paul et al., arXiv 2605.09337, 2026, Assumption 6. Ganesh, Reiffers-Masson and Thoppe, CDC
    2023, for one direction per worker.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported as they are used: half a second for those who need none

from farsign_jax.base import InvalidConfig, require
from farsign_jax.rows import whole

_TINY = 1e-9  # margins below this, in an orthonormal basis, are 0
_SURE = 1e-6  # what linear programs (to 1e-7) must leave
_FLOPS = 2e9  # to spend on edges
_WORK = 2e7  # on linear programs, in entries of their tables: some 5 s
_ROWS = 128  # for which linear programs bound what they can reach


class Certificate(NamedTuple):
    """What is known about eta: low <= eta <= high."""

    low: float
    high: float  # what `witness` and `adversaries` make of it
    witness: np.ndarray  # f64[d], a unit vector: grad f along it is where liars do best
    adversaries: tuple[int, ...]  # the q workers that do most there
    how: str  # "edges", "least squares", "linear programs" or "bounds"

    @property
    def exact(self) -> bool:
        return self.high - self.low <= 1e-6 * abs(self.high)

    @property
    def holds(self) -> bool | None:
        """Whether Assumption 6 holds; None where that is not decided."""
        return True if self.low > 0 else False if self.high <= 0 else None


class _Block(NamedTuple):
    """Rows that go by themselves: D_i = U_i M, the columns of U orthonormal, w = M v."""

    rows: np.ndarray  # f64[m, K, d], D_i
    white: np.ndarray  # f64[m, K, r], U_i
    back: np.ndarray  # f64[d, r], the shortest v for each w
    spread: tuple[float, float]  # the least and the largest |w| / |v| in the row space


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
    return _certify(_checked(directions, q), int(q), limit, programs, seed, True)


def _certify(
    d_i: np.ndarray, q: int, limit: int, programs: int, seed: int, sure: bool
) -> Certificate:
    """`certify`; not `sure`: only from above, low = -inf where that takes linear programs."""
    scale = float(np.abs(d_i).max()) or 1.0
    d_i = d_i / scale
    d = d_i.shape[2]
    parts = []
    for columns in _blocks(d_i):
        part = d_i[:, :, columns]
        part = part[:, (part != 0).any(axis=(0, 2))]
        block, blind = _whitened(part)
        if block is not None:
            parts.append(_decide(block, q, limit, programs, seed, sure))
        if blind is not None:  # a direction that nobody asks about
            parts.append(Certificate(0.0, 0.0, blind, (), "edges"))
        for n in range(1 + (block is not None and blind is not None)):
            witness = np.zeros(d)
            witness[columns] = parts[-1 - n].witness
            parts[-1 - n] = parts[-1 - n]._replace(witness=witness)
    return _whole(d_i, parts, q, programs, scale)


def _checked(directions: Any, q: Any) -> np.ndarray:
    whole("certify", "q", q, 0)
    try:
        d_i = np.asarray(directions)
    except ValueError as error:  # rows of several lengths
        raise InvalidConfig(f"directions are one array: {error}") from None
    require(d_i.dtype.kind in "fiub", f"directions are real numbers: got {d_i.dtype}")
    d_i = d_i.astype(np.float64)
    d_i = d_i[:, None, :] if d_i.ndim == 2 else d_i
    rule = f"directions are [m, d] or [m, K, d]: got shape {np.shape(directions)}"
    require(d_i.ndim == 3 and d_i.size > 0, rule)
    require(np.isfinite(d_i), "directions must be finite")
    require(q < len(d_i), f"need 0 <= q < workers: got q={q}, workers={len(d_i)}")
    return d_i


def _blocks(d_i: np.ndarray) -> list[np.ndarray]:
    """Coordinates that no row joins go apart: eta is then the least of theirs."""
    used = scipy.sparse.csr_array(d_i.reshape(-1, d_i.shape[2]) != 0)
    graph = scipy.sparse.block_array([[None, used], [used.T, None]]).tocsr()
    found: Any = scipy.sparse.csgraph.connected_components(graph, directed=False)
    label = found[1][d_i.shape[0] * d_i.shape[1] :]  # rows first
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _whitened(rows: np.ndarray) -> tuple[_Block | None, np.ndarray | None]:
    """The rows in an orthonormal basis, and a unit vector that none of them sees, or None."""
    m, k, d = rows.shape
    if not k:
        return None, np.eye(d)[0]
    flat = rows.reshape(-1, d)
    sizes = np.abs(flat).max(axis=0)  # of each coordinate: no measure of rank
    u, values, basis = np.linalg.svd(flat / sizes, full_matrices=d > len(flat))
    rank = int((values > 1e-12 * values[0]).sum())
    into = values[:rank, None] * basis[:rank] * sizes  # M
    if rank == d:
        back, blind = (basis.T / values) / sizes[:, None], None
    else:
        back = np.linalg.pinv(into)
        unseen: Any = np.linalg.svd(flat / sizes, full_matrices=True)
        blind = unseen[2][-1] / sizes
        blind = blind / np.linalg.norm(blind)
    spread = np.linalg.svd(into, compute_uv=False)
    white = u[:, :rank].reshape(m, k, rank)
    return _Block(rows, white, back, (float(spread[-1]), float(spread[0]))), blind


def _whole(
    d_i: np.ndarray, parts: list[Certificate], q: int, programs: int, scale: float
) -> Certificate:
    """From the blocks to all of it; where several fail, liars can press on all of them."""
    lows, highs = (np.array([getattr(part, end) for part in parts]) for end in ("low", "high"))
    worst = parts[int(np.argmin(highs))]
    witness, high, how = worst.witness, worst.high, worst.how
    low = float(lows.min()) if lows.min() >= 0 else -math.hypot(*np.minimum(lows, 0))
    if (highs < 0).sum() > 1:
        joint = np.sum([-min(part.high, 0) * part.witness for part in parts], axis=0)
        joint /= np.linalg.norm(joint)
        height = float(_margins(d_i, joint[None], q)[0])
        if height < high:
            witness, high = joint, height
        if low < high and _cases_of(d_i, q) <= programs:
            low, witness = _least_squares(d_i, q)
            high, how = low, "least squares"
    low = min(low, high)
    shares = np.abs(d_i @ witness).sum(axis=1)
    liars = tuple(sorted(np.argsort(-shares, kind="stable")[:q].tolist()))
    return Certificate(scale * low, scale * high, witness, liars, how)


def _margins(d_i: np.ndarray, v: np.ndarray, q: int) -> np.ndarray:
    """The bracket of Assumption 6 with the worst J, at each row of v f[n, d], f[n]."""
    shares = np.sort(np.abs(np.einsum("mkd,nd->mkn", d_i, v)).sum(axis=1), axis=0)  # [m, n]
    return shares.sum(axis=0) - 2 * shares[len(shares) - q :].sum(axis=0)


def _lines(white: np.ndarray) -> np.ndarray:
    """The distinct lines among all rows, unit vectors f[R, r]."""
    flat = white.reshape(-1, white.shape[2])
    lengths = np.linalg.norm(flat, axis=1)
    flat = flat[lengths > 0] / lengths[lengths > 0, None]
    first = np.argmax(np.abs(flat) > 1e-9, axis=1)
    flat = flat * np.sign(flat[np.arange(len(flat)), first])[:, None]
    _, keep = np.unique(np.round(flat, 10), axis=0, return_index=True)
    return flat[np.sort(keep)]


def _edges(lines: np.ndarray) -> Iterator[np.ndarray]:
    """Unit vectors f[n, r] orthogonal to r - 1 of the lines each, all of them, in chunks."""
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
            # Where the chosen lines are dependent, this is one of many orthogonal vectors; the
            # edges among these are found from other subsets.
            yield np.linalg.svd(chosen, full_matrices=True)[2][:, -1]


class _Lowest(NamedTuple):
    """Over some w: the least bracket for |w| = 1, and for |v| = 1, and where."""

    sign: float
    value: float
    witness: np.ndarray  # v


def _lowest(block: _Block, vectors: Iterable[np.ndarray], q: int) -> _Lowest:
    found = _Lowest(math.inf, math.inf, block.back[:, 0])
    for w in vectors:
        bracket, v = _margins(block.white, w, q), w @ block.back.T
        lengths = np.linalg.norm(v, axis=1)
        at = int(np.argmin(bracket / lengths))
        sign, value = float(bracket.min()), float(bracket[at] / lengths[at])
        if value < found.value:
            found = found._replace(value=value, witness=v[at] / lengths[at])
        if sign < found.sign:
            found = found._replace(sign=sign)
            if sign <= _TINY:  # what counts now is a place where it fails
                at = int(np.argmin(bracket))
                found = found._replace(witness=v[at] / lengths[at], value=min(value, 0.0))
    return found


def _decide(
    block: _Block, q: int, limit: int, programs: int, seed: int, sure: bool
) -> Certificate:
    """One block."""
    r = block.white.shape[2]
    lines, cases = _lines(block.white), _cases_of(block.rows, q)
    edges = math.comb(len(lines), r - 1)
    complete = edges <= limit and edges * r**3 <= _FLOPS
    found = _lowest(block, _edges(lines) if complete else _descent(block.white, q, seed), q)
    if complete and found.sign > _TINY:
        return Certificate(found.value, found.value, found.witness, (), "edges")
    if complete and found.sign > -_TINY:
        return Certificate(0.0, 0.0, found.witness, (), "edges")
    if found.sign <= 0 and cases <= programs:  # it fails: how deep?
        deepest, below = _least_squares(block.rows, q)
        if deepest < 0:
            return Certificate(deepest, deepest, below, (), "least squares")
    if complete:
        found = _lowest(block, _descent(block.white, q, seed), q)
    if not sure:
        return Certificate(-math.inf, found.value, found.witness, (), "bounds")
    least, most = block.spread
    work = r * cases * block.white[..., 0].size ** 2
    if found.sign > 0 and r * cases <= programs and work <= _WORK:
        # |w|_inf <= |w|_2 <= sqrt(r) |w|_inf, and |w| is at least `least` |v|.
        lowest, corner = _linear_programs(block.white, q)
        other = _lowest(block, [corner[None]], q)
        found = min(found, other, key=lambda one: one.value)
        low = lowest - _SURE
        low = low / math.sqrt(r) * least if low > 0 else low * most
        low = 0.0 if abs(lowest) <= _SURE and found.value <= 0 else low
        return Certificate(low, found.value, found.witness, (), "linear programs")
    share = _share(block.white, q)
    low = share * least if share > 0 else share * math.sqrt(block.white[..., 0].size) * most
    return Certificate(low, found.value, found.witness, (), "bounds")


def _cases_of(d_i: np.ndarray, q: int) -> int:
    return math.comb(len(d_i), q) * 2 ** (q * d_i.shape[1])


def _cases(d_i: np.ndarray, q: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All sets of q liars with all signs of their rows: the rows of the others, f[n, d], and
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
        if -distance < deepest - _TINY:
            deepest, witness = -distance, -nearest / distance
    return deepest, witness


def _linear_programs(white: np.ndarray, q: int) -> tuple[float, np.ndarray]:
    """The minimum over |w|_inf = 1, one face w_l = 1 of the cube at a time (HiGHS)."""
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


def _descent(white: np.ndarray, q: int, seed: int) -> Iterator[np.ndarray]:
    """Points f[n, r] of the sphere that go down from many places, by subgradients."""
    r = white.shape[2]
    v = np.random.default_rng(seed).standard_normal((4096, r))
    v = np.concatenate([v, np.eye(r)])
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    v = v[np.argsort(_margins(white, v, q))[:64]]
    yield v
    for step in 0.3 * 0.97 ** np.arange(200):
        values = np.einsum("mkd,nd->mkn", white, v)
        order = np.argsort(np.argsort(np.abs(values).sum(axis=1), axis=0), axis=0)
        side = np.where(order >= len(white) - q, -1.0, 1.0)  # [m, n]
        down = np.einsum("mkn,mn,mkd->nd", np.sign(values), side, white)
        down -= (down * v).sum(axis=1, keepdims=True) * v
        v = v - step * down / np.maximum(np.linalg.norm(down, axis=1, keepdims=True), _TINY)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        yield v


def _share(white: np.ndarray, q: int) -> float:
    """s with bracket >= s |U w|_1 for all w; |U w|_1 >= |U w|_2 = |w|.

    With M_i >= max |U_i w|_1 subject to |U w|_1 <= 1, s = 1 - 2 (sum of the q largest M_i): a
    linear program for each row, or, where rows are many, the length of the row.
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
    shares = np.sort(most.reshape(m, k).sum(axis=1))
    share = 1 - 2 * float(shares[m - q :].sum()) - _SURE
    return 0.0 if abs(share) <= 2 * _SURE else share


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
        tries: random draws, of which the best is taken.
        steps: of the descent, and of the ascent.
        seed: of the draws.

    Returns:
        The directions and their `Certificate`; its `holds` may be False, where the search found
        none that does.

    Raises:
        InvalidConfig: where no dictionary of this size can do it, or on an unknown method.
    """
    m, k = whole("design", "num_workers", num_workers, 1), whole("design", "K", per_worker, 1)
    d, tries = whole("design", "dim", dim, 1), whole("design", "tries", tries, 1)
    rule = "design needs 0 <= q and (m - 2 q) K >= d"
    require(
        0 <= whole("design", "q", q, 0) < m and (m - 2 * q) * k >= d,
        f"{rule}: got m={m}, q={q}, K={k}, d={d}",
    )
    require(method in DESIGNS, f"method is one of {', '.join(DESIGNS)}: got {method!r}")
    rng = np.random.default_rng(seed)

    def value(d_i):  # cheap: a lower point of the bracket, or eta where edges are few
        return _certify(d_i, q, 5_000, 0, 0, False).high

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
        found = _certify(d_i, q, 20_000, 0, 0, False)
        if found.high > most:
            best, most = d_i, found.high
        v = found.witness
        side = np.ones(len(d_i))
        side[list(found.adversaries)] = -1
        d_i = _unit(d_i + step * side[:, None, None] * np.sign(d_i @ v)[..., None] * v)
    return best
