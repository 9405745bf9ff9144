"""Parts of `far_sign`: weights of its steps, admission of answers, signs and gains.

Each part is a plain function, so that it can be replaced by a function of one's own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import directions
from farsign_jax.base import Array, Problem
from farsign_jax.directions import importance
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.directions.importance import Sampler
from farsign_jax.models.structure import MLPStructure
from farsign_jax.oracles.coordinate_mlp import touch
from farsign_jax.validation import is_concrete, lookup, require

_SEEDED = 0x5EED  # keeps the key of the directions apart from those of runs (`keys`)
WEIGHTS = ("none", "inverse")  # how the steps of a sampler may be weighted

ArrivalWeights = Callable[[Array, Array], Array]
"""(counts i32[m], workers i32[s]) -> the weights of their steps, f32[s, 1]."""

Admission = Callable[[Array, Array], Array]
"""(counts i32[m], workers i32[s]) -> i32[s], m in the place of a worker that is ignored."""

Sign = Callable[[Array], Array]
"""Averages f32[s, k] -> how far x moves along each direction, in [-1, 1], f32[s, k]."""


def arrival_weights(
    num_workers: int, rates: Any, max_weight: float | Array = 10.0
) -> ArrivalWeights | None:
    """Weights that remove the pull of workers that answer more often than others.

    The step of worker i is multiplied by 1 / (m p_i), where p_i is its relative arrival rate.

    Args:
        num_workers: m.
        rates: f32[m], relative rates p_i that are known beforehand; or "estimate", rates that
            are counted on line, (c_i + 1) / sum(c + 1); or None or "none", no weights.
        max_weight: the upper bound of the weights.

    Returns:
        The weights for `far_sign`, or None.

    Raises:
        InvalidConfig: if the rates are not m positive, finite numbers, or max_weight <= 0.
    """
    m = num_workers
    require(max_weight > 0, f"far_sign needs max_weight > 0: got {max_weight}")
    if rates is None or (isinstance(rates, str) and rates == "none"):
        return None
    estimate = isinstance(rates, str)
    if estimate:
        rule = f"arrival_rates is None, 'estimate' or m rates: got {rates!r}"
        require(rates == "estimate", rule)
    else:
        rule = f"far_sign needs m={m} arrival rates: got shape {np.shape(rates)}"
        require(np.shape(rates) == (m,), rule)
        if is_concrete(rates):
            rates = np.asarray(rates, np.float64)  # even rates weigh exactly 1
        positive = (rates > 0) & (rates < float("inf"))
        require(positive, f"arrival rates must be positive and finite: got {rates}")

    def weights(counts: Array, worker: Array) -> Array:
        p: Any = (counts + 1).astype(jnp.float32) if estimate else rates
        every = jnp.asarray(p.sum() / (m * p), jnp.float32)  # f32[m]
        return jnp.minimum(every[worker], max_weight)[:, None]

    return weights


def rate_cap(
    num_workers: int, factor: float | None, rank: int | None = None, burst: int | Array = 10
) -> Admission | None:
    """A cap on the number of answers, against workers that flood the server.

    Worker i is admitted while c_i < burst + factor * C, where c_i counts its admitted answers
    and C is the `rank`-th largest count of all workers; beyond that it is ignored, as if it had
    not answered. No clock is involved, which a flood would drive. q Byzantine workers then have
    the weight of at most factor * q workers, so that factor * q < m - q is needed.

    Args:
        num_workers: m.
        factor: c >= 1; None, every answer is admitted.
        rank: the rank of the count that a cap follows, by default the middle one, m // 2 + 1,
            which fewer than half of the workers cannot raise. Any rank above q will do; if
            fewer workers than that are alive, the others eventually reach their cap.
        burst: the number of answers that every worker may give ahead of the others.

    Returns:
        The admission rule for `far_sign`, or None.

    Raises:
        InvalidConfig: if the factor or the burst is below 1, or the rank is not in 1..m.
    """
    m = num_workers
    rule = f"far_sign needs rate_cap >= 1 or None: got {factor}"
    require(factor is None or 1 <= factor < float("inf"), rule)
    rule = f"far_sign needs 1 <= cap_rank <= m={m}: got {rank}"
    require(rank is None or 1 <= rank <= m, rule)
    require(burst >= 1, f"far_sign needs cap_burst >= 1: got {burst}")
    if factor is None:
        return None

    def admit(counts: Array, worker: Array) -> Array:
        others = jnp.sort(counts)[m - (rank or m // 2 + 1)].astype(jnp.float32)
        own = counts[worker].astype(jnp.float32)
        return jnp.where(own < burst + factor * others, worker, m)

    return admit


def soft_sign(width: float) -> Sign:
    """A sign that is smaller where an average is small: clip(y / (width * mean |y|), -1, 1).

    Args:
        width: c >= 0; 0 stands for the sign itself. The mean is over the directions of an
            answer.

    Returns:
        The sign for `far_sign`.

    Raises:
        InvalidConfig: if the width is negative.
    """
    require(width >= 0, f"far_sign needs soft >= 0: got {width}")
    if not width:
        return jnp.sign

    def sign(y: Array) -> Array:
        usual = jnp.mean(jnp.abs(y), axis=-1, keepdims=True)
        return jnp.where(usual > 0, jnp.clip(y / (width * usual), -1, 1), 0)

    return sign


def make_dictionary(dim: int, k: int, seeded: int | None) -> Dictionary:
    """The d coordinates, or `seeded` directions of the unit sphere, the same for all seeds.

    Directions are drawn again from their numbers, so that no vector is stored or sent.
    """
    if seeded is None:
        return directions.identity(dim, k)
    key = jax.random.fold_in(jax.random.key(0), _SEEDED)
    return directions.seeded(dim, seeded, k, key)


def last_layer_gain(
    problem: Problem, dictionary: Dictionary, factor: float
) -> Callable[[Array], Array] | None:
    """Returns the gain that multiplies the steps in the last layer of an MLP by `factor`.

    Raises:
        InvalidConfig: if the model is no MLP, x does not move along coordinates, or the factor
            is negative.
    """
    if factor == 1:
        return None
    require(dictionary.coordinates, f"last_layer={factor} needs steps along coordinates")
    rule = "last_layer is about the layers of an MLP"
    require(isinstance(problem.structure, MLPStructure), rule)
    require(factor >= 0, f"far_sign needs last_layer >= 0: got {factor}")
    last = problem.structure.layers[-1]

    def gain(j: Array) -> Array:
        return jnp.where(touch(last, j).here, jnp.asarray(factor, jnp.float32), 1.0)

    return gain


def make_sampler(
    dictionary: Dictionary, score: str, floor: float, weights: str
) -> Sampler | None:
    """Returns the sampler of `directions.importance` by name; None for "uniform".

    Raises:
        InvalidConfig: on an unknown name, or a floor that `importance` refuses.
    """
    lookup("weights", weights, dict.fromkeys(WEIGHTS))
    lookup("sampler", score, {"uniform": None} | importance.VOTES)
    if score == "uniform":
        return None
    return importance.importance(
        dictionary.size,
        dictionary.per_query,
        score=score,
        floor=floor,
        inverse=weights == "inverse",
    )
