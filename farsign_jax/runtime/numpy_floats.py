"""Arithmetic on f32 in NumPy with the bits of XLA on a CPU.

Where the processor has a multiply-add instruction, XLA contracts a * b + c to one operation
with a single rounding. It treats numbers below 2^-126 as zero.
"""

import numpy as np

_SMALLEST = np.float32(2.0**-126)


def flush_subnormals(values: np.ndarray) -> np.ndarray:
    """Replaces subnormal numbers, f32, by zeros of the same sign, in place."""
    small = np.abs(values) < _SMALLEST
    if small.any():
        np.copyto(values, np.copysign(np.float32(0), values), where=small)
    return values


def multiply_add(a: np.float32, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns a * b + c with one rounding; the product of two f32 is exact in f64.

    The sum is rounded to f64 and then to f32. The first rounding matters only if its result
    lies halfway between two f32; in that case it is moved to the side of the exact sum.
    """
    product, c = np.float64(a) * b, c.astype(np.float64)
    total = product + c
    bits = total.view(np.int64)
    halfway = (bits & 0x1FFFFFFF) == 0x10000000
    if halfway.any():
        rest = total - product  # Knuth's exact sum: total + error = product + c
        error = (product - (total - rest)) + (c - rest)
        away = np.where((error > 0) == (total > 0), 1, -1)
        bits += np.where(halfway & (error != 0), away, 0)
    with np.errstate(under="ignore"):
        return flush_subnormals(total.astype(np.float32))


def multiply_then_add(a: np.float32, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns a * b + c with two roundings, as on a processor without multiply-add."""
    return flush_subnormals(flush_subnormals(a * b) + c)
