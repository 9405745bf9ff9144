"""Where a server keeps y[i, j], one moving average per worker and direction: m K numbers.

That is what limits the size of a model. All kinds read and write k numbers per answer:

    float32    m K numbers of 4 bytes: exact
    bfloat16   of 2 bytes: 8 bits of each number; signs, which are all that matters, are exact,
               but a step smaller than 1/256 of y is lost
    blocks     one average for `share` consecutive directions: 4 m K / share bytes, and all of
               them move by the sign of what was last said of any
    sketch     three hashed tables with signs, read by their median (count sketch; Charikar,
               Chen and Farach-Colton, 2002): 12 m slots bytes; directions that share a slot
               disturb each other at random
    hashed     one table with the number of the direction beside each average: 8 m slots bytes.
               Of directions that share a slot the last one is remembered; of the others nothing
               is, and they move by the sign of the newest answer
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, PyTree
from farsign_jax.directions.dictionary import mixed
from farsign_jax.validation import lookup, require

_ROWS = 3  # tables of a sketch


class Averages(NamedTuple):
    """For m workers and K directions; i is i32[s, 1], m where nobody is, j i32[s, k]."""

    init: Callable[[Any], PyTree]  # of the dtype of x
    read: Callable[[PyTree, Array, Array], Array]  # -> f32 of the shape of i and j together
    write: Callable[[PyTree, Array, Array, Array, Array], PyTree]  # (state, i, j, old, new)


def dense(m: int, size: int) -> Averages:
    """An average each."""
    return Averages(
        lambda dtype: jnp.zeros((m, size), dtype),
        lambda state, i, j: state[i, j],
        lambda state, i, j, old, new: state.at[i, j].set(new, mode="drop"),
    )


def bfloat16(m: int, size: int) -> Averages:
    """An average each, kept as its upper 16 bits.

    As whole numbers: where a device has no arithmetic on bfloat16, a table of them would be
    turned into float32 and back in every event.
    """

    def read(state, i, j):
        return jax.lax.bitcast_convert_type(state[i, j], jnp.bfloat16).astype(jnp.float32)

    def write(state, i, j, old, new):
        bits = jax.lax.bitcast_convert_type(new.astype(jnp.bfloat16), jnp.uint16)
        return state.at[i, j].set(bits, mode="drop")

    return Averages(lambda dtype: jnp.zeros((m, size), jnp.uint16), read, write)


def blocks(m: int, size: int, share: int) -> Averages:
    """One average for `share` consecutive directions."""
    require(1 <= share <= size, f"blocks need 1 <= share <= K={size}: got {share}")

    def write(state, i, j, old, new):  # several of one answer may meet
        return state.at[i, j // share].add(new - old, mode="drop")

    return Averages(
        lambda dtype: jnp.zeros((m, -(-size // share)), dtype),
        lambda state, i, j: state[i, j // share],
        write,
    )


def _hash(j: Array, salt: int) -> Array:
    """u32, as good as random."""
    x = j.astype(jnp.uint32) * jnp.uint32(0x9E3779B9) + jnp.uint32(salt * 0x85EBCA6B % 2**32)
    x = mixed(x)
    return x ^ (x >> 16)


def sketch(m: int, size: int, slots: int) -> Averages:
    """Three tables of `slots` numbers for each worker."""
    require(1 <= slots <= size, f"a sketch needs 1 <= slots <= K={size}: got {slots}")

    def places(i, j):  # one in each table, [rows, s, k], and the signs there
        rows = jnp.arange(_ROWS, dtype=jnp.int32)[:, None, None]
        hashed = jnp.stack([_hash(j, row) for row in range(_ROWS)])
        sign = jnp.where(hashed >> 31 == 1, 1.0, -1.0)
        return (rows, i[None], (hashed & 0x7FFFFFFF).astype(jnp.int32) % slots), sign

    def read(state, i, j):
        at, sign = places(i, j)
        return jnp.median(sign * state[at], axis=0)

    def write(state, i, j, old, new):
        at, sign = places(i, j)
        return state.at[at].add(sign * (new - old)[None], mode="drop")

    return Averages(lambda dtype: jnp.zeros((_ROWS, m, slots), dtype), read, write)


def hashed(m: int, size: int, slots: int) -> Averages:
    """A table of `slots` averages for each worker, each beside its direction.

    i32[m, slots, 2]: the direction, -1 before the first, and the bits of the average. (Of two
    tables, XLA would copy one in every event, to read it after the other is written.)
    """
    require(1 <= slots <= size, f"a table needs 1 <= slots <= K={size}: got {slots}")

    def init(dtype):
        del dtype
        return jnp.stack(
            [jnp.full((m, slots), -1, jnp.int32), jnp.zeros((m, slots), jnp.int32)], -1
        )

    def place(j):
        return (_hash(j, 0) >> 1).astype(jnp.int32) % slots

    def read(state, i, j):
        kept = state[i, place(j)]
        average = jax.lax.bitcast_convert_type(kept[..., 1], jnp.float32)
        return jnp.where(kept[..., 0] == j, average, 0.0)

    def write(state, i, j, old, new):
        at = place(j)  # two writes to one slot may end in the average of one for the other
        later = jnp.triu(jnp.ones((j.shape[-1],) * 2, bool), 1)[None]
        taken = jnp.any(later & (at[..., :, None] == at[..., None, :]), axis=-1)
        at = jnp.where(taken, slots, at)
        bits = jax.lax.bitcast_convert_type(new.astype(jnp.float32), jnp.int32)
        return state.at[i, at].set(jnp.stack([j, bits], -1), mode="drop")

    return Averages(init, read, write)


STORAGE = {
    "float32": lambda m, size, slots: dense(m, size),
    "bfloat16": lambda m, size, slots: bfloat16(m, size),
    "blocks": lambda m, size, slots: blocks(m, size, -(-size // slots)),
    "sketch": sketch,
    "hashed": hashed,
}


def make(name: str, m: int, size: int, slots: int | None = None) -> Averages:
    """By name; `slots` averages per worker, default an eighth of K.

    Raises:
        InvalidConfig: on an unknown name, or slots outside 1 .. K.
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
