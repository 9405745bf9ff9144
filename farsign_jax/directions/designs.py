"""Designs of directions with a large margin."""

import math
from typing import NamedTuple

import numpy as np

from farsign_jax.directions.margin import Certificate, certify, certify_array
from farsign_jax.directions.margin_search import TINY
from farsign_jax.validation import check_integer, require


class Design(NamedTuple):
    """Directions and what is known about their margin."""

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
    """Searches for unit directions with a large margin against q Byzantine workers.

    Args:
        num_workers: m. Without any 2 q of them the others must still span R^d, since otherwise
            Byzantine workers decide along some direction: (m - 2 q) K >= d.
        dim: d.
        q: the number of Byzantine workers.
        per_worker: K, the number of directions of each worker: 1 takes O(m) memory, d takes
            O(m d).
        method: "random", the best of `tries` draws from the sphere; "equiangular", rows as far
            from each other as possible, by descent on their coherence; "optimised", the better
            of both, followed by ascent on the margin itself, at its worst v.
        tries: the number of random draws, of which the best is taken.
        steps: the number of steps of the descent, and of the ascent.
        seed: the seed of the draws.

    Returns:
        The directions and their `Certificate`. Its `holds` is False if the search has found no
        directions with a positive margin.

    Raises:
        InvalidConfig: if no dictionary of this size has a positive margin, or the method is
            unknown.
    """
    m, k = (
        check_integer("design", "num_workers", num_workers, 1),
        check_integer("design", "K", per_worker, 1),
    )
    d, tries = (
        check_integer("design", "dim", dim, 1),
        check_integer("design", "tries", tries, 1),
    )
    rule = "design needs 0 <= q and (m - 2 q) K >= d"
    require(
        0 <= check_integer("design", "q", q, 0) < m and (m - 2 * q) * k >= d,
        f"{rule}: got m={m}, q={q}, K={k}, d={d}",
    )
    require(method in DESIGNS, f"method is one of {', '.join(DESIGNS)}: got {method!r}")
    rng = np.random.default_rng(seed)

    def value(d_i: np.ndarray) -> float:  # cheap: a value of the bracket, or eta
        return certify_array(d_i, q, 5_000, 0, 0, False).high

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
    """Spreads lines by descent on a high power of their cosines."""
    flat = d_i.reshape(-1, d_i.shape[2])
    for step in 0.3 * np.linspace(1, 0.01, steps):
        cosines = flat @ flat.T
        np.fill_diagonal(cosines, 0)
        weight = np.sign(cosines) * (np.abs(cosines) / max(np.abs(cosines).max(), TINY)) ** 15
        flat = _unit(flat - step * weight @ flat)
    return flat.reshape(d_i.shape)


def _ascend(d_i: np.ndarray, q: int, steps: int) -> np.ndarray:
    """Raises the bracket where it is lowest: honest rows turn towards v, those of J away."""
    best, most = d_i, -math.inf
    for step in 0.1 * np.linspace(1, 0.01, steps):
        found = certify_array(d_i, q, 20_000, 0, 0, False)
        if found.high > most:
            best, most = d_i, found.high
        v = found.witness
        side = np.ones(len(d_i))
        side[list(found.adversaries)] = -1
        d_i = _unit(d_i + step * side[:, None, None] * np.sign(d_i @ v)[..., None] * v)
    return best
