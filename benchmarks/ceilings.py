"""The highest rates that the device reaches, from which the floor of an event is computed.

    matmul_flops_per_s       a product of 2048 x 2048 matrices, float32, precision "highest"
    operations_per_s         multiplications and additions of single numbers in registers
    transcendentals_per_s    exp, the cheapest function of its kind
    copy                     bytes read and written for arrays of several sizes, as small ones
                             stay in a cache

They are measured in the process that uses them, with the same compiler, and the best of
--repeats timings counts.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import FLAGS

ENOUGH_S = 0.05  # the least duration of a timing
SIDE = 2048
NUMBERS = (2**20, 2**24)
CHAINS = (1, 8)
COPIES = (2**18, 2**22, 2**26, 2**29)  # bytes of the array


def _seconds(step: Callable[[Any], Any], x: Any) -> float:
    """Seconds of one `step`, which computes the next x from x. It is repeated on the device
    until it takes long enough to be timed."""

    def loop(n, x):
        return jax.lax.fori_loop(0, n, lambda _, x: step(x), x)

    # x is donated, as the first access to newly allocated pages costs more than writing them.
    repeated = jax.jit(loop, donate_argnums=1)
    held = [jax.block_until_ready(repeated(1, jnp.copy(x)))]

    def timed(n):
        begin = time.perf_counter()
        held[0] = jax.block_until_ready(repeated(n, held[0]))
        return time.perf_counter() - begin

    repetitions = 1
    while timed(repetitions) < ENOUGH_S:
        repetitions *= 2
    return min(timed(repetitions) for _ in range(FLAGS.repeats)) / repetitions


def _matmul() -> float:
    # The matrix is orthogonal, so that its powers neither grow nor vanish.
    size = jnp.arange(SIDE, dtype=jnp.float32)
    rotation = jnp.cos(jnp.pi / SIDE * (size[:, None] + 0.5) * size[None])
    rotation = rotation * jnp.where(size == 0, 1, jnp.sqrt(2.0))[None] / jnp.sqrt(1.0 * SIDE)
    seconds = _seconds(lambda x: jnp.matmul(x, rotation, precision="highest"), rotation)
    return 2 * SIDE**3 / seconds


def _elementwise(step: Callable[[Any], Any]) -> float:
    """Steps per second on single numbers.

    A chain of steps keeps the number in a register, but each step waits for the previous one;
    one step per iteration goes through a cache; a GPU needs many numbers. The best counts.
    """

    def rate(length, numbers):
        def chain(x):
            for _ in range(length):
                x = step(x)
            return x

        return length * numbers / _seconds(chain, jnp.linspace(0, 1, numbers))

    return max(rate(length, numbers) for length in CHAINS for numbers in NUMBERS)


def _copy(size: int) -> float:
    # In place, because most processors also read the memory that they write elsewhere.
    x = jnp.ones(size // 4, jnp.float32)
    return 2 * x.nbytes / _seconds(jnp.negative, x)


def measure() -> dict[str, Any]:
    """Rates per second of each kind of work."""
    copies = [{"bytes": size, "bytes_per_s": _copy(size)} for size in COPIES]
    for n in reversed(range(len(copies) - 1)):
        # A small array can be copied at least as fast as a large one of several small ones.
        larger = copies[n + 1]["bytes_per_s"]
        copies[n]["bytes_per_s"] = max(copies[n]["bytes_per_s"], larger)
    return {
        "matmul_flops_per_s": _matmul(),
        "operations_per_s": 2 * _elementwise(lambda x: x * 0.5 + 0.25),
        "transcendentals_per_s": _elementwise(lambda x: jnp.exp(-x)),
        "copy": copies,
    }


def copy_rate(ceilings: Mapping[str, Any], size: float) -> float:
    """Bytes per second of repeated work on `size` bytes: the rate of the largest measured array
    that is not larger than that."""
    copies = ceilings["copy"]
    rates = [c["bytes_per_s"] for c in copies if c["bytes"] <= size]
    return rates[-1] if rates else copies[0]["bytes_per_s"]


def report(ceilings: Mapping[str, Any]) -> str:
    """The rates in one sentence."""
    copies = ", ".join(
        f"{c['bytes_per_s'] / 1e9:,.1f} GB/s in {c['bytes'] / 2**20:g} MiB"
        for c in ceilings["copy"]
    )
    return (
        f"Ceilings: matrix product {ceilings['matmul_flops_per_s'] / 1e9:,.0f} "
        f"Gflop/s; elementwise {ceilings['operations_per_s'] / 1e9:,.1f} G operations/s; "
        f"exp {ceilings['transcendentals_per_s'] / 1e9:,.2f} G/s; "
        f"reading and writing {copies}.\n"
    )
