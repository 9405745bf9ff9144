"""What the answers decide: x, y and all else that a server remembers.

A machine asks and hears, one worker at a time. It does no I/O, reads no clock and draws from
no generator of its own: the log of its arrivals decides its state to the last bit.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax import programs
from farsign_jax.base import Report, Server


class Machine(Protocol):
    """x and y between two arrivals."""

    num_workers: int  # m
    shape: tuple[int, ...]  # of the numbers of one answer

    @property
    def step(self) -> int:
        """Updates of the iterate so far."""
        ...

    @property
    def params(self) -> np.ndarray:
        """f32[d], x; to be read only, and only until the next `hear`."""
        ...

    def ask(self, worker: int, number: int) -> np.ndarray:
        """The directions of question `number` to a worker, u32 or i32[...]; empty where the
        whole gradient is meant."""
        ...

    def hear(self, worker: int, version: int, direction: np.ndarray, value: np.ndarray) -> Any:
        """Takes in finite numbers f32[shape] about `direction`, asked at step `version`.

        Returns the coordinates of x that may have changed, i32[...]; None, all.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything, by name; arrays may be the machine's own, valid until the next `hear`."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned.

        Raises:
            ValueError: where names, shapes or types differ.
        """
        ...

    def differing(self, state: Any) -> list[str]:
        """The names of arrays whose bits differ from those of a state of the server itself."""
        ...


class Compiled:
    """Any server that hears one answer at a time: its own `query` and `update`, compiled.

    Args:
        server: a `base.Server`.
        x0: f32[d].
        seed: of the run.
        shape: of the numbers of one answer.
        coordinates: whether x changes at the directions of an answer alone.
    """

    def __init__(
        self, server: Server, x0: Any, seed: int, shape: tuple[int, ...], coordinates: bool
    ):
        programs.release_if_many()
        keys = keys_lib.split(seed)
        self.num_workers, self.shape = server.num_workers, shape
        self._coordinates = coordinates

        def ask(state, worker, number):
            key = keys_lib.message(keys.queries, worker, number)
            return server.query(state, worker, key).direction

        def hear(state, worker, version, direction, value):
            one = Report(worker, version, direction, value)
            return server.update(state, jax.tree.map(lambda a: a[None], one))[0]

        self._ask, self._hear = jax.jit(ask), jax.jit(hear, donate_argnums=0)
        self._state = jax.jit(lambda x: server.init(jnp.copy(x), keys.server))(x0)
        self._params: np.ndarray | None = None
        self._like = jax.eval_shape(ask, self._state, np.int32(0), np.int32(0))

    @property
    def step(self) -> int:
        return int(self._state.step)

    @property
    def params(self) -> np.ndarray:
        if self._params is None:  # a copy: what is looked at cannot be donated
            self._params = np.array(self._state.params)
        return self._params

    def ask(self, worker: int, number: int) -> np.ndarray:
        told = self._ask(self._state, np.int32(worker), np.int32(number))
        return np.zeros(0, np.int32) if isinstance(told, tuple) else np.asarray(told)

    def hear(self, worker: int, version: int, direction: np.ndarray, value: np.ndarray) -> Any:
        asked = () if isinstance(self._like, tuple) else direction
        numbers = np.int32(worker), np.int32(version)
        self._state = self._hear(self._state, *numbers, asked, value)
        self._params = None
        return direction if self._coordinates else None

    def state(self) -> dict[str, np.ndarray]:
        return named(self._state)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        check_alike(state, self.state())
        arrays, leaves = named(self._state), jax.tree.leaves(self._state)
        leaves = [_like(state[name], leaf) for name, leaf in zip(arrays, leaves, strict=True)]
        self._state = jax.tree.unflatten(jax.tree.structure(self._state), leaves)
        self._params = None

    def differing(self, state: Any) -> list[str]:
        own, other = self.state(), named(state)
        return [name for name in own if not same_bits(own[name], other[name])]


def named(state: Any) -> dict[str, np.ndarray]:
    """The arrays of a server's state by name, copied."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path).lstrip("."): _plain(leaf) for path, leaf in leaves}


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays are equal to the last bit, signs of zeros and NaN included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _plain(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def _like(array: np.ndarray, leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.array(array)  # its own memory: it will be donated


def check_alike(state: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> None:
    """Raises `ValueError` where names, shapes or types of two states differ."""
    for name in sorted(state.keys() | like.keys()):
        kinds = [
            f"{a[name].dtype}{list(a[name].shape)}" if name in a else "nothing"
            for a in (state, like)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{name} is {kinds[0]} where {kinds[1]} is needed")
