"""Attacks on messages: the numbers that a Byzantine worker sends instead of its honest answer.

A Byzantine worker sees everything (`View`): the state of the server, which workers are
Byzantine, and what every worker has reported about the directions in question. It controls the
numbers that it sends and nothing else. `report.value` is its honest answer, f32[k].

Where the field disagrees, the definition of the original paper is the default and the others
are options. Attacks that use what other workers reported are in `omniscient`.

`make` adds the option `space` to every attack. A worker of CYBER-0 measures k derivatives and
sends a gradient made of them, so that a Byzantine worker may replace the gradient ("message",
the default of all attacks but `constant`) or the derivatives ("measured"). For all other
methods the two are the same.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import jax
import jax.numpy as jnp

from farsign_jax.attacks.omniscient import ipm
from farsign_jax.attacks.stateless import check_finite, like, stateless
from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import lookup, require


def none() -> Attack:
    """Sends the honest answer."""
    return stateless(lambda report, view, key: report.value)


def sign_flip(scale: float = 1.0, source: str = "own") -> Attack:
    """Sends -scale * g, where g is its own honest answer or the mean of the honest answers.

    Args:
        scale: the factor; 1 in Damaskinos et al., ICML 2018; 10 in the negative gradient attack
            ("NG-attack") of BASGD (Yang and Li, ICML 2021).
        source: "own", where g is the Byzantine worker's own honest answer, or "honest_mean",
            the mean of what honest workers reported (ByzFL).

    Raises:
        InvalidConfig: if `source` is neither, or the scale is not finite.
    """
    require(
        source in ("own", "honest_mean"), f"source is 'own' or 'honest_mean': got {source!r}"
    )
    check_finite("sign_flip", "scale", scale)
    if source == "own":
        return stateless(lambda report, view, key: -like(report, scale) * report.value)
    return ipm(epsilon=scale)


def constant(value: float = 100.0) -> Attack:
    """Sends the same number in every entry ("same value", Li et al., "RSA", AAAI 2019).

    Its space is "measured": a gradient whose entries are all moved in the same direction
    defeats even a coordinate-wise median.

    Args:
        value: the number, in the units of an answer.
    """
    attack = stateless(lambda report, view, key: jnp.full_like(report.value, value))
    return attack._replace(space="measured")


def gaussian(std: float = 100.0) -> Attack:
    """Sends fresh N(0, std^2) numbers, whatever the honest answer is (Blanchard et al., 2017).

    Args:
        std: the standard deviation, >= 0, in the units of an answer.

    Raises:
        InvalidConfig: if std is negative or not finite.
    """
    require(std >= 0, f"gaussian needs a finite std >= 0: got {std}")
    check_finite("gaussian", "std", std)

    def forge(report: Report, view: View, key: Key) -> Array:
        noise = jax.random.normal(key, report.value.shape, report.value.dtype)
        return like(report, std) * noise

    return stateless(forge)


def random_disturbance(scale: float = 0.2) -> Attack:
    """Adds fresh noise to its own honest answer, g + scale * |g| * N(0, I) ("RD-attack").

    |g| is the Euclidean norm of the whole answer, so that the noise is longer than g by a
    factor of about scale * sqrt(k), in gradients as well as in derivatives along k directions.

    Args:
        scale: the standard deviation of the noise as a multiple of |g|, >= 0.

    Raises:
        InvalidConfig: if the scale is negative or not finite.

    References:
        Yang and Li, "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021, in
        whose experiments the scale is 0.2.
    """
    require(scale >= 0, f"random_disturbance needs a finite scale >= 0: got {scale}")
    check_finite("random_disturbance", "scale", scale)

    def forge(report: Report, view: View, key: Key) -> Array:
        g, limits = report.value, jnp.finfo(report.value.dtype)
        largest = jnp.maximum(jnp.abs(g).max(initial=0), limits.tiny)
        length = largest * jnp.linalg.norm(g / largest)  # no square over- or underflows
        noise = jax.random.normal(key, g.shape, g.dtype)
        return g + jnp.minimum(like(report, scale) * length, limits.max) * noise

    return stateless(forge)


def nonfinite(kind: str = "mixed") -> Attack:
    """Sends numbers that break arithmetic: NaN, +inf, -inf and 3e38.

    Args:
        kind: "nan", "inf", "huge", or "mixed", which draws one of the four for each entry.

    Raises:
        InvalidConfig: if `kind` is none of these.
    """
    kind = str(kind)  # a parser of options may have read "inf" as a number
    table = {"nan": jnp.nan, "inf": jnp.inf, "huge": 3e38}
    if kind != "mixed":
        return constant(lookup("kind of nonfinite", kind, table | {"mixed": None}))

    def forge(report: Report, view: View, key: Key) -> Array:
        worst = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 3e38], report.value.dtype)
        return worst[jax.random.randint(key, report.value.shape, 0, 4, jnp.int32)]

    return stateless(forge)
