"""`far_sign` along coordinates in NumPy, with the bits of the compiled update.

Nothing of size d is copied when an answer arrives, and without a vote no compiled program is
called, which would cost more than an update of k values. The averages y are stored
coordinate-major, f32[d, m], so that the values of x and of y that one answer touches are rows.

NumPy needs help to produce the same bits as XLA (`numpy_floats`), and alpha_n and beta_n must
be computed by the compiled schedules in a loop, as in the simulator, since the last bit of a
vectorised power may differ. Whether averages and steps have the same bits on the present
machine is tested, not assumed: `uses_multiply_add`.
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
from farsign_jax.runtime import numpy_vote
from farsign_jax.runtime.numpy_floats import (
    flush_subnormals,
    multiply_add,
    multiply_then_add,
)
from farsign_jax.runtime.state_machine import (
    check_alike,
    named_arrays,
    same_bits,
)
from farsign_jax.step_sizes import as_schedule
from farsign_jax.validation import InvalidConfig

_LARGEST = np.float32(1e30)  # as in `far_sign`
_BLOCK = 1024  # number of steps for which alpha and beta are computed at once
_VOTES = "votes."  # before the names of the arrays of a vote


class NumpyServer:
    """A `StateMachine`: FAR-SIGN along coordinates, without options but a vote.

    It takes the sign of the new average, as `far_sign` does by default.

    Args:
        num_workers: the number m of workers.
        dictionary: `directions.identity`.
        x0: the initial iterate, f32[d].
        seed: the seed of the run.
        step_size: alpha, a number or a schedule.
        average_step: beta, a number or a schedule.
        votes: the options vote, max_age and age_decay of `far_sign`; none of them, the average
            of the worker that answered decides.
        contract: whether XLA contracts multiply and add on this machine; None uses the result
            of `uses_multiply_add`.

    Raises:
        InvalidConfig: if neither choice reproduces the bits of the compiled update.
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
        votes: dict[str, Any] | None = None,
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
            def step(n):
                clipped = jnp.clip(jnp.asarray(beta(n), jnp.float32), 0, 1)
                return jnp.asarray(alpha(n), jnp.float32), clipped

            return jax.lax.map(step, first + jnp.arange(_BLOCK, dtype=jnp.int32))

        self._draw, self._steps = jax.jit(draw), jax.jit(steps)
        self._first, self._alpha, self._beta = -_BLOCK, np.zeros(0), np.zeros(0)
        if contract is None:
            contract = uses_multiply_add()
        if contract is None:
            raise InvalidConfig("NumPy cannot reproduce the bits of XLA on this machine")
        self._add = multiply_add if contract else multiply_then_add
        self._vote = numpy_vote.make(m, dictionary.size, votes or {})

    def query(self, worker: int, number: int) -> np.ndarray:
        return np.asarray(self._draw(np.int32(worker), np.int32(number)))

    def update(
        self, worker: int, version: int, direction: np.ndarray, value: np.ndarray
    ) -> Any:
        del version  # FAR-SIGN does not depend on the age of an answer
        alpha, beta = self._step_sizes()
        answer = flush_subnormals(np.minimum(np.maximum(value, -_LARGEST), _LARGEST))
        old = self.averages[direction, worker]
        new = decisive = self._add(beta, flush_subnormals(answer - old), old)
        if self._vote is not None:
            decisive = self._vote.decide(worker, self.averages[direction], new, self.step)
        moved = self.params[direction] - alpha * np.sign(decisive)
        self.averages[direction, worker] = new
        self.params[direction] = flush_subnormals(moved)
        self.counts[worker] += 1
        self.step += 1
        return direction

    def _step_sizes(self) -> tuple[np.float32, np.float32]:
        index = self.step - self._first
        if not 0 <= index < _BLOCK:
            index, self._first = 0, self.step
            alpha, beta = self._steps(np.int32(self.step))
            self._alpha, self._beta = np.asarray(alpha), np.asarray(beta)
        return self._alpha[index], self._beta[index]

    def state(self) -> dict[str, np.ndarray]:
        votes = {} if self._vote is None else self._vote.state()
        return {
            "params": self.params,
            "averages": self.averages,
            "counts": self.counts,
            "step": np.asarray(self.step, np.int32),
        } | {_VOTES + name: array for name, array in votes.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        check_alike(state, self.state())
        if self._vote is not None:
            self._vote.restore({name.removeprefix(_VOTES): a for name, a in state.items()})
        self.params, self.averages = state["params"], state["averages"]
        self.counts, self.step = state["counts"], int(state["step"])

    def differing(self, state: Any) -> list[str]:
        own, other = self.state(), named_arrays(state)
        other["averages"] = other["averages"].T
        return [name for name in own if not same_bits(own[name], other[name])]


@functools.cache
def uses_multiply_add() -> bool | None:
    """Returns whether compiled updates contract multiply and add on this machine.

    Returns None if `NumpyServer` reproduces the bits of the compiled update in neither case.
    Both are compared on values of all magnitudes, in a loop as in the simulator.
    """
    m, dictionary = 2, identity(64, 32)
    rng = np.random.default_rng(0)
    step_sizes: Any = {"step_size": 0.07, "average_step": 0.3}
    magnitudes = 10.0 ** rng.integers(-44, 32, (256, 32))
    values = (rng.normal(size=magnitudes.shape) * magnitudes).astype(np.float32)
    values[1::2] = rng.normal(size=values[1::2].shape)
    workers = rng.integers(0, m, 256).astype(np.int32)
    chosen = np.argsort(rng.random((256, 64)), axis=1)[:, :32].astype(np.int32)
    server, x0 = far_sign(m, dictionary, **step_sizes), rng.normal(size=64).astype(np.float32)

    def update(state, arrival):
        worker, indices, value = arrival
        report = Report(worker[None], jnp.zeros(1, jnp.int32), indices[None], value[None])
        return server.update(state, report)[0], None

    def loop(x0, arrivals):
        return jax.lax.scan(update, server.init(x0, None), arrivals)[0]

    expected = jax.jit(loop)(x0, (workers, chosen, values))
    for contract in (True, False):
        machine = NumpyServer(m, dictionary, x0, 0, **step_sizes, contract=contract)
        for worker, indices, value in zip(workers, chosen, values, strict=True):
            machine.update(int(worker), 0, indices, value)
        same_params = same_bits(machine.params, expected.params)
        if same_params and same_bits(machine.averages.T, expected.averages):
            return contract
    return None
