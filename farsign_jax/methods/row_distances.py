"""Distances between the rows of a table of which one row changes at a time, in exact sums.

The distance of two workers is the mean of (y[i, j] - y[l, j])^2 over the directions j that both
have been heard about. One answer changes k entries of a row, and so k terms of m - 1 distances:
O(m k) operations, whatever the number K of directions. Sums of floating-point numbers would
drift, and could not forget a term that a liar made huge. Each term is therefore a fixed-point
number with the unit 2^-64, in eight digits of 16 bits, and the sums of digits are integers
u32: adding and taking away are exact, and the sums are those of the table as it is, to the
last bit, in whatever order its entries came.

Terms below 2^-64 count as zero, and those above 2^63 as 2^63, so that entries may be any
finite numbers.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array

DIGITS, BITS = 8, 16
MAX_DIRECTIONS = 2 ** (32 - BITS)  # so many digits fit into u32
_UNIT = -64  # the exponent of the last digit
_LARGEST = 2.0**31.5  # whose square is 2^63


class RowDistances(NamedTuple):
    """The sums for m rows.

    Attributes:
        digits: u32[m, m, DIGITS], sums over directions of each digit of the terms.
        common: i32[m, m], the number of directions that both rows have.
    """

    digits: Array
    common: Array

    @classmethod
    def start(cls, m: int) -> "RowDistances":
        """Returns the distances of m rows without any entry."""
        return cls(jnp.zeros((m, m, DIGITS), jnp.uint32), jnp.zeros((m, m), jnp.int32))

    def replaced(self, i: Array, columns: Array, new: Array) -> "RowDistances":
        """Returns the distances after entries of one row have changed.

        Args:
            i: i32[], the row; m, none.
            columns: f32[m, k], the entries of all rows before the change; 0 stands for none.
            new: f32[k], the entries of row i after it.
        """
        m = len(columns)
        old = columns[jnp.minimum(i, m - 1)]
        digits, common = (
            after - before
            for before, after in zip(_terms(columns, old), _terms(columns, new), strict=True)
        )
        others = (jnp.arange(m) != i) & (i < m)
        digits = jnp.where(others[:, None], digits, 0)
        common = jnp.where(others, common, 0)
        return RowDistances(
            self.digits.at[i].add(digits, mode="drop").at[:, i].add(digits, mode="drop"),
            self.common.at[i].add(common, mode="drop").at[:, i].add(common, mode="drop"),
        )

    def mean_squares(self) -> Array:
        """Returns the distances, f32[m, m], inf between rows without a common direction."""
        total = jnp.zeros(self.common.shape, jnp.float32)
        for digit in range(DIGITS):  # a power of two: each product is exact
            weight = 2.0 ** (_UNIT + BITS * digit)
            total = total + weight * self.digits[..., digit].astype(jnp.float32)
        mean = total / jnp.maximum(self.common, 1).astype(jnp.float32)
        mean = jnp.where(self.common > 0, mean, jnp.inf)
        return jnp.where(jnp.eye(len(mean), dtype=bool), 0, mean)


def of_table(table: Array) -> RowDistances:
    """Returns the distances of the rows of a whole table f32[m, K]; 0 stands for no entry."""
    digits, common = jax.vmap(functools.partial(_terms, table))(table)
    apart = ~jnp.eye(len(table), dtype=bool)
    return RowDistances(jnp.where(apart[..., None], digits, 0), jnp.where(apart, common, 0))


def _terms(columns: Array, row: Array) -> tuple[Array, Array]:
    """Returns the sums over k entries for each row, u32[m, DIGITS], and how many, i32[m]."""
    row = row[None]
    both = (columns != 0) & (row != 0)
    difference = jnp.clip(columns - row, -_LARGEST, _LARGEST)
    square = jnp.where(both, difference * difference, 0)
    bits = jax.lax.bitcast_convert_type(square.astype(jnp.float32), jnp.uint32)
    exponent = (bits >> 23).astype(jnp.int32) - 150 - _UNIT  # of the last bit of the mantissa
    mantissa = jnp.where(bits >> 23 > 0, bits & 0x7FFFFF | 0x800000, 0)
    place = exponent[..., None] - BITS * jnp.arange(DIGITS)[None, None]  # [m, k, DIGITS]
    left = mantissa[..., None] << jnp.clip(place, 0, BITS).astype(jnp.uint32)
    right = mantissa[..., None] >> jnp.clip(-place, 0, 31).astype(jnp.uint32)
    digits = jnp.where(place >= 0, left, right) & (2**BITS - 1)
    return digits.sum(axis=1, dtype=jnp.uint32), both.sum(axis=1, dtype=jnp.int32)
