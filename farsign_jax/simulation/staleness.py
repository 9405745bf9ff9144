"""How stale the answers of each worker were when they were received."""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array


class Staleness(NamedTuple):
    """Statistics of the staleness of answers, in updates of the iterate (Assumption 5)."""

    answers: Array  # i32[m], answers received so far
    largest: Array  # i32[m], largest staleness
    mean_square: Array  # f32[m], the second moment
    histogram: Array  # i32[m, 32]: of 0, 1, 2..3, 4..7, and so on by powers of two

    @classmethod
    def none(cls, num_workers: int) -> "Staleness":
        """Returns the statistics before the first answer."""
        none = jnp.zeros((num_workers,), jnp.int32)
        histogram = jnp.zeros((num_workers, 32), jnp.int32)
        return cls(none, none, none.astype(jnp.float32), histogram)

    def received(self, workers: Array, staleness: Array) -> "Staleness":
        """Returns the statistics with one more answer of each of the workers.

        Args:
            workers: i32[s]; m marks an empty slot.
            staleness: i32[s].
        """
        count = self.answers.at[workers].add(1, mode="drop")
        squares = staleness.astype(jnp.float32) ** 2
        weight = 1 / jnp.maximum(count[workers], 1).astype(jnp.float32)
        change = weight * (squares - self.mean_square[workers])
        bin = 32 - jax.lax.clz(jnp.maximum(staleness, 0))
        return Staleness(
            answers=count,
            largest=self.largest.at[workers].max(staleness, mode="drop"),
            mean_square=self.mean_square.at[workers].add(change, mode="drop"),
            histogram=self.histogram.at[workers, bin].add(1, mode="drop"),
        )
