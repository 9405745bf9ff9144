"""The state of a server, x and y included, and how each answer changes it.

A state machine processes one worker at a time. It performs no I/O, reads no clock and uses no
random number generator of its own: the journal of arrivals determines its state bit for bit.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax import programs
from farsign_jax.base import Report, Server


class StateMachine(Protocol):
    """The state of a server between two arrivals.

    Attributes:
        num_workers: the number m of workers.
        shape: the shape of the values of one answer.
    """

    num_workers: int
    shape: tuple[int, ...]

    @property
    def step(self) -> int:
        """The number of updates of the iterate so far."""
        ...

    @property
    def params(self) -> np.ndarray:
        """The iterate x, f32[d]; read-only, and valid only until the next `update`."""
        ...

    def query(self, worker: int, number: int) -> np.ndarray:
        """Returns the directions of question `number` to a worker.

        The array is u32 or i32[...]; it is empty if the worker answers with a full gradient.
        """
        ...

    def update(
        self, worker: int, version: int, direction: np.ndarray, value: np.ndarray
    ) -> Any:
        """Applies one answer.

        Args:
            worker: the worker that has answered.
            version: the step of the server at which the question was asked.
            direction: the directions of the question, as `query` returned them.
            value: f32[shape], finite.

        Returns:
            The coordinates of x that may have changed, i32[...], or None for all of them.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Returns the complete state by name.

        The arrays may be those of the machine itself; they are valid until the next `update`.
        """
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `state` returned.

        Raises:
            ValueError: if a name, a shape or a type differs.
        """
        ...

    def differing(self, state: Any) -> list[str]:
        """Returns the names of the arrays that differ bitwise from a state of the server."""
        ...


class CompiledServer:
    """A `StateMachine` that compiles `query` and `update` of any asynchronous server.

    Args:
        server: a `base.Server` that processes one report at a time.
        x0: the initial iterate, f32[d].
        seed: the seed of the run.
        shape: the shape of the values of one answer.
        coordinates: whether an answer changes x only at the coordinates it was asked about.
    """

    def __init__(
        self, server: Server, x0: Any, seed: int, shape: tuple[int, ...], coordinates: bool
    ):
        programs.release_if_many()
        keys = keys_lib.split(seed)
        self.num_workers, self.shape = server.num_workers, shape
        self._coordinates = coordinates

        def query(state, worker, number):
            key = keys_lib.message(keys.queries, worker, number)
            return server.query(state, worker, key).direction

        def update(state, worker, version, direction, value):
            report = Report(worker, version, direction, value)
            return server.update(state, jax.tree.map(lambda a: a[None], report))[0]

        self._query, self._update = jax.jit(query), jax.jit(update, donate_argnums=0)
        self._state = jax.jit(lambda x: server.init(jnp.copy(x), keys.server))(x0)
        self._params: np.ndarray | None = None
        self._like = jax.eval_shape(query, self._state, np.int32(0), np.int32(0))

    @property
    def step(self) -> int:
        return int(self._state.step)

    @property
    def params(self) -> np.ndarray:
        if self._params is None:  # a copy, because an array with a NumPy view is not donated
            self._params = np.array(self._state.params)
        return self._params

    def query(self, worker: int, number: int) -> np.ndarray:
        direction = self._query(self._state, np.int32(worker), np.int32(number))
        return np.zeros(0, np.int32) if isinstance(direction, tuple) else np.asarray(direction)

    def update(
        self, worker: int, version: int, direction: np.ndarray, value: np.ndarray
    ) -> Any:
        given = () if isinstance(self._like, tuple) else direction
        self._state = self._update(
            self._state, np.int32(worker), np.int32(version), given, value
        )
        self._params = None
        return direction if self._coordinates else None

    def state(self) -> dict[str, np.ndarray]:
        return named_arrays(self._state)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        check_alike(state, self.state())
        self._state = from_named(self._state, state)
        self._params = None

    def differing(self, state: Any) -> list[str]:
        own, other = self.state(), named_arrays(state)
        return [name for name in own if not same_bits(own[name], other[name])]


def named_arrays(state: Any) -> dict[str, np.ndarray]:
    """Returns copies of the arrays of a server's state by name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path).lstrip("."): _as_numpy(leaf) for path, leaf in leaves}


def from_named(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns a state like another one, with the arrays that `named_arrays` returned."""
    names, leaves = named_arrays(like), jax.tree.leaves(like)
    leaves = [_like(arrays[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def same_bits(a: Any, b: Any) -> bool:
    """Returns whether two arrays are bitwise equal, signs of zeros and NaN included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _as_numpy(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def _like(array: np.ndarray, leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.array(array)  # a copy, because `update` donates the state


def check_alike(state: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> None:
    """Raises `ValueError` if names, shapes or types of two states differ."""
    for name in sorted(state.keys() | like.keys()):
        found, expected = (
            f"{arrays[name].dtype}{list(arrays[name].shape)}" if name in arrays else "nothing"
            for arrays in (state, like)
        )
        if found != expected:
            raise ValueError(f"{name} is {found} where {expected} is needed")
