"""Dictionaries: the directions a_ij along which worker i can be asked (D_i in the paper).

A dictionary materialises no more than necessary: `identity` touches k numbers, and `seeded`
draws its vectors again from their ids.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key
from farsign_jax.directions.designs import design as design
from farsign_jax.directions.margin import Certificate as Certificate
from farsign_jax.directions.margin import certify as certify
from farsign_jax.validation import require

_ROUNDS = 16  # rounds of the shuffle below; each halves the fraction of adjacent ids


class Dictionary(NamedTuple):
    """K directions per worker, of which a question has k.

    In the functions, `worker` is i32[...], `direction` i32[..., k] and `amount` f32[..., k],
    for any leading axes.
    """

    dim: int  # d
    size: int  # K
    per_query: int  # k
    draw: Callable[[Key, Array], Array]  # (key, worker) -> i32[k] distinct ids in [0, K)
    move: Callable[[Array, Array, Array, Array], Array]  # x + sum_j amount_j a_ij
    project: Callable[[Array, Array, Array], Array]  # g f32[d] -> (a_ij . g)_j, f32[k]
    shared: bool = True  # whether direction j is the same vector for every worker
    coordinates: bool = False  # whether direction j is the j-th unit vector
    num_workers: int | None = None  # m, if each worker has directions of its own


def mixed(x: Array) -> Array:
    """Mixes the bits of u32, one to one: every bit of x affects the high bits of the result."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)


def sample_distinct(key: Key, size: int, k: int) -> Array:
    """Draws k distinct numbers below `size`, each equally likely, in O(k) time and memory.

    They are the first k values of a keyed permutation of range(size): a random shift, which
    makes every value equally likely, followed by rounds of the swap-or-not shuffle (Hoang,
    Morris and Rogaway, CRYPTO 2012). Drawing without replacement would cost O(size) per event,
    and drawing with replacement would leave duplicate writes undefined.
    """
    modulus = jnp.uint32(size)
    shift_key, *round_keys = jax.random.split(key, 3)
    shift = jax.random.bits(shift_key, (), jnp.uint32) % modulus
    offsets, salts = (jax.random.bits(k, (_ROUNDS,), jnp.uint32) for k in round_keys)

    def swap_or_not(x, offset_and_salt):
        offset, salt = offset_and_salt
        partner = jnp.where(x <= offset, offset - x, offset + (modulus - x))
        # Both members of a pair get the same coin, so that each round is a bijection.
        coin = mixed(jnp.maximum(x, partner) ^ salt)
        return jnp.where(coin >> 31 == 1, partner, x), None

    x = (jnp.arange(k, dtype=jnp.uint32) + shift) % modulus

    def rounds(unroll):
        return jax.lax.scan(swap_or_not, x, (offsets % modulus, salts), unroll=unroll)[0]

    # On a CPU this is a loop: unrolled, XLA would compute all rounds again wherever an id is
    # used. On other devices that is cheaper than launching a loop.
    x = jax.lax.platform_dependent(cpu=lambda: rounds(4), default=lambda: rounds(_ROUNDS))
    return x.astype(jnp.int32)


def _check(size: int, k: int) -> None:
    require(k >= 1, f"a question needs at least one direction: got k={k}")
    require(k <= size, f"a question needs k <= number of directions: got k={k}, K={size}")
    require(size < 2**31, f"directions are numbered in int32: got K={size}")


def identity(dim: int, k: int) -> Dictionary:
    """D_i = I, k distinct coordinates per question, as in the MNIST experiment of the paper."""
    _check(dim, k)

    def draw(key, worker):
        del worker  # all workers are asked about the same coordinates
        return sample_distinct(key, dim, k)

    def move(x, worker, direction, amount):
        del worker
        return x.at[direction].add(amount)

    def project(g, worker, direction):
        del worker
        return g[direction]

    return Dictionary(dim, dim, k, draw, move, project, coordinates=True)


def matrix(directions: Array, k: int = 1) -> Dictionary:
    """One matrix of directions per worker, f32[m, K, d], whose row j is a_ij."""
    require(
        np.ndim(directions) == 3,
        f"directions must be [m, K, d]: got shape {np.shape(directions)}",
    )
    directions = jnp.asarray(directions)
    workers, size, dim = directions.shape
    _check(size, k)

    def draw(key, worker):
        del worker
        return sample_distinct(key, size, k)

    def move(x, worker, direction, amount):
        rows = directions[worker[..., None], direction].astype(x.dtype)  # [..., k, d]
        return x + jnp.tensordot(amount, rows, axes=amount.ndim)

    def project(g, worker, direction):
        return directions[worker, direction].astype(g.dtype) @ g

    return Dictionary(dim, size, k, draw, move, project, shared=False, num_workers=workers)


def seeded(dim: int, size: int, k: int, key: Key, *, shared: bool = True) -> Dictionary:
    """K dense directions, uniform on the unit sphere, drawn again from their ids each time.

    Nothing is stored and no vector is sent, so that d may be large, or the worker remote.

    Args:
        dim: d.
        size: K, the number of directions per worker.
        k: the number of directions per question.
        key: the key that the vectors are drawn from; it may be traced.
        shared: whether all workers have the same K vectors, or each has its own.
    """
    _check(size, k)

    def vector(worker, j, dtype):
        base = key if shared else jax.random.fold_in(key, worker)
        v = jax.random.normal(jax.random.fold_in(base, j), (dim,), dtype)
        return v / jnp.linalg.norm(v)

    def draw(key, worker):
        del worker
        return sample_distinct(key, size, k)

    def move(x, worker, direction, amount):
        workers = jnp.broadcast_to(worker[..., None], direction.shape).reshape(-1)

        def step(x, ija):  # with one vector in memory at a time
            i, j, a = ija
            return x + a * vector(i, j, x.dtype), None

        pairs = (workers, direction.reshape(-1), amount.reshape(-1))
        return jax.lax.scan(step, x, pairs)[0]

    def project(g, worker, direction):
        return jax.lax.map(lambda j: vector(worker, j, g.dtype) @ g, direction)

    return Dictionary(dim, size, k, draw, move, project, shared=shared)
