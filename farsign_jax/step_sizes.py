"""Step sizes: optax schedules, and the sequences that the theorems require."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from farsign_jax.base import Schedule
from farsign_jax.validation import require


def as_schedule(value: Any) -> Schedule:
    """Returns a schedule unchanged, and a number, traced or not, as a constant schedule."""
    return value if callable(value) else lambda step: jnp.asarray(value, jnp.float32)


def check_step_size(method: str, step_size: Any) -> Schedule:
    """Returns `as_schedule(step_size)`.

    Raises:
        InvalidConfig: if it is a number and not a finite one > 0.
    """
    if not callable(step_size):
        rule = f"{method} needs a finite step_size > 0: got {step_size}"
        require((step_size > 0) & (step_size < float("inf")), rule)
    return as_schedule(step_size)


def staircase(initial: Any, decay: float = 0.9, every: int = 1000) -> Schedule:
    """Returns `initial * decay ** floor(step / every)`, the decay of the MNIST experiment."""
    schedule = optax.exponential_decay(1.0, every, decay, staircase=True)
    return lambda step: jnp.asarray(initial, jnp.float32) * schedule(jnp.float32(step))


def power(scale: Any, exponent: Any, stability: Any = 0.0) -> Schedule:
    """Returns `scale / (step + 1 + stability) ** exponent`.

    Without `stability` these are the sequences of the theorems (Remark 2.1).
    """

    def schedule(step: Any) -> Any:
        return scale / (jnp.asarray(step, jnp.float32) + (1 + stability)) ** exponent

    return schedule


class TwoTimeScales(NamedTuple):
    """The three sequences of the theorems, each `scale / (n + 1) ** exponent`."""

    step_size: Schedule  # alpha_n
    average_step: Schedule  # beta_n, may begin above 1 (`far_sign` clips it)
    delta: Schedule | None  # delta_n; None where feedback is first-order
    exponents: tuple[float, float, float]  # p, q, r
    rate: float  # the ergodic gradient norm is O(n^-rate)


# The exponents with the largest min(1 - p, s / 2), up to epsilon (Appendix C). Feedback is of
# first order, or of zeroth order with "independent" or "coupled" noise in both evaluations.
_BEST = {
    ("first", None): (3 / 4, 1 / 2, 0.0),
    ("zeroth", "independent"): (5 / 6, 2 / 3, 1 / 6),
    ("zeroth", "coupled"): (3 / 4, 1 / 2, 1 / 4),
}


def _check_feedback(order: str, noise: str | None) -> None:
    rule = "order is 'first' (noise None) or 'zeroth' (noise 'independent' or 'coupled')"
    require((order, noise) in _BEST, f"{rule}: got order={order!r}, noise={noise!r}")


def assumption_4(
    p: float, q: float, r: float = 0.0, *, order: str, noise: str | None = None
) -> None:
    """Checks Assumption 4 for alpha_n ~ n^-p, beta_n ~ n^-q, delta_n ~ n^-r (Remark 2.1).

    Raises:
        InvalidConfig: if a condition does not hold; the message names the first one.
    """
    _check_feedback(order, noise)
    rules = [
        (p <= 1, "sum alpha = inf needs p <= 1"),
        (q < p, "alpha / beta -> 0 needs q < p"),
        (2 * q > 1, "sum beta^2 < inf needs 2 q > 1"),
        (2 * p - q > 1, "sum alpha^2 / beta < inf needs 2 p - q > 1"),
    ]
    if order == "zeroth":
        rules += [(r > 0, "delta -> 0 needs r > 0")]
        rules += [(q + 2 * r > 1, "sum beta delta^2 < inf needs q + 2 r > 1")]
    if noise == "independent":
        rules += [(2 * q - 2 * r > 1, "sum (beta / delta)^2 < inf needs 2 q - 2 r > 1")]
    for holds, rule in rules:
        require(holds, f"Assumption 4: {rule}: got p={p:g}, q={q:g}, r={r:g}")


def tracking_rate(
    p: float, q: float, r: float = 0.0, *, order: str, noise: str | None = None
) -> float:
    """Returns s in E|y_n - D grad f(x_n)|^2 = O(n^-s), the smallest exponent in Table 4.

    The exponents are q, of the noise of an answer, or q - 2 r if it is divided by delta;
    2 (p - q), of the movement of x; and 2 r, of the curvature in a finite difference. That of
    staleness, 2 p, is never the smallest.
    """
    _check_feedback(order, noise)
    terms = [q - 2 * r if noise == "independent" else q, 2 * (p - q)]
    return min([*terms, 2 * r] if order == "zeroth" else terms)


def theory(
    *,
    order: str,
    noise: str | None = None,
    eps: float = 0.01,
    step_size: Any = 0.5,
    average_step: Any = 1.0,
    delta: Any = 0.5,
    pairs: int = 1,
    exponents: tuple[float, float, float] | None = None,
) -> TwoTimeScales:
    """Returns the sequences for which Theorems 2.5 and 2.7 give the best rate, less `eps`.

    At the optimum itself every sum of Assumption 4 is harmonic and diverges. Almost sure
    convergence therefore needs p and q that are larger by eps, which reduces the rate by eps.

    Args:
        order: "first", with (p, q) = (3/4, 1/2) and rate 1/4; or "zeroth", which depends on
        noise: "independent", (p, q, r) = (5/6, 2/3, 1/6), rate 1/6; or "coupled",
            (3/4, 1/2, 1/4), rate 1/4.
        eps: added to p and q, 0 < eps < rate.
        step_size: scale of alpha, a number or tracer.
        average_step: scale of beta, a number or tracer.
        delta: scale of the perturbation, a number or tracer.
        pairs: number of (worker, direction) pairs that an event may be about. Each of them is
            updated so much more rarely, and beta is larger by this factor.
        exponents: p, q and r to use instead of the best ones.

    Raises:
        InvalidConfig: if Assumption 4 does not hold, or a scale is not positive.
    """
    _check_feedback(order, noise)
    if exponents is None:
        p, q, r = _BEST[order, noise]
        require(0 < eps < 1 - p, f"theory needs 0 < eps < {1 - p:.3g}: got {eps}")
        exponents = (p + eps, q + eps, r)
    p, q, r = exponents
    assumption_4(p, q, r, order=order, noise=noise)
    for name, scale in (
        ("step_size", step_size),
        ("average_step", average_step),
        ("delta", delta),
        ("pairs", pairs),
    ):
        require((scale > 0) & (scale < float("inf")), f"theory needs {name} > 0: got {scale}")
    return TwoTimeScales(
        power(step_size, p),
        power(average_step * pairs, q),
        power(delta, r) if order == "zeroth" else None,
        exponents,
        min(1 - p, tracking_rate(p, q, r, order=order, noise=noise) / 2),
    )
