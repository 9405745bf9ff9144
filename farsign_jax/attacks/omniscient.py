"""Attacks on messages that know what honest workers reported, in O(m k) per message."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import ndtri

from farsign_jax.attacks.stateless import check_finite, like, stateless
from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import check_integer, require, sanitize

_LARGEST = 1e15  # of a report in a statistic


def _honest(report: Report, view: View, ddof: int = 0) -> tuple[Array, Array]:
    """The mean and the standard deviation of what honest workers reported, f32[k] each.

    Where fewer than two honest reports have been received, the mean is the Byzantine worker's
    own honest answer and the deviation is 0. Numbers that are not finite count as 0 and huge
    ones are clipped, so that their squares have a sum.
    """
    dtype = report.value.dtype
    received = view.received & ~view.byzantine[:, None]  # [m, k]
    reported = sanitize(view.reported, _LARGEST)

    def total(numbers: Array) -> Array:
        """The sum over workers, on a CPU ten times faster than a sum along axis 0."""
        ones = jnp.ones(numbers.shape[:1], dtype)
        return jnp.matmul(ones, numbers.astype(dtype), precision="highest")

    count = total(received)
    mean = total(jnp.where(received, reported, 0)) / jnp.maximum(count, 1)
    squares = total(jnp.where(received, (reported - mean[None]) ** 2, 0))
    std = jnp.sqrt(squares / jnp.maximum(count - ddof, 1))
    enough = count >= 2
    return jnp.where(enough, mean, report.value), jnp.where(enough, std, 0)


def alie_z(num_workers: int, num_byzantine: Array | int, dtype: Any = jnp.float32) -> Array:
    """The largest z that rules by majority accept, Baruch et al., 2019, Algorithm 3.

    With s = floor(n / 2 + 1) - q supporters needed among the n - q honest workers,
    z = Phi^-1((n - q - s) / (n - q)). Where the Byzantine workers need no supporter (s <= 0),
    the formula does not apply and z is 1.5, as in the authors' experiments. Where it needs all
    honest workers (n <= 2), which support no finite deviation, z is 0.

    Args:
        num_workers: n.
        num_byzantine: q.
        dtype: the type of the result.

    Returns:
        z, f[].
    """
    n, q = num_workers, jnp.asarray(num_byzantine, dtype)
    supporters = n // 2 + 1 - q
    honest = n - q
    z = ndtri((honest - supporters) / honest)
    return jnp.where(supporters > 0, jnp.where(supporters < honest, z, 0), 1.5).astype(dtype)


def alie(z: float | None = None, sign: int = -1, ddof: int = 0) -> Attack:
    """A little is enough: mean + sign * z * std of what honest workers reported, per entry.

    Args:
        z: the number of standard deviations: None for the paper's formula `alie_z`, or a fixed
            number, 1.5 in the authors' code and ByzFL, 1.035 in Garfield.
        sign: -1 as in the paper; +1 in ByzFL and Blades.
        ddof: the degrees of freedom that the variance is corrected for: 0 as in the authors'
            code; 1 in ByzFL and Blades.

    Raises:
        InvalidConfig: if sign or ddof is none of these, or z is not finite.

    References:
        Baruch, Baruch and Goldberg, "A Little Is Enough", NeurIPS 2019, Algorithm 3.
    """
    require(sign in (-1, 1), f"alie needs sign -1 or 1: got {sign}")
    require(ddof in (0, 1), f"alie needs ddof 0 or 1: got {ddof}")
    if z is not None:
        check_finite("alie", "z", z)

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, std = _honest(report, view, ddof)
        if z is None:
            size = alie_z(view.byzantine.size, view.byzantine.sum(), mean.dtype)
        else:
            size = like(report, z)
        return mean + int(sign) * size * std

    return stateless(forge, omniscient=True)


def ipm(epsilon: float = 0.1) -> Attack:
    """Inner product manipulation: sends -epsilon * the mean of what honest workers reported.

    Args:
        epsilon: the factor; 0.1 hides below the honest noise; 2 in ByzFL; 10 in Garfield
            ("empire").

    Raises:
        InvalidConfig: if epsilon is not finite.

    References:
        Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019.
    """
    check_finite("ipm", "epsilon", epsilon)
    return stateless(
        lambda report, view, key: -like(report, epsilon) * _honest(report, view)[0],
        omniscient=True,
    )


def mimic(target: int | None = None, warmup: int = 100, among: str = "all") -> Attack:
    """Sends what one honest worker reported, so that its data count q times more.

    The worker to imitate maximises <z, g_i> for the direction z along which honest workers
    differ most. z lies in the span of their deviations, so it is kept as one coefficient per
    worker and found by power iteration on what they reported, for `warmup` messages.

    Args:
        target: the worker to imitate; None for the one found as above.
        warmup: the number of messages after which the choice is final.
        among: what `target` counts: "all", the id of a worker, or "honest", the position among
            the honest workers, as in ByzFL (epsilon). If there is no such honest worker, or it
            has not reported yet, the honest answer is sent.

    Raises:
        InvalidConfig: if `among` is neither, or "honest" without a target, or warmup is not a
            whole number; from `init`, if the target is not a worker.

    References:
        Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing", ICLR 2022, Section 3.3 and Appendix B.
    """

    warmup = check_integer("mimic", "warmup", warmup, 0)
    require(warmup < 2**31, f"mimic needs warmup < 2^31: got {warmup}")
    require(among in ("all", "honest"), f"mimic needs among 'all' or 'honest': got {among!r}")
    rule = f"mimic needs a target to find among the honest: got among={among!r} alone"
    require(among == "all" or target is not None, rule)

    def init(num_workers: int) -> tuple[Array, Array]:
        if target is not None:
            rule = f"mimic needs a target in 0..{num_workers - 1}: got {target}"
            require(target in range(num_workers), rule)
        start = jnp.cos(jnp.arange(num_workers, dtype=jnp.float32))  # no worker is special
        return start, jnp.zeros((), jnp.int32)

    def forge(
        state: tuple[Array, Array], report: Report, view: View, key: Key
    ) -> tuple[tuple[Array, Array], Array]:
        weights, count = state  # f32[m], i32[]
        honest = ~view.byzantine
        received = view.received & honest[:, None]
        mean, _ = _honest(report, view)
        reported = sanitize(view.reported, _LARGEST)
        deviation = jnp.where(received, reported - mean[None], 0).astype(jnp.float32)
        step = deviation @ (weights @ deviation)  # [m]
        norms = jnp.linalg.norm(step)
        usable = (norms > 0) & (norms < jnp.inf)
        step = jnp.where(usable, step / jnp.maximum(norms, 1e-30), weights)
        newest = 1 / (count + 1).astype(jnp.float32)
        learned = (1 - newest) * weights + newest * step
        weights = jnp.where(count < warmup, learned, weights)
        if target is None:
            chosen = jnp.argmax(jnp.where(honest, weights, -jnp.inf))
        else:
            chosen = target
        known = view.received[chosen]
        if target is not None and among == "honest":
            at_target = honest & (jnp.cumsum(honest, dtype=jnp.int32) == target + 1)
            chosen = jnp.argmax(at_target)
            known = view.received[chosen] & at_target.any()
        value = jnp.where(known, view.reported[chosen], report.value)
        return (weights, count + 1), value.astype(report.value.dtype)

    return Attack(init, forge, omniscient=True)


def replay() -> Attack:
    """Sends its earlier report again, which is as stale as possible and looks fresh.

    For a method with directions, this is what the server remembers of the worker about these
    directions; for whole gradients, it is the worker's first gradient.
    """

    def forge(report: Report, view: View, key: Key) -> Array:
        i = report.worker
        return jnp.where(view.received[i], view.reported[i], report.value)

    return stateless(forge, omniscient=True)
