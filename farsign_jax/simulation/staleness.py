"""How old answers are when they are received: what a run remembers of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array


class Staleness(NamedTuple):
    """How stale the answers of each worker were, in updates of the iterate (Assumption 5)."""

    answers: Array  # i32[m], received so far
    largest: Array  # i32[m]
    mean_square: Array  # f32[m], the second moment
    histogram: Array  # i32[m, 32]: of 0, 1, 2..3, 4..7, and so on by powers of two

    @classmethod
    def none(cls, num_workers: int) -> "Staleness":
        """Nobody has been received."""
        none = jnp.zeros((num_workers,), jnp.int32)
        histogram = jnp.zeros((num_workers, 32), jnp.int32)
        return cls(none, none, none.astype(jnp.float32), histogram)

    def received(self, workers: Array, staleness: Array) -> "Staleness":
        """With one more answer of each of `workers` i32[s]; m marks an empty slot."""
        count = self.answers.at[workers].add(1, mode="drop")
        squares = staleness.astype(jnp.float32) ** 2
        share = 1 / jnp.maximum(count[workers], 1).astype(jnp.float32)
        news = share * (squares - self.mean_square[workers])
        bin = 32 - jax.lax.clz(jnp.maximum(staleness, 0))
        return Staleness(
            answers=count,
            largest=self.largest.at[workers].max(staleness, mode="drop"),
            mean_square=self.mean_square.at[workers].add(news, mode="drop"),
            histogram=self.histogram.at[workers, bin].add(1, mode="drop"),
        )
