"""The weighted average of the iterates, kept at the cost of the coordinates that moved."""

from typing import NamedTuple

import jax.numpy as jnp

from farsign_jax.base import Array


class IterateAverage(NamedTuple):
    """The difference between the iterate and the weighted mean of the iterates x_0 .. x_N.

    It is kept from the moves alone:

        sum_n w_n x_n / W_N = x_N - sum_{n < N} (x_{n+1} - x_n) W_n / W_N

    with W_n = w_0 + ... + w_n, here (n + 1)^(power + 1) up to a factor.
    """

    total: Array  # f32[d], sum_n (x_{n+1} - x_n) W_n
    power: Array  # f32[]

    @classmethod
    def start(cls, params: Array, power: float) -> "IterateAverage":
        """Returns the average before the first move."""
        return cls(jnp.zeros_like(params), jnp.asarray(power, jnp.float32))

    def weight(self, step: Array) -> Array:
        """Returns W_n, f32[]."""
        return ((step + 1).astype(jnp.float32) / 1024) ** (self.power + 1)

    def moved(self, j: Array, amount: Array, step: Array) -> "IterateAverage":
        """Returns the average after x has moved by `amount` along the coordinates j."""
        return self._replace(total=self.total.at[j].add(amount * self.weight(step)))

    def behind(self, step: Array) -> Array:
        """Returns the iterate less the average, f32[d]."""
        return self.total / self.weight(step)[..., None]
