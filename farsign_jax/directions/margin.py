"""The margin of Assumption 6, the condition on directions that bounds Byzantine workers.

    eta = min_(|v|_2 = 1) min_(|J| <= q)  sum_(i not in J) |D_i v|_1 - sum_(i in J) |D_i v|_1

The margin eta must be positive. It enters the rate of FAR-SIGN (Proposition C.5).

For a given v the worst J holds the q workers with the largest |D_i v|_1, so what remains is a
minimum over v of a homogeneous function that is concave on each cone between the hyperplanes
a_ij . v = 0. If it is positive on all edges of these cones it is positive everywhere, and then
its minimum over the sphere lies on an edge: eta is exact after as many edges as rows have
(d - 1)-subsets. If these are too many, linear programs decide (one for each J, signs of its
rows and coordinate), or bound eta.

Whether eta > 0 does not depend on the basis of R^d. It is decided in a basis in which the
columns of D are orthonormal, so that the scale of a coordinate is not mistaken for a margin
of 0.

References:
    Paul et al., arXiv 2605.09337, 2026, Assumption 6. Ganesh, Reiffers-Masson and Thoppe, CDC
    2023, for one direction per worker.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy

from farsign_jax.directions.margin_search import (
    SURE,
    TINY,
    Block,
    cases_of,
    descend,
    edges_of,
    least_squares,
    linear_programs,
    lines_of,
    lowest_of,
    margins_of,
    relative_margin,
)
from farsign_jax.validation import InvalidConfig, check_integer, require

_FLOPS = 2e9  # the limit of the work on edges


_WORK = 2e7  # the limit of linear programs, in entries of their tables: about 5 s


class Certificate(NamedTuple):
    """What is known about eta: low <= eta <= high."""

    low: float
    high: float  # the bracket at `witness` and `adversaries`
    witness: np.ndarray  # f64[d], the unit vector v at which the bracket is lowest
    adversaries: tuple[int, ...]  # J, the q workers with the largest |D_i v|_1 there
    how: str  # how it was found: "edges", "least squares", "linear programs" or "bounds"

    @property
    def exact(self) -> bool:
        """Whether eta is known up to rounding."""
        return self.high - self.low <= 1e-6 * abs(self.high)

    @property
    def holds(self) -> bool | None:
        """Whether Assumption 6 holds; None if that is not decided."""
        return True if self.low > 0 else False if self.high <= 0 else None


def certify(
    directions: Any, q: int, *, limit: int = 200_000, programs: int = 4_000, seed: int = 0
) -> Certificate:
    """Computes or bounds the margin eta of a dictionary against q Byzantine workers.

    Args:
        directions: f[m, d], one direction per worker; or f[m, K, d], where rows of zeros do not
            count. For D_i = I, `np.eye(d)` for each of m workers, eta is m - 2 q at any d.
        q: the number of Byzantine workers.
        limit: the largest number of edges to examine.
        programs: the largest number of linear programs and least squares problems to solve.
        seed: the seed of the search for a witness if eta is only bounded.

    Returns:
        A `Certificate`, exact (up to rounding) if the limits permit it.

    Raises:
        InvalidConfig: if the shape is another one, a number is not finite, or q is not in
            0..m-1.
    """
    return certify_array(_checked(directions, q), int(q), limit, programs, seed, True)


def certify_array(
    d_i: np.ndarray, q: int, limit: int, programs: int, seed: int, sure: bool
) -> Certificate:
    """As `certify`; unless `sure`, low may be -inf where a bound would take linear programs."""
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
        if blind is not None:  # a direction that no worker is asked about
            parts.append(Certificate(0.0, 0.0, blind, (), "edges"))
        for n in range(1 + (block is not None and blind is not None)):
            witness = np.zeros(d)
            witness[columns] = parts[-1 - n].witness
            parts[-1 - n] = parts[-1 - n]._replace(witness=witness)
    return _combine(d_i, parts, q, programs, scale)


def _checked(directions: Any, q: Any) -> np.ndarray:
    check_integer("certify", "q", q, 0)
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
    """Returns groups of coordinates that no row joins; eta is the least of their margins."""
    used = scipy.sparse.csr_array(d_i.reshape(-1, d_i.shape[2]) != 0)
    graph = scipy.sparse.block_array([[None, used], [used.T, None]]).tocsr()
    found: Any = scipy.sparse.csgraph.connected_components(graph, directed=False)
    label = found[1][d_i.shape[0] * d_i.shape[1] :]  # rows first
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _whitened(rows: np.ndarray) -> tuple[Block | None, np.ndarray | None]:
    """Returns rows in an orthonormal basis, and a unit vector orthogonal to all, or None."""
    m, k, d = rows.shape
    if not k:
        return None, np.eye(d)[0]
    flat = rows.reshape(-1, d)
    sizes = np.abs(flat).max(axis=0)  # the scales of coordinates
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
    return Block(rows, white, back, (float(spread[-1]), float(spread[0]))), blind


def _combine(
    d_i: np.ndarray, parts: list[Certificate], q: int, programs: int, scale: float
) -> Certificate:
    """Combines the certificates of the blocks; if several fail, J can act on all of them."""
    lows, highs = (np.array([getattr(part, end) for part in parts]) for end in ("low", "high"))
    worst = parts[int(np.argmin(highs))]
    witness, high, how = worst.witness, worst.high, worst.how
    low = float(lows.min()) if lows.min() >= 0 else -math.hypot(*np.minimum(lows, 0))
    if (highs < 0).sum() > 1:
        joint = np.sum([-min(part.high, 0) * part.witness for part in parts], axis=0)
        joint /= np.linalg.norm(joint)
        height = float(margins_of(d_i, joint[None], q)[0])
        if height < high:
            witness, high = joint, height
        if low < high and cases_of(d_i, q) <= programs:
            low, witness = least_squares(d_i, q)
            high, how = low, "least squares"
    low = min(low, high)
    sizes = np.abs(d_i @ witness).sum(axis=1)
    adversaries = tuple(sorted(np.argsort(-sizes, kind="stable")[:q].tolist()))
    return Certificate(scale * low, scale * high, witness, adversaries, how)


def _decide(
    block: Block, q: int, limit: int, programs: int, seed: int, sure: bool
) -> Certificate:
    """Returns the certificate of one block."""
    r = block.white.shape[2]
    lines, cases = lines_of(block.white), cases_of(block.rows, q)
    edges = math.comb(len(lines), r - 1)
    complete = edges <= limit and edges * r**3 <= _FLOPS
    found = lowest_of(block, edges_of(lines) if complete else descend(block.white, q, seed), q)
    if complete and found.sign > TINY:
        return Certificate(found.value, found.value, found.witness, (), "edges")
    if complete and found.sign > -TINY:
        return Certificate(0.0, 0.0, found.witness, (), "edges")
    if found.sign <= 0 and cases <= programs:  # it fails; this finds by how much
        deepest, below = least_squares(block.rows, q)
        if deepest < 0:
            return Certificate(deepest, deepest, below, (), "least squares")
    if complete:
        found = lowest_of(block, descend(block.white, q, seed), q)
    if not sure:
        return Certificate(-math.inf, found.value, found.witness, (), "bounds")
    least, most = block.spread
    work = r * cases * block.white[..., 0].size ** 2
    if found.sign > 0 and r * cases <= programs and work <= _WORK:
        # |w|_inf <= |w|_2 <= sqrt(r) |w|_inf, and |w| is at least `least` |v|.
        lowest, corner = linear_programs(block.white, q)
        other = lowest_of(block, [corner[None]], q)
        found = min(found, other, key=lambda one: one.value)
        low = lowest - SURE
        low = low / math.sqrt(r) * least if low > 0 else low * most
        low = 0.0 if abs(lowest) <= SURE and found.value <= 0 else low
        return Certificate(low, found.value, found.witness, (), "linear programs")
    factor = relative_margin(block.white, q)
    low = factor * least if factor > 0 else factor * math.sqrt(block.white[..., 0].size) * most
    return Certificate(low, found.value, found.witness, (), "bounds")
