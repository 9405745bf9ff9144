"""What honest workers reported, as an adversary sees it: statistics over workers."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import jax.numpy as jnp

from farsign_jax.base import Array, Report, View
from farsign_jax.validation import sanitize

LARGEST = 1e15  # of a report in a statistic


def statistics(report: Report, view: View, ddof: int = 0) -> tuple[Array, Array]:
    """The mean and the standard deviation of what honest workers reported, f32[k] each.

    Where fewer than two honest reports have been received, the mean is the Byzantine worker's
    own honest answer and the deviation is 0. Numbers that are not finite count as 0 and huge
    ones are clipped, so that their squares have a sum.
    """
    dtype = report.value.dtype
    received = view.received & ~view.byzantine[:, None]  # [m, k]
    reported = sanitize(view.reported, LARGEST)

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


def deviations(report: Report, view: View) -> tuple[Array, Array]:
    """The mean of honest reports, f[k], and the difference of each report to it, f[m, k].

    Differences of Byzantine workers, and where a worker has reported nothing, are 0.
    """
    mean, _ = statistics(report, view)
    received = view.received & ~view.byzantine[:, None]
    enough = received.sum(axis=0) >= 2
    reported = sanitize(view.reported, LARGEST).astype(mean.dtype)
    return mean, jnp.where(received & enough[None], reported - mean[None], 0)
