"""How large the error of an aggregator can be: the constant kappa, found by search.

An aggregator A is (f, kappa)-robust if for all rows x_1, ..., x_n and every set S of n - f of
them, with mean x_S (Allouah et al., AISTATS 2023, Definition 2)

    |A(x) - x_S|^2 <= kappa / |S| * sum_{i in S} |x_i - x_S|^2.

The search draws honest rows and changes the f others, which all send the same vector, as long
as the ratio grows. It is a lower bound of kappa; no aggregator has less than f / (n - 2 f).
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import aggregators
from farsign_jax.base import Array

DIM = 10
TRIALS, STEPS = 64, 60  # sets of honest rows, and changes of the lie for each


def bound(name: str, n: int, f: int) -> float:
    """The kappa that is proved (Allouah et al., 2023, Table 1); NaN if none is known.

    `rfa` stops before it has found the geometric median, whose kappa it does not have, and a
    rule for fewer than f lies has none.
    """
    if any(int(own) < f for own in re.findall(r"f=(\d+)", name)):
        return float("nan")
    ratio = f / (n - 2 * f)
    known = {
        "krum": 6 * (1 + ratio),
        "median": 4 * (1 + ratio) ** 2,
        "geometric_median": 4 * (1 + ratio) ** 2,
        "trimmed_mean": 6 * ratio * (1 + ratio),
    }
    stages = name.split("+")
    kappa = known.get(stages[-1].partition(":")[0], float("nan"))
    if stages[0].startswith("nnm") and len(stages) == 2:
        kappa = 8 * f / (n - f) * (kappa + 1)
    return kappa


def searched(name: str, n: int, f: int, seed: int = 0) -> float:
    """The largest ratio that a search finds for an aggregator of n rows, f of them lies."""
    rule = aggregators.make(name)
    rng = np.random.default_rng(seed)
    honest = jnp.asarray(_honest(rng, n - f, f), jnp.float32)
    ratio = jax.jit(jax.vmap(_ratio_of(rule, f)))
    center = np.asarray(honest).mean(axis=1)
    spread = np.sqrt(((np.asarray(honest) - center[:, None]) ** 2).sum(axis=2).mean(axis=1))
    lies = center + rng.standard_normal(center.shape) * spread[:, None]
    lies[3::4] = 0  # where most of the rows of the last kind are
    best = np.array(ratio(honest, jnp.asarray(lies, jnp.float32)))
    for step in range(STEPS):
        size = 3.0 * 0.93**step
        tried = lies + size * rng.standard_normal(lies.shape) * spread[:, None]
        if step % 3 == 0:  # along the line from the centre
            tried = center + (lies - center) * np.exp(rng.standard_normal((len(lies), 1)))
        found = np.asarray(ratio(honest, jnp.asarray(tried, jnp.float32)))
        better = found > best
        lies[better], best[better] = tried[better], found[better]
    return float(best.max())


def _honest(rng: np.random.Generator, count: int, f: int) -> np.ndarray:
    """Honest rows [TRIALS, count, DIM]: of normal, heavy-tailed and two-point noise, and such
    that f of them differ from all others, which no aggregator can tell from f lies."""
    shape = TRIALS, count, DIM
    few = np.broadcast_to(np.arange(count)[:, None] < f, shape)
    kinds = rng.standard_normal(shape), rng.standard_t(2, shape), rng.integers(0, 2, shape), few
    rows = np.stack([kinds[trial % 4][trial] for trial in range(TRIALS)]).astype(float)
    dims = rng.integers(1, DIM + 1, TRIALS)  # in how many coordinates they differ
    return rows * (np.arange(DIM) < dims[:, None])[:, None]


def _ratio_of(rule: Callable[..., Array], f: int) -> Callable[[Array, Array], Array]:
    def ratio(honest: Array, lie: Array) -> Array:
        rows = jnp.concatenate([honest, jnp.broadcast_to(lie, (f, lie.size))])
        center = honest.mean(axis=0)
        spread = jnp.mean(jnp.sum((honest - center[None]) ** 2, axis=1))
        error = jnp.sum((rule(rows, key=jax.random.key(0)) - center) ** 2)
        return error / jnp.maximum(spread, 1e-12)

    return ratio
