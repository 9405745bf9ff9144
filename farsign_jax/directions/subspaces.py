"""Few directions for the parameters of a large model, which all workers rebuild from a seed.

    x(z) = x0 + sum_j z_j a_j,    j = 1..K

A method that moves z in R^K by coordinates moves x along the a_j, and what it can reach is a
point where a_j . grad f = 0 for all j. The directions have unit length, are never stored as a
K x d matrix, and x is evaluated from z in one order, so that whoever has z, x0 and the seed has
the same x to the last bit.

low_rank   a_j changes the kernel of one dense layer by u v^T of rank r (`models.adapters`)
sparse     a_j has random signs in s parameters of its own; no two directions share one
dense      a_j is normal in all parameters; x(z) costs O(K d)

References:
    Low-rank perturbations of each layer: Sarkar et al., "Evolution Strategies at the
    Hyperscale" (EGGROLL), arXiv 2511.16652. A fixed set of K seeds: Qin et al., "Federated
    Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under 18
    Kilobytes" (FedKSeed), arXiv 2312.06353.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key, PyTree
from farsign_jax.validation import check_integer, require

Leaves = dict[str, Array]  # parameters by their paths, as in "blocks/query/kernel"


class Layer(NamedTuple):
    """What directions may change: the parameters under one path.

    Attributes:
        path: of the leaf, as in "blocks/query/kernel".
        shape: of the leaf.
        blocks: how many blocks the leaf has stacked along its first axis; 0, none.
        block: of a leaf that is not stacked, the first block that depends on it.
    """

    path: str
    shape: tuple[int, ...]
    blocks: int = 0
    block: int = 0


class Subspace(NamedTuple):
    """K directions, as functions of z f[K] and of arrays `factors` that a seed decides.

    Attributes:
        size: K.
        draw: `key -> factors`.
        move: `(leaves, factors, z) -> leaves` at x(z), or None if `adapters` change the layers.
        step: `(leaves, factors, j, amount) -> leaves`, one step along a_j.
        adapters: `(factors, z) -> (left, right, scale)` of each path, or None.
        block: `j -> i32[]`, the first block that direction j changes.
    """

    size: int
    draw: Callable[[Key], PyTree]
    move: Callable[[Leaves, PyTree, Array], Leaves] | None
    step: Callable[[Leaves, PyTree, Array, Array], Leaves] | None
    adapters: Callable[[PyTree, Array], dict[str, tuple[Array, Array, Array]]] | None
    block: Callable[[Array], Array]


def low_rank(layers: Sequence[Layer], *, size: int = 512, rank: int = 1) -> Subspace:
    """Directions that change the kernel of one dense layer each by a matrix of low rank.

    Direction j is E = r^(-1/2) sum_s u_s v_s^T with u_s, v_s of unit length, uniform on their
    spheres. Directions go round the layers, those of all blocks, so that every layer has K over
    their number, or one more.

    Args:
        layers: kernels [in, out], or [blocks, in, out].
        size: K, the number of directions.
        rank: r of each.

    Raises:
        InvalidConfig: if K or r is below 1.
    """
    size = check_integer("low_rank", "size", size, 1)
    rank = check_integer("low_rank", "rank", rank, 1)
    counts = [max(layer.blocks, 1) for layer in layers]
    total = sum(counts)
    each = -(-size // total)  # directions of a layer
    first = np.concatenate(
        [np.arange(layer.blocks) if layer.blocks else [layer.block] for layer in layers]
    ).astype(np.int32)

    def unit(key: Key, shape: tuple[int, ...], axis: int) -> Array:
        v = jax.random.normal(key, shape)
        return v / jnp.linalg.norm(v, axis=axis, keepdims=True)

    def draw(key: Key) -> dict[str, tuple[Array, Array]]:
        found = {}
        for layer, own in zip(layers, jax.random.split(key, len(layers)), strict=True):
            *stack, fan_in, fan_out = layer.shape
            left_key, right_key = jax.random.split(own)
            left = unit(left_key, (*stack, fan_in, each * rank), -2)
            right = unit(right_key, (*stack, each * rank, fan_out), -1)
            found[layer.path] = left, right / math.sqrt(rank)
        return found

    def adapters(
        factors: dict[str, tuple[Array, Array]], z: Array
    ) -> dict[str, tuple[Array, Array, Array]]:
        rows = jnp.pad(z, (0, each * total - size)).reshape(each, total).T  # [total, each]
        found, at = {}, 0
        for layer, count in zip(layers, counts, strict=True):
            own = rows[at : at + count] if layer.blocks else rows[at]
            found[layer.path] = *factors[layer.path], jnp.repeat(own, rank, axis=-1)
            at += count
        return found

    def block(j: Array) -> Array:
        return jnp.asarray(first)[j % total]

    return Subspace(size, draw, None, None, adapters, block)


def sparse(layers: Sequence[Layer], *, size: int = 512, block: int = 64) -> Subspace:
    """Directions with random signs in `block` parameters each, which no other one has.

    Args:
        layers: the parameters that are changed.
        size: K, the number of directions.
        block: s, the parameters of each.

    Raises:
        InvalidConfig: if K or s is below 1, or there are fewer than K s parameters.
    """
    size = check_integer("sparse", "size", size, 1)
    width = check_integer("sparse", "block", block, 1)
    sizes = [math.prod(layer.shape) for layer in layers]
    d = sum(sizes)
    rule = f"sparse directions share no parameter: {size} of {width} need {size * width}, and "
    require(size * width <= d, f"{rule}these layers have {d}")
    stride = next(n for n in range(int(d * 0.618) + 1, 2 * d + 2) if math.gcd(n, d) == 1) % d
    # In Python, as the products do not fit into int32: place n is parameter n * stride mod d.
    places = np.array([n * max(stride, 1) % d for n in range(size * width)], np.int32)
    places = places.reshape(size, width)

    def draw(key: Key) -> tuple[Array, Array]:
        signs = jax.random.rademacher(key, (size, width), jnp.float32)
        return jnp.asarray(places), signs / math.sqrt(width)

    def added(leaves: Leaves, at: Array, amounts: Array) -> Leaves:
        flat = jnp.concatenate([leaves[layer.path].reshape(-1) for layer in layers])
        flat = flat.at[at.reshape(-1)].add(amounts.reshape(-1), unique_indices=True)
        return leaves | _unflattened(layers, sizes, flat)

    def move(leaves: Leaves, factors: tuple[Array, Array], z: Array) -> Leaves:
        at, signs = factors
        return added(leaves, at, z[:, None] * signs)

    def step(leaves: Leaves, factors: tuple[Array, Array], j: Array, amount: Array) -> Leaves:
        at, signs = factors
        return added(leaves, at[j], amount * signs[j])

    return Subspace(size, draw, move, step, None, lambda j: jnp.zeros((), jnp.int32))


def dense(layers: Sequence[Layer], *, size: int = 64) -> Subspace:
    """Directions uniform on the unit sphere of all parameters, drawn again each time.

    Args:
        layers: the parameters that are changed.
        size: K, the number of directions.

    Raises:
        InvalidConfig: if K is below 1.
    """
    size = check_integer("dense", "size", size, 1)
    sizes = [math.prod(layer.shape) for layer in layers]
    d = sum(sizes)

    def draw(key: Key) -> Array:
        return jax.random.key_data(key)

    def flat(leaves: Leaves) -> Array:
        return jnp.concatenate([leaves[layer.path].reshape(-1) for layer in layers])

    def plus(x: Array, key: Array, j: Array, amount: Array) -> Array:
        own = jax.random.fold_in(jax.random.wrap_key_data(key), j)
        v = jax.random.normal(own, (d,), x.dtype)
        return x + amount * (v / jnp.linalg.norm(v))

    def move(leaves: Leaves, key: Array, z: Array) -> Leaves:
        def one(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
            return plus(x, key, *pair), None

        x = jax.lax.scan(one, flat(leaves), (jnp.arange(size), z))[0]
        return leaves | _unflattened(layers, sizes, x)

    def step(leaves: Leaves, key: Array, j: Array, amount: Array) -> Leaves:
        return leaves | _unflattened(layers, sizes, plus(flat(leaves), key, j, amount))

    return Subspace(size, draw, move, step, None, lambda j: jnp.zeros((), jnp.int32))


def _unflattened(layers: Sequence[Layer], sizes: Sequence[int], x: Array) -> Leaves:
    parts = jax.lax.split(x, sizes)
    return {
        layer.path: part.reshape(layer.shape) for layer, part in zip(layers, parts, strict=True)
    }


SUBSPACES: dict[str, Callable[..., Subspace]] = {
    "low_rank": low_rank,
    "sparse": sparse,
    "dense": dense,
}
