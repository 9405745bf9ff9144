"""Where a server keeps y[i, j], one moving average per worker and direction: m K numbers.

This limits the size of a model. All kinds of storage read and write k numbers per answer:

    float32    m K numbers of 4 bytes; exact
    bfloat16   m K numbers of 2 bytes, the upper 8 bits of each mantissa; signs, which are all
               that matters, are exact, but a change smaller than 1/256 of y is lost
    blocks     one average for `width` consecutive directions, 4 m K / width bytes; all of these
               directions move by the sign of the last answer about any of them
    sketch     three hashed tables with signs, read by their median (count sketch; Charikar,
               Chen and Farach-Colton, 2002), 12 m slots bytes; directions that share a slot
               disturb each other at random
    hashed     one table with the number of the direction beside each average, 8 m slots bytes;
               of the directions that share a slot only the last one is remembered, and the
               others move by the sign of the newest answer
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, PyTree
from farsign_jax.directions.dictionary import mixed
from farsign_jax.validation import lookup, require

_ROWS = 3  # the number of tables of a sketch


class AverageStorage(NamedTuple):
    """How the averages of m workers and K directions are kept.

    Workers i are i32[s, 1], m in an empty slot; directions j are i32[s, k].

    Attributes:
        init: `(dtype of x) -> state`.
        read: `(state, i, j) -> averages`, f32 of the shape of i and j together.
        write: `(state, i, j, old, new) -> state`, where `old` is what `read` has returned.
        exact: whether `read` returns what was written last, to the bit.
    """

    init: Callable[[Any], PyTree]
    read: Callable[[PyTree, Array, Array], Array]
    write: Callable[[PyTree, Array, Array, Array, Array], PyTree]
    exact: bool = False


def dense(m: int, size: int) -> AverageStorage:
    """Keeps every average in the number format of x."""

    def init(dtype: Any) -> Array:
        return jnp.zeros((m, size), dtype)

    def read(state: Array, i: Array, j: Array) -> Array:
        return state[i, j]

    def write(state: Array, i: Array, j: Array, old: Array, new: Array) -> Array:
        return state.at[i, j].set(new, mode="drop")

    return AverageStorage(init, read, write, exact=True)


def bfloat16(m: int, size: int) -> AverageStorage:
    """Keeps the upper 16 bits of every average.

    They are stored as integers: on a device without arithmetic on bfloat16, a table of that
    format would be converted to float32 and back in every event.
    """

    def init(dtype: Any) -> Array:
        return jnp.zeros((m, size), jnp.uint16)

    def read(state: Array, i: Array, j: Array) -> Array:
        return jax.lax.bitcast_convert_type(state[i, j], jnp.bfloat16).astype(jnp.float32)

    def write(state: Array, i: Array, j: Array, old: Array, new: Array) -> Array:
        bits = jax.lax.bitcast_convert_type(new.astype(jnp.bfloat16), jnp.uint16)
        return state.at[i, j].set(bits, mode="drop")

    return AverageStorage(init, read, write)


def blocks(m: int, size: int, width: int) -> AverageStorage:
    """Keeps one average for `width` consecutive directions."""
    require(1 <= width <= size, f"blocks need 1 <= width <= K={size}: got {width}")

    def init(dtype: Any) -> Array:
        return jnp.zeros((m, -(-size // width)), dtype)

    def read(state: Array, i: Array, j: Array) -> Array:
        return state[i, j // width]

    def write(state: Array, i: Array, j: Array, old: Array, new: Array) -> Array:
        # Added, as several directions of one answer may be in the same block.
        return state.at[i, j // width].add(new - old, mode="drop")

    return AverageStorage(init, read, write)


def _hash(j: Array, salt: int) -> Array:
    """Returns pseudorandom numbers u32 of the shape of j."""
    x = j.astype(jnp.uint32) * jnp.uint32(0x9E3779B9) + jnp.uint32(salt * 0x85EBCA6B % 2**32)
    x = mixed(x)
    return x ^ (x >> 16)


def sketch(m: int, size: int, slots: int) -> AverageStorage:
    """Keeps three tables of `slots` numbers for each worker."""
    require(1 <= slots <= size, f"a sketch needs 1 <= slots <= K={size}: got {slots}")

    def places(i: Array, j: Array) -> tuple[tuple[Array, Array, Array], Array]:
        """Returns one place in each table, [rows, s, k], and the signs there."""
        rows = jnp.arange(_ROWS, dtype=jnp.int32)[:, None, None]
        hashed = jnp.stack([_hash(j, row) for row in range(_ROWS)])
        sign = jnp.where(hashed >> 31 == 1, 1.0, -1.0)
        return (rows, i[None], (hashed & 0x7FFFFFFF).astype(jnp.int32) % slots), sign

    def init(dtype: Any) -> Array:
        return jnp.zeros((_ROWS, m, slots), dtype)

    def read(state: Array, i: Array, j: Array) -> Array:
        at, sign = places(i, j)
        return jnp.median(sign * state[at], axis=0)

    def write(state: Array, i: Array, j: Array, old: Array, new: Array) -> Array:
        at, sign = places(i, j)
        return state.at[at].add(sign * (new - old)[None], mode="drop")

    return AverageStorage(init, read, write)


def hashed(m: int, size: int, slots: int) -> AverageStorage:
    """Keeps a table of `slots` averages for each worker, each beside its direction.

    The state is i32[m, slots, 2]: the direction, -1 before the first, and the bits of the
    average. With two tables, XLA would copy one in every event, to read it after the other is
    written.
    """
    require(1 <= slots <= size, f"a table needs 1 <= slots <= K={size}: got {slots}")

    def init(dtype: Any) -> Array:
        return jnp.stack(
            [jnp.full((m, slots), -1, jnp.int32), jnp.zeros((m, slots), jnp.int32)], -1
        )

    def place(j: Array) -> Array:
        return (_hash(j, 0) >> 1).astype(jnp.int32) % slots

    def read(state: Array, i: Array, j: Array) -> Array:
        kept = state[i, place(j)]
        average = jax.lax.bitcast_convert_type(kept[..., 1], jnp.float32)
        return jnp.where(kept[..., 0] == j, average, 0.0)

    def write(state: Array, i: Array, j: Array, old: Array, new: Array) -> Array:
        # Only the last write to a slot is kept: of two, the average of one direction could end
        # beside the number of the other.
        at = place(j)
        later = jnp.triu(jnp.ones((j.shape[-1],) * 2, bool), 1)[None]
        taken = jnp.any(later & (at[..., :, None] == at[..., None, :]), axis=-1)
        at = jnp.where(taken, slots, at)
        bits = jax.lax.bitcast_convert_type(new.astype(jnp.float32), jnp.int32)
        return state.at[i, at].set(jnp.stack([j, bits], -1), mode="drop")

    return AverageStorage(init, read, write)


def _dense(m: int, size: int, slots: int) -> AverageStorage:
    return dense(m, size)


def _bfloat16(m: int, size: int, slots: int) -> AverageStorage:
    return bfloat16(m, size)


def _blocks(m: int, size: int, slots: int) -> AverageStorage:
    return blocks(m, size, -(-size // slots))


STORAGE: dict[str, Callable[[int, int, int], AverageStorage]] = {
    "float32": _dense,
    "bfloat16": _bfloat16,
    "blocks": _blocks,
    "sketch": sketch,
    "hashed": hashed,
}


def make(name: str, m: int, size: int, slots: int | None = None) -> AverageStorage:
    """Returns a storage by name.

    Args:
        name: a key of `STORAGE`.
        m: the number of workers.
        size: K, the number of directions.
        slots: the number of averages per worker for "blocks", "sketch" and "hashed"; by default
            an eighth of K.

    Raises:
        InvalidConfig: if the name is unknown, or `slots` is not in 1..K.
    """
    kind = lookup("storage", name, STORAGE)
    slots = max(size // 8, 1) if slots is None else slots
    require(1 <= slots <= size, f"storage needs 1 <= slots <= K={size}: got {slots}")
    return kind(m, size, slots)


def memory_advice(m: int) -> Callable[[str, int, int, int], str]:
    """Returns advice on storage for a run that does not fit into memory (`Server`)."""

    def advice(field: str, size: int, rest: int, available: int) -> str:
        if field != "averages" or rest >= available:
            return ""
        slots = (available - rest) // (8 * m)
        return (
            f"storage=bfloat16 needs {(rest + size // 2) / 2**30:.3g} GiB, and "
            f"storage=hashed,slots={slots} or less fits (methods.average_storage)"
        )

    return advice
