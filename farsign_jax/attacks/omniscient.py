"""Attacks that send what honest workers reported, or its negative, in O(m k) per message."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import jax.numpy as jnp

from farsign_jax.attacks.honest import LARGEST, statistics
from farsign_jax.attacks.stateless import check_finite, like, stateless
from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import check_integer, require, sanitize


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
        lambda report, view, key: -like(report, epsilon) * statistics(report, view)[0],
        omniscient=True,
    )


def oracle_flip(scale: float = 1.0, samples: int = 1) -> Attack:
    """Sends -scale times the true answer: the mean of what all honest workers answer now.

    For a server that takes signs, the negative of the true derivative is the worst single
    answer. The Byzantine worker has its own question answered by every honest worker, at the
    present iterate, from fresh mini-batches.

    Args:
        scale: the factor.
        samples: the mini-batches of each honest worker, >= 1. The mean of all is the truth but
            for noise, which is smaller than that of one answer by sqrt(samples * (m - q)).

    Raises:
        InvalidConfig: if scale is not finite or samples is not a whole number >= 1.
    """
    check_finite("oracle_flip", "scale", scale)
    samples = check_integer("oracle_flip", "samples", samples, 1)
    flip = stateless(
        lambda report, view, key: -like(report, scale) * statistics(report, view)[0]
    )
    return flip._replace(asks=samples)


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
        mean, _ = statistics(report, view)
        reported = sanitize(view.reported, LARGEST)
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
