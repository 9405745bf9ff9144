"""What an event must do at least, counted by hand, and what XLA says that it does.

By hand: what the algorithm asks for, whatever today's code makes of it; every count is per
event and run. What runs in lock-step share (`Sizes.sharing` of them one mini-batch, one set of
directions) is divided among them. Legend: b examples per mini-batch, k directions, d
parameters, c classes, B buffers; W the weights of all layers, V those behind the first layer.

The floor of an event is the time of this work at the device's ceilings (`ceilings`), one kind
after the other.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.ceilings import copy_rate
from farsign_jax.oracles.cross_entropy import num_terms
from farsign_jax.specs import parse

FLOAT = 4  # bytes
LINE = 64  # bytes that a processor moves where one number is read or written
RANDOM = 50  # operations of 32 random bits: Threefry-2x32 with 20 rounds makes two such words
SERIES = num_terms(np.float32)
POLYNOMIALS = 2 * (3 * SERIES + 4) + 6  # operations on one number
NORMAL = RANDOM + 20  # and two polynomials; the logarithm and the root are counted apart


@dataclasses.dataclass(frozen=True)
class Work:
    """Kinds of work that go at rates of their own."""

    matmul: float = 0.0  # floating point operations in matrix products
    operations: float = 0.0  # other arithmetic, number by number
    transcendentals: float = 0.0  # exp, log, roots
    bytes: float = 0.0  # read and written

    def __add__(self, other: "Work") -> "Work":
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Work(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * a for a in dataclasses.astuple(self)))

    def floor_us(self, ceilings: dict[str, Any], runs: int) -> float:
        """Microseconds of this work, where `runs` runs go over their memory in turns."""
        rates = (
            ceilings["matmul_flops_per_s"],
            ceilings["operations_per_s"],
            ceilings["transcendentals_per_s"],
            copy_rate(ceilings, runs * self.bytes),
        )
        return 1e6 * sum(a / r for a, r in zip(dataclasses.astuple(self), rates, strict=True))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers that counts are made of."""

    layers: tuple[tuple[int, int], ...]  # (inputs, units) of each
    batch: int  # b
    directions: int  # k
    buffers: int = 0  # B
    aggregator: str = ""
    updates: float = 0.0  # of a buffered server, per answer
    waits: bool = False  # does an answer lie somewhere before it is heard?
    sharing: int = 1  # runs in lock-step
    input_bytes: int = 1  # of one number of the data

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


def mini_batch(s: Sizes) -> Work:
    """b numbers are drawn, b inputs read."""
    read = s.batch * s.layers[0][0] * s.input_bytes
    return Work(operations=s.batch * RANDOM, bytes=read) * (1 / s.sharing)


def forward(s: Sizes) -> Work:
    """2 b W for the products; all of x is read; c exps and a log per example."""
    softmax = s.batch * (s.classes + 1)
    return Work(2 * s.batch * s.weights, 0, softmax, FLOAT * s.dim)


def backward(s: Sizes) -> Work:
    """2 b W for the gradient, 2 b V to carry errors back to the first layer's units."""
    return Work(2 * s.batch * (s.weights + s.behind), 0, 0, FLOAT * s.behind)


def carried(s: Sizes) -> float:
    """Weights that the change of one unit goes through, of the average coordinate: none in its
    own layer, a row of the next, where it moves every unit, and then all of what is behind."""
    each = [inputs * units for inputs, units in s.layers]
    through = [
        (inputs + 1) * units * sum(each[n + 2 :]) for n, (inputs, units) in enumerate(s.layers)
    ]
    return sum(through) / s.dim


def coordinate_answers(s: Sizes) -> Work:
    """k two-point differences on top of a forward pass: what changes is carried through the
    hidden layers behind the next; `SERIES` + 1 products of [b, c] and [c, k]; and at both
    points three polynomials of b k numbers, of which one is a logarithm."""
    points = 2 * s.batch * s.directions
    products = 2 * carried(s) + s.classes * (SERIES + 1)
    return Work(points * products, points * POLYNOMIALS)


def signs(s: Sizes) -> Work:
    """FAR-SIGN hears k answers: k numbers of y and of x are drawn, read and written, somewhere
    in memory."""
    return Work(operations=s.directions * RANDOM, bytes=4 * s.directions * LINE)


def far_sign(s: Sizes) -> Work:
    return mini_batch(s) + forward(s) + coordinate_answers(s) + signs(s)


def far_sign_generic(s: Sizes) -> Work:
    """A black box shares nothing between 2 k points: each is a forward pass."""
    return mini_batch(s) + forward(s) * (2 * s.directions) + signs(s)


def far_sign_first_order(s: Sizes) -> Work:
    """A whole gradient, of any loss, of which k numbers count."""
    return mini_batch(s) + forward(s) + backward(s) + Work(bytes=FLOAT * s.dim) + signs(s)


def message(s: Sizes) -> Work:
    """An answer f32[d] that waits is written and read."""
    return Work(bytes=2 * FLOAT * s.dim * s.waits)


def async_sgd(s: Sizes) -> Work:
    """Every answer moves x: a multiplication, an addition, a write per parameter."""
    step = Work(operations=2 * s.dim, bytes=FLOAT * s.dim)
    return mini_batch(s) + forward(s) + backward(s) + message(s) + step


def buffered(s: Sizes) -> Work:
    """An answer changes the mean in its buffer; now and then all B are combined into a step."""
    mean = Work(operations=3 * s.dim, bytes=2 * FLOAT * s.dim)
    step = Work(operations=2 * s.dim, bytes=2 * FLOAT * s.dim)
    return message(s) + mean + (aggregate(s) + step) * s.updates


def basgd(s: Sizes) -> Work:
    return mini_batch(s) + forward(s) + backward(s) + buffered(s)


def cyber0(s: Sizes) -> Work:
    """k dense directions: k d normal numbers, and their products with the data, are shared by
    runs in lock-step; behind the first layer each of 2 k points has a pass of its own; the
    answer is the k directions, weighted and added up."""
    numbers = s.directions * s.dim
    along = 2 * s.batch * s.directions * (s.weights - s.behind)
    drawn = Work(along, NORMAL * numbers, 2 * numbers) * (1 / s.sharing)
    points = Work(matmul=4 * s.batch * s.directions * s.behind)
    points += Work(transcendentals=2 * s.batch * s.directions * (s.classes + 1))
    rebuilt = Work(matmul=2 * numbers)
    return mini_batch(s) + forward(s) + drawn + points + rebuilt + buffered(s)


METHODS: dict[str, Callable[[Sizes], Work]] = {
    "far_sign": far_sign,
    "far_sign_first_order": far_sign_first_order,
    "async_sgd": async_sgd,
    "basgd": basgd,
    "cyber0": cyber0,
}


def aggregate(s: Sizes) -> Work:
    """One robust aggregate of B rows of d numbers: all are read, d written.

    Sorting B numbers takes log2(B!) comparisons, each a minimum and a maximum; all distances
    between rows are half of the product of the rows with themselves; an iteration of RFA takes
    5 operations per number and, as it needs all distances first, reads the rows once more.
    """
    n, d = s.buffers, s.dim
    name, told = parse(s.aggregator)
    sort = Work(operations=2 * math.lgamma(n + 1) / math.log(2) * d)
    distances, mean = Work(matmul=n * n * d), Work(operations=n * d)
    rows = Work(bytes=FLOAT * n * d)
    iterations = int(told.get("iterations", 4))
    rules = {
        "median": sort,
        "trimmed_mean": sort,
        "krum": distances,
        "multi_krum": distances + mean,
        "bulyan": distances + sort,
        "rfa": (Work(operations=5 * n * d) + rows) * iterations,
    }
    return rules.get(name, mean) + rows + Work(bytes=FLOAT * d)


def by_hand(method: str, sizes: Sizes, generic: bool = False) -> Work | None:
    """Of one event and run; None for a method, or options of one, that nobody counted."""
    if generic:
        return far_sign_generic(sizes) if method == "far_sign" else None
    return METHODS[method](sizes) if method in METHODS else None


def by_xla(compiled: Any, runs: int) -> dict[str, float]:
    """What XLA's cost analysis says of a compiled scan over events, per event and run, where
    `runs` of them go side by side on a device.

    It counts the body of a loop once, whatever it is told about its length: of the scan that
    is one event. Of a loop within the event it is one turn: too little. Of a read or write at
    some index it may count the whole array: too much.
    """
    costs = compiled.cost_analysis() or {}
    names = {"flops": "flops", "transcendentals": "transcendentals", "bytes": "bytes accessed"}
    return {ours: costs.get(theirs, 0.0) / runs for ours, theirs in names.items()}
