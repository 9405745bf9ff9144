"""The least work that an event needs, counted by hand.

A count by hand is a lower bound for any implementation of the algorithm. It holds for one event
of one run: runs in lock-step use one mini-batch and one set of directions, which is divided
among them. Symbols: b examples per mini-batch, k directions, d parameters, c classes, B
buffers, W weights in all layers, V weights behind the first layer.

The floor of an event is the time that this work takes at the highest rates of the device
(`benchmarks.ceilings`), one kind of work after the other.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.ceilings import copy_rate
from farsign_jax.oracles.cross_entropy import num_terms

FLOAT = 4  # bytes
LINE = 64  # bytes that a processor moves to read or write one number
RANDOM = 50  # operations for 32 random bits: 20 rounds of Threefry-2x32 make two such words
SERIES = num_terms(np.float32)
POLYNOMIALS = 2 * (3 * SERIES + 4) + 6  # operations on one number
NORMAL = RANDOM + 20  # and two polynomials; the logarithm and the root are counted apart

# Floating-point operations in matrix products; other arithmetic on single numbers;
# exponentials, logarithms and roots; bytes read and written.
KINDS = ("matmul", "operations", "transcendentals", "bytes")


def work(
    matmul: float = 0.0, operations: float = 0.0, exps: float = 0.0, nbytes: float = 0.0
) -> np.ndarray:
    """Amounts of work f64[4], in the order of `KINDS`."""
    return np.array([matmul, operations, exps, nbytes], float)


def floor_us(amounts: np.ndarray, ceilings: Mapping[str, Any], runs: int) -> float:
    """Microseconds of this work where `runs` runs alternate and each passes over its memory."""
    names = ("matmul_flops_per_s", "operations_per_s", "transcendentals_per_s")
    rates = [ceilings[name] for name in names]
    return float(1e6 * (amounts / [*rates, copy_rate(ceilings, runs * amounts[3])]).sum())


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers that the counts depend on."""

    layers: tuple[tuple[int, int], ...]  # (inputs, units) of each layer
    batch: int  # b
    directions: int  # k
    buffers: int = 0  # B
    updates: float = 0.0  # updates of a buffered server per answer
    waits: bool = False  # whether an answer is stored before it is delivered
    lockstep_runs: int = 1
    input_bytes: int = 1  # bytes per number of the data

    @property
    def weights(self) -> int:  # W
        return sum(inputs * units for inputs, units in self.layers)

    @property
    def behind(self) -> int:  # V
        return self.weights - math.prod(self.layers[0])

    @property
    def dim(self) -> int:  # d
        return self.weights + sum(units for _, units in self.layers)

    @property
    def classes(self) -> int:  # c
        return self.layers[-1][1]


def carried(s: Sizes) -> float:
    """The weights that a change of one unit passes through, averaged over coordinates.

    It passes through none in its own layer, through one row of the next layer, all of whose
    units it changes, and then through all weights of the layers behind.
    """
    each = [inputs * units for inputs, units in s.layers]
    through = [
        (inputs + 1) * units * sum(each[n + 2 :]) for n, (inputs, units) in enumerate(s.layers)
    ]
    return sum(through) / s.dim


def by_hand(method: str, s: Sizes, generic: bool = False) -> np.ndarray | None:
    """The work of one event of one run; None for a method, or options of one, not counted.

    Args:
        method: its name; `far_sign` alone has a count for the generic oracle.
        s: the sizes.
        generic: whether the oracle works for any model.
    """
    b, k, d, c, v = s.batch, s.directions, s.dim, s.classes, s.behind
    read = b * s.layers[0][0] * s.input_bytes
    batch = work(operations=b * RANDOM, nbytes=read) / s.lockstep_runs
    forward = work(2 * b * s.weights, 0, b * (c + 1), FLOAT * d)  # reads all of x
    # The gradient, and the errors that are propagated back to the first layer.
    gradient = forward + work(2 * b * (s.weights + v), 0, 0, FLOAT * v)
    # k coordinates are drawn; y and x are read and written there, at scattered addresses.
    signs = work(operations=k * RANDOM, nbytes=4 * k * LINE)
    stored = work(nbytes=2 * FLOAT * d * s.waits)  # an answer f32[d] is written and read
    step = work(operations=2 * d, nbytes=FLOAT * d)
    # Coordinates: changes pass through the hidden layers behind the next one; there are SERIES
    # + 1 products of [b, c] and [c, k] matrices; and at both points three polynomials are
    # evaluated for b k numbers, one of which is a logarithm.
    points = 2 * b * k
    changes = work(points * (2 * carried(s) + c * (SERIES + 1)), points * POLYNOMIALS)
    # Buffers: an answer updates the mean of its buffer. Once all are full, any aggregator
    # reads B rows and writes one.
    mean = work(operations=3 * d, nbytes=2 * FLOAT * d)
    aggregate = work(operations=s.buffers * d, nbytes=FLOAT * (s.buffers + 1) * d)
    buffered = stored + mean + (aggregate + step + work(nbytes=FLOAT * d)) * s.updates
    # Dense directions: k d normal numbers and their products with the data are shared in
    # lock-step; behind the first layer each point needs its own pass; the answer is the
    # weighted sum of the directions.
    drawn = work(points * (s.weights - v), NORMAL * k * d, 2 * k * d) / s.lockstep_runs
    dense = drawn + work(2 * points * v + 2 * k * d, 0, points * (c + 1))
    if generic:  # a black-box loss shares nothing between 2 k points
        return batch + 2 * k * forward + signs if method == "far_sign" else None
    return {
        "far_sign": batch + forward + changes + signs,
        "far_sign_first_order": batch + gradient + work(nbytes=FLOAT * d) + signs,
        "async_sgd": batch + gradient + stored + step,
        "basgd": batch + gradient + buffered,
        "cyber0": batch + forward + dense + buffered,
    }.get(method)
