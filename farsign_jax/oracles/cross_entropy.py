"""How the cross entropy changes when the logits move along a line, without cancellation.

For one example with probabilities p_c, logits that change by D_c change its loss by

    log(sum_c p_c exp(D_c)) - D_label = log1p(exp(-D_label) * sum_c q_c expm1(D_c))

with q the gradient of the loss in the logits: p_c, but -(1 - p_label) at the label. No two
losses are subtracted, so float32 keeps the answer where their difference would lose it.

Where coordinate j moves the logits of example i by D = f_ji * r_j, a factor times a row, the
sum over classes is a power series in f_ji whose coefficients are products of matrices,

    sum_c q_ic expm1(f_ji r_jc) = sum_n f_ji^n * ((r^n / n!) @ q.T)_ji,

and few terms are as exact as the number format if no logit moves by more than `REACH`.
Exponentials take over where one does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, PyTree

REACH = 1 / 32  # of a change of logits that the series takes


def gradient(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Losses f[b] of logits f[b, c], and their gradient q f[b, c], exact where it is small."""
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    log_p = jax.nn.log_softmax(logits)
    others = jnp.where(is_label, 0, jnp.exp(log_p))
    q = jnp.where(is_label, -others.sum(axis=-1, keepdims=True), others)
    return -jnp.where(is_label, log_p, 0).sum(axis=-1), q


def change(q: Array, own: Array, moves: Array) -> Array:
    """Changes of losses, f[...], by changes of logits `moves` f[..., c], `own` at the label."""
    return jnp.log1p(jnp.exp(-own) * jnp.sum(q * jnp.expm1(moves), axis=-1))


def num_terms(dtype: Any) -> int:
    """Returns the number of terms whose remainder is at most an eighth of the rounding."""
    n, error = 1, REACH / 2
    while error > jnp.finfo(dtype).eps / 8:
        n, error = n + 1, error * REACH / (n + 2)
    return n


def mean_changes(q: Array, labels: Array, rows: Array, factors: Sequence[Array]) -> list[Array]:
    """Returns how the mean loss changes when the logits of example i move by f[j, i] * rows[j].

    Args:
        q: f[b, c], of `gradient`.
        labels: i32[b].
        rows: f[k, c].
        factors: the factors f[k, b]; each gives one result.

    Returns:
        f[k] for each of the `factors`.
    """
    if not factors:
        return []
    own = rows @ jax.nn.one_hot(labels, q.shape[-1], dtype=q.dtype).T  # [k, b]

    def by_exponentials():
        moves = [factor[..., None] * rows[:, None] for factor in factors]
        return [
            change(q[None], f * own, m).mean(-1) for f, m in zip(factors, moves, strict=True)
        ]

    def by_series():
        powers = [rows]
        for n in range(2, num_terms(q.dtype) + 1):
            powers.append(powers[-1] * rows / n)
        terms = list((jnp.concatenate(powers) @ q.T).reshape(-1, *own.shape))
        # Side by side in memory: on a CPU, XLA makes one slow kernel of a reduction and all the
        # arithmetic before it.
        return list(jnp.stack([_series(terms, factor, own) for factor in factors]).mean(-1))

    furthest = jnp.stack([jnp.abs(factor).max(-1) for factor in factors]).max(0)
    far = ~jnp.all(furthest * jnp.abs(rows).max(-1) <= REACH)  # NaN is far
    return jax.lax.platform_dependent(
        cpu=lambda: _unless(far, by_series, by_exponentials), default=by_exponentials
    )


def _series(terms: Sequence[Array], factor: Array, own: Array) -> Array:
    """log1p(exp(-f * own) * sum_n f^n terms_n), all three functions by their series."""
    spread = _polynomial(terms, factor) * factor
    count = len(terms) + 1
    scaled = _polynomial([1 / math.factorial(n) for n in range(count)], -factor * own) * spread
    ratio = scaled / (2 + scaled)  # log1p(v) = 2 artanh(v / (2 + v))
    return 2 * ratio * _polynomial([1 / (2 * n + 1) for n in range(count)], ratio * ratio)


def _polynomial(coefficients: Sequence, at: Array) -> Array:
    *lower, value = coefficients
    for coefficient in reversed(lower):
        value = coefficient + at * value
    return value


def _unless(rarely: Array, usual: Callable[[], PyTree], other: Callable[[], PyTree]) -> PyTree:
    """Returns `other()` if `rarely`, else `usual()`.

    Under vmap a condition computes both sides. A loop of at most one round, whose condition
    is vmapped, continues only while some run of the batch needs it.
    """

    def replace(carry):
        # Within a condition, or XLA would compute before the loop whatever does not change in
        # it, and so at every event.
        return jnp.zeros_like(rarely), jax.lax.cond(carry[0], other, lambda: carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], replace, (rarely, usual()))[1]
