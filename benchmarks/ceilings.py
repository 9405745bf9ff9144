"""What the device can do at most: the rates that a floor is made of.

    matmul_flops_per_s       a product of 2048 x 2048 matrices, float32, precision "highest"
    operations_per_s         multiplications and additions, number by number, out of registers
    transcendentals_per_s    exp, the cheapest function of its kind
    copy                     bytes read plus bytes written, for arrays of several sizes: small
                             ones stay in a cache
    iteration_us             one turn of a `lax.scan` that does next to nothing
    step_us                  one more small operation in it that waits for the one before: on a
                             GPU the launch of a kernel

Measured in the process that uses them, with the compiler that everything else has, and the
best of --repeats timings: a ceiling is not a typical figure.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

FLAGS = flags.FLAGS

ENOUGH_S = 0.05  # a timing takes at least so long
SIDE = 2048
NUMBERS = (2**20, 2**24)
CHAINS = (1, 8)
COPIES = (2**18, 2**22, 2**26, 2**29)  # bytes of the array
STEPS = 16


def _seconds(turn: Callable[[Any], Any], x: Any) -> float:
    """Of one `turn`, which makes the next x from x: repeated on the device until that takes
    long enough to be timed."""

    def loop(n, x):
        return jax.lax.fori_loop(0, n, lambda _, x: turn(x), x)

    # x is handed on: new memory would be new pages, which take longer than to fill them.
    repeated = jax.jit(loop, donate_argnums=1)
    held = [jax.block_until_ready(repeated(1, jnp.copy(x)))]

    def timed(n):
        begin = time.perf_counter()
        held[0] = jax.block_until_ready(repeated(n, held[0]))
        return time.perf_counter() - begin

    turns = 1
    while timed(turns) < ENOUGH_S:
        turns *= 2
    return min(timed(turns) for _ in range(FLAGS.repeats)) / turns


def _matmul() -> float:
    # An orthogonal matrix: its powers neither grow nor vanish.
    size = jnp.arange(SIDE, dtype=jnp.float32)
    turned = jnp.cos(jnp.pi / SIDE * (size[:, None] + 0.5) * size[None])
    turned = turned * jnp.where(size == 0, 1, jnp.sqrt(2.0))[None] / jnp.sqrt(1.0 * SIDE)

    def turn(x):
        return jnp.matmul(x, turned, precision="highest")

    return 2 * SIDE**3 / _seconds(turn, turned)


def _elementwise(step: Callable[[Any], Any]) -> float:
    """Steps per second of what makes one number of one.

    One step after the other keeps the number in a register, but each waits for the one before;
    one step a turn goes through a cache; a GPU needs more numbers. Whatever is best.
    """

    def rate(chain, numbers):
        def turn(x):
            for _ in range(chain):
                x = step(x)
            return x

        return chain * numbers / _seconds(turn, jnp.linspace(0, 1, numbers))

    return max(rate(chain, numbers) for chain in CHAINS for numbers in NUMBERS)


def _copy(size: int) -> float:
    # In place: who writes elsewhere reads that memory, too, on most processors.
    x = jnp.ones(size // 4, jnp.float32)
    return 2 * x.nbytes / _seconds(jnp.negative, x)


def _small_operations() -> dict[str, float]:
    """Microseconds of a turn that does one small operation, and of each further one."""

    def chain(steps):
        def turn(x):
            for _ in range(steps):
                x = x - x.max()  # needs all of x: no two steps become one loop
            return x

        return 1e6 * _seconds(turn, jnp.arange(64, dtype=jnp.float32))

    one, many = chain(1), chain(1 + STEPS)
    return {"iteration_us": one, "step_us": max(many - one, 0.0) / STEPS}


def measure() -> dict[str, Any]:
    """Rates per second of each kind of work, see above."""
    copies = [{"bytes": size, "bytes_per_s": _copy(size)} for size in COPIES]
    for n in reversed(range(len(copies) - 1)):
        # What a large array reaches a small one reaches, too, once it is not alone.
        larger = copies[n + 1]["bytes_per_s"]
        copies[n]["bytes_per_s"] = max(copies[n]["bytes_per_s"], larger)
    return {
        "matmul_flops_per_s": _matmul(),
        "operations_per_s": 2 * _elementwise(lambda x: x * 0.5 + 0.25),
        "transcendentals_per_s": _elementwise(lambda x: jnp.exp(-x)),
        "copy": copies,
        **_small_operations(),
    }


def copy_rate(ceilings: dict[str, Any], size: float) -> float:
    """Bytes per second where `size` bytes are worked on over and over: of the largest array
    measured that is not larger."""
    copies = ceilings["copy"]
    rates = [c["bytes_per_s"] for c in copies if c["bytes"] <= size]
    return rates[-1] if rates else copies[0]["bytes_per_s"]


def report(ceilings: dict[str, Any]) -> str:
    """One sentence."""
    copies = ", ".join(
        f"{c['bytes_per_s'] / 1e9:,.1f} GB/s in {c['bytes'] / 2**20:g} MiB"
        for c in ceilings["copy"]
    )
    return (
        f"Ceilings: matrix product {ceilings['matmul_flops_per_s'] / 1e9:,.0f} "
        f"Gflop/s; elementwise {ceilings['operations_per_s'] / 1e9:,.1f} G operations/s; "
        f"exp {ceilings['transcendentals_per_s'] / 1e9:,.2f} G/s; "
        f"reading and writing {copies}. A turn of a scan takes {ceilings['iteration_us']:.2f} "
        f"µs, each further small operation {ceilings['step_us']:.2f} µs.\n"
    )
