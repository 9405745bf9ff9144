"""The bound on the error of FAR-SIGN's averages, with its constants.

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026,
    Propositions A.2 and C.2, Corollary C.3 and Table 4. The constants are derived in
    `tracking_bound`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array
from farsign_jax.step_sizes import TwoTimeScales
from farsign_jax.validation import check_integer, require


def discounted_sum(events: int, theta: float, q: float, c: float = 1.0) -> np.ndarray:
    """Returns S_n, 1 <= n <= events, the sum that Proposition A.2 bounds.

    S_n = sum_{k=1}^n (k + 1)^-theta prod_{j=k+1}^n (1 - c (j + 1)^-q), computed from
    S_0 = 0 by S_n = (1 - c (n + 1)^-q) S_(n-1) + (n + 1)^-theta.

    The formulas of the proposition are missing from the text that was available. This is the
    sum to which the recursion of the errors of the averages leads, and the leading term
    n^-(theta - q) / c is reconstructed. The next term of the expansion is derived:
    c n^(theta - q) S_n = 1 + ((theta - q) / c) n^(q - 1) + o(n^(q - 1)).

    Args:
        events: the largest n.
        theta: the exponent of the terms, theta > q.
        q: the exponent of the discount, 0 < q < 1.
        c: the factor of the discount, 0 < c <= 1.

    Returns:
        f64[events] if JAX has 64-bit numbers, as in `experiments.rates`.

    Raises:
        InvalidConfig: if theta, q or c is outside of its range.
    """
    rule = f"the sum needs 0 < q < 1, q < theta, 0 < c <= 1: got q={q}, theta={theta}, c={c}"
    require(0 < q < 1 and q < theta and 0 < c <= 1, rule)
    check_integer("the sum", "events", events, 1)
    n = jnp.arange(1, events + 1, dtype=jnp.result_type(float)) + 1

    def add(total: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        discount, term = now
        total = discount * total + term
        return total, total

    return np.asarray(jax.lax.scan(add, 0 * n[0], (1 - c * n**-q, n**-theta))[1])


def tracking_bound(
    events: int,
    steps: TwoTimeScales,
    *,
    workers: int,
    dim: int,
    smoothness: float,
    first: float,
    variance: float,
    evaluation_variance: float = 0.0,
) -> np.ndarray:
    """Returns u_n >= E|y_n(i) - D_i grad f(x_n)|_2^2 for every honest worker i, n < events.

    It holds for coordinates as directions, one of them per event, `sign_of="old"`, workers that
    are drawn uniformly and asked again as soon as they have answered, and a smooth f. With
    K = m d, u_0 = |grad f(x_0)|^2 and

        u_(n+1) = (sqrt((1 - beta_n / K) u_n + (beta_n / K) b_n^2) + L alpha_n)^2
                  + (beta_n^2 / K) (V + d S / (2 delta_n^2)),
        b_n = L w_n + (L / 2) sqrt(d) r_n,

    where beta_n is at most 1; w_n and r_n are bounds on the root mean squares of
    |x_n - x_asked| and of delta_asked, for the event at which the answer of event n was asked
    for:

        w_(n+1) = sqrt(1 - 1 / m) (w_n + alpha_n),
        r_(n+1)^2 = (1 - 1 / m) r_n^2 + delta_(n+1)^2 / m.

    The average of the pair that answers moves from e to (1 - beta) e + beta (b + noise), the
    square of a convex combination is at most that of the squares, and the gradient changes by
    at most L alpha_n. The noise is independent of all else in event n. The five terms of Table
    4 are V (exponent q), S (q - 2 r), L alpha_n (2 (p - q)), r_n (2 r) and w_n (2 p). The
    constant of Corollary C.3 is max_n (n + 1)^s u_n.

    Args:
        events: the number of values to return.
        steps: the sequences.
        workers: m.
        dim: d.
        smoothness: L.
        first: u_0.
        variance: V, the variance of the noise of the examples' gradients, summed over
            coordinates, at most over workers.
        evaluation_variance: S, the variance of the further noise of each evaluation of zeroth
            order, if it is independent at both points.

    Returns:
        f64[events] if JAX has 64-bit numbers, as in `experiments.rates`.
    """
    n = jnp.arange(events + 1)
    alpha, beta = steps.step_size(n), jnp.clip(steps.average_step(n), 0, 1)
    delta = jnp.ones_like(alpha) if steps.delta is None else steps.delta(n)
    difference = steps.delta is not None
    pairs, stays = workers * dim, 1 - 1 / workers
    noise = variance + (dim * evaluation_variance / (2 * delta**2) if difference else 0 * delta)

    def event(carry: tuple[Array, ...], now: tuple[Array, ...]) -> tuple[Any, Array]:
        u, moved, radius_squared = carry
        alpha, beta, noise, next_delta = now
        bias = smoothness * moved
        if difference:
            bias += smoothness / 2 * jnp.sqrt(dim * radius_squared)
        mean = (1 - beta / pairs) * u + beta / pairs * bias**2
        after = (jnp.sqrt(mean) + smoothness * alpha) ** 2 + beta**2 / pairs * noise
        radius_squared = stays * radius_squared + next_delta**2 / workers
        return (after, jnp.sqrt(stays) * (moved + alpha), radius_squared), u

    wide = jnp.result_type(float)
    sequences = (alpha[:-1], beta[:-1], noise[:-1], delta[1:])
    sequences = tuple(jnp.asarray(s, wide) for s in sequences)
    begin = tuple(jnp.asarray(v, wide) for v in (first, 0.0, delta[0] ** 2))
    return np.asarray(jax.lax.scan(event, begin, sequences)[1])
