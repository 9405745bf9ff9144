"""Plain `far_sign` along coordinates, in NumPy: a tenth of the time, and the same bits.

To call a compiled program costs more than what an update of k numbers does. y lies
coordinate-major, f32[d, m]: what one answer touches in x and what it touches in y are rows.

The same bits take three things that NumPy does not do by itself. XLA contracts
y + beta * (Y - y) to one multiply-add with a single rounding where the processor has it; it
counts numbers below 2^-126 as zero; and alpha_n and beta_n must come out of the compiled
schedules, in a loop as there, for a vectorised power may differ in its last bit. Whether all
of this is so on this machine is not believed but tried: `contracts`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax.base import Report, Schedule
from farsign_jax.directions.dictionary import Dictionary, identity
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.runtime.state_machine import check_alike, named, same_bits
from farsign_jax.step_sizes import as_schedule
from farsign_jax.validation import InvalidConfig

_LARGEST = np.float32(1e30)  # as in `far_sign`


_SMALLEST = np.float32(2.0**-126)


_BLOCK = 1024  # steps whose alpha and beta are computed at once


def flushed(numbers: np.ndarray) -> np.ndarray:
    """f32, in place: what is below the normal numbers is zero, with its sign."""
    small = np.abs(numbers) < _SMALLEST
    if small.any():
        np.copyto(numbers, np.copysign(np.float32(0), numbers), where=small)
    return numbers


def multiply_add(a: np.float32, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c, rounded once: the product of two f32 is exact in f64.

    The sum is rounded to f64 and then to f32. That matters only where the first rounding ends
    in the middle of two f32; there, it is made to end beside it, on the side of the truth.
    """
    product, c = np.float64(a) * b, c.astype(np.float64)
    total = product + c
    bits = total.view(np.int64)
    middle = (bits & 0x1FFFFFFF) == 0x10000000
    if middle.any():
        rest = total - product  # Knuth's exact sum: total + error = product + c
        error = (product - (total - rest)) + (c - rest)
        away = np.where((error > 0) == (total > 0), 1, -1)
        bits += np.where(middle & (error != 0), away, 0)
    with np.errstate(under="ignore"):
        return flushed(total.astype(np.float32))


def two_roundings(a: np.float32, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c where the processor has no multiply-add."""
    return flushed(flushed(a * b) + c)


class OnHost:
    """A `machines.Machine`: FAR-SIGN along coordinates, sign of the new average, no options.

    Args:
        num_workers: m.
        dictionary: `directions.identity`.
        x0: f32[d].
        seed: of the run.
        step_size: alpha, number or schedule.
        average_step: beta, number or schedule.
        contract: whether XLA contracts here; None, what `contracts` finds out.

    Raises:
        InvalidConfig: where it finds that neither way has the bits of the compiled update.
    """

    def __init__(
        self,
        num_workers: int,
        dictionary: Dictionary,
        x0: Any,
        seed: int,
        *,
        step_size: float | Schedule,
        average_step: float | Schedule,
        contract: bool | None = None,
    ):
        m, keys = num_workers, keys_lib.split(seed)
        self.num_workers, self.shape = m, (dictionary.per_query,)
        self.params = np.array(x0, np.float32)
        self.averages = np.zeros((len(self.params), m), np.float32)
        self.counts = np.zeros(m, np.int32)
        self.step = 0
        alpha, beta = as_schedule(step_size), as_schedule(average_step)

        def draw(worker, number):
            return dictionary.draw(keys_lib.message(keys.queries, worker, number), worker)

        def steps(first):
            def one(n):
                fast = jnp.clip(jnp.asarray(beta(n), jnp.float32), 0, 1)
                return jnp.asarray(alpha(n), jnp.float32), fast

            return jax.lax.map(one, first + jnp.arange(_BLOCK, dtype=jnp.int32))

        self._draw, self._steps = jax.jit(draw), jax.jit(steps)
        self._first, self._alpha, self._beta = -_BLOCK, np.zeros(0), np.zeros(0)
        if contract is None:
            contract = contracts()
        if contract is None:
            raise InvalidConfig("what XLA computes on this machine cannot be had in NumPy")
        self._add = multiply_add if contract else two_roundings

    def ask(self, worker: int, number: int) -> np.ndarray:
        return np.asarray(self._draw(np.int32(worker), np.int32(number)))

    def hear(self, worker: int, version: int, direction: np.ndarray, value: np.ndarray) -> Any:
        del version  # whatever is heard is news
        alpha, beta = self._now()
        answer = flushed(np.minimum(np.maximum(value, -_LARGEST), _LARGEST))
        old = self.averages[direction, worker]
        new = self._add(beta, flushed(answer - old), old)
        moved = self.params[direction] - alpha * np.sign(new)
        self.averages[direction, worker] = new
        self.params[direction] = flushed(moved)
        self.counts[worker] += 1
        self.step += 1
        return direction

    def _now(self) -> tuple[np.float32, np.float32]:
        at = self.step - self._first
        if not 0 <= at < _BLOCK:
            at, self._first = 0, self.step
            alpha, beta = self._steps(np.int32(self.step))
            self._alpha, self._beta = np.asarray(alpha), np.asarray(beta)
        return self._alpha[at], self._beta[at]

    def state(self) -> dict[str, np.ndarray]:
        return {
            "params": self.params,
            "averages": self.averages,
            "counts": self.counts,
            "step": np.asarray(self.step, np.int32),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        check_alike(state, self.state())
        self.params, self.averages = state["params"], state["averages"]
        self.counts, self.step = state["counts"], int(state["step"])

    def differing(self, state: Any) -> list[str]:
        own, other = self.state(), named(state)
        other["averages"] = other["averages"].T
        return [name for name in own if not same_bits(own[name], other[name])]


@functools.cache
def contracts() -> bool | None:
    """Whether compiled updates contract multiply and add; None where `OnHost` would have other
    bits than they either way. Tried on lies of all sizes, in a loop as in `simulate`."""
    m, dictionary = 2, identity(64, 32)
    rng = np.random.default_rng(0)
    told: Any = {"step_size": 0.07, "average_step": 0.3}
    sizes = 10.0 ** rng.integers(-44, 32, (256, 32))
    values = (rng.normal(size=sizes.shape) * sizes).astype(np.float32)
    values[1::2] = rng.normal(size=values[1::2].shape)
    workers = rng.integers(0, m, 256).astype(np.int32)
    chosen = np.argsort(rng.random((256, 64)), axis=1)[:, :32].astype(np.int32)
    server, x0 = far_sign(m, dictionary, **told), rng.normal(size=64).astype(np.float32)

    def hear(state, told):
        worker, j, value = told
        report = Report(worker[None], jnp.zeros(1, jnp.int32), j[None], value[None])
        return server.update(state, report)[0], None

    def loop(x0, told):
        return jax.lax.scan(hear, server.init(x0, None), told)[0]

    want = jax.jit(loop)(x0, (workers, chosen, values))
    for contract in (True, False):
        here = OnHost(m, dictionary, x0, 0, **told, contract=contract)
        for worker, j, value in zip(workers, chosen, values, strict=True):
            here.hear(int(worker), 0, j, value)
        same = same_bits(here.params, want.params)
        if same and same_bits(here.averages.T, want.averages):
            return contract
    return None
