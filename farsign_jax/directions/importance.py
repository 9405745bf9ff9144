"""Sampling of directions by importance, learnt from the answers.

A sampler keeps a score in [0, 1] for each of the K directions, a moving average over the
answers of all workers:

    score(j) <- score(j) + rate * (vote - score(j))
    vote = [Y != 0]                         "alive": whether the loss changes along j
    vote = rank of |Y| among k, in [0, 1]   "rank": how much, relative to the other k - 1

and draws direction j with probability pi_j = k w_j / sum w, w_j = floor + (1 - floor) *
score(j). One answer moves a score by at most `rate`, however large its numbers are: Byzantine
workers that give a fraction q/m of the answers shift a score by at most q/m, and a probability
by at most a factor of 1/floor.

Steps along j may be multiplied by (k / K) / pi_j, which makes the expected move that of uniform
sampling (inverse-probability weights). Without this, x moves more often along the directions
that matter.

All k directions are drawn by ordered pivotal sampling (Deville's systematic sampling). The
directions, in the order of their numbers from a random one on, are laid end to end with
lengths w_j. The line is cut into k strata of length sum w / k, and one direction is drawn from
each. A direction on both sides of a cut is not drawn twice: given that it is drawn in one
stratum, the next one leaves it out. The probabilities pi_j are exact, the k directions are
distinct, as no weight is larger than sum w / k, and any two may be drawn together, if k > 1.

An event costs O(k log K): the weights are the leaves of a binary tree of sums, integers so that
additions are exact.

References:
    Chauvet, "On a characterization of ordered pivotal sampling", Bernoulli 2012.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Key, PyTree
from farsign_jax.validation import lookup, require

_TOP = 4096  # the largest weight of a leaf, if the sum of all leaves permits it


class Sampler(NamedTuple):
    """How a server draws k of K directions.

    Attributes:
        init: `() -> state`.
        draw: `(state, key) -> i32[k]`, distinct directions.
        learn: `(state, j i32[s, k], Y f32[s, k], present bool[s]) -> state`, from answers.
        weights: `(state, j i32[s, k]) -> f32[s, k]` or 1, the weights of steps along j.
    """

    init: Callable[[], PyTree]
    draw: Callable[[PyTree, Key], Array]
    learn: Callable[[PyTree, Array, Array, Array], PyTree]
    weights: Callable[[PyTree, Array], Array | float]


class Scores(NamedTuple):
    """The state for K directions and P >= K leaves, a power of two."""

    scores: Array  # f32[K]
    tree: Array  # i32[2P], node n has the children 2n and 2n + 1; leaf j is node P + j
    total: Array  # i32[], node 1; reading it from the tree would cost a copy of the tree


def _alive(value: Array) -> Array:
    return (value != 0).astype(jnp.float32)


def _rank(value: Array) -> Array:
    size = jnp.abs(value)
    smaller = jnp.sum(size[:, None] > size[None], axis=1, dtype=jnp.int32)
    below = smaller + jnp.sum(size[:, None] >= size[None], axis=1, dtype=jnp.int32)
    ranks = (below - 1).astype(jnp.float32)  # ties get the mean of their ranks
    return ranks / (2 * max(len(size) - 1, 1))


VOTES = {"alive": _alive, "rank": _rank}


def importance(
    size: int,
    k: int,
    *,
    score: str = "alive",
    rate: float = 0.1,
    floor: float = 0.1,
    inverse: bool = False,
    max_weight: float = 10.0,
) -> Sampler:
    """A sampler that uses the scores above.

    Args:
        size: K, the number of directions.
        k: the number of directions per question.
        score: "alive" or "rank".
        rate: the weight of the newest vote, in (0, 1].
        floor: the weight of a direction of score 0 relative to one of score 1.
        inverse: whether steps are multiplied by (k / K) / pi_j.
        max_weight: the upper bound of these factors.

    Raises:
        InvalidConfig: if the rate is outside (0, 1], the score is unknown, or the floor is
            outside (0, 1] or below k / K, in which case a direction might be drawn twice.
    """
    vote = lookup("score", score, VOTES)
    require(0 < rate <= 1, f"importance needs 0 < rate <= 1: got {rate}")
    require(0 < floor <= 1, f"importance needs 0 < floor <= 1: got {floor}")
    rule = "importance asks for no direction twice: it needs floor >= k / K"
    require(floor * size >= k, f"{rule}: got floor={floor}, k={k}, K={size}")
    levels = max((size - 1).bit_length(), 1)
    leaves = 1 << levels
    top = min(_TOP, (2**31 - 1) // leaves)
    low = -int(-top * floor // 1)  # rounded up, so that size * low >= k * top
    require(low * size >= k * top, f"{rule}: got floor={floor}, k={k}, K={size}")

    def weight(scores):
        return low + jnp.round((top - low) * scores).astype(jnp.int32)

    def init():
        scores = jnp.ones((size,), jnp.float32)
        level = jnp.pad(weight(scores), (0, leaves - size))
        nodes = [level]
        while len(nodes[0]) > 1:
            nodes.insert(0, nodes[0].reshape(-1, 2).sum(axis=1, dtype=jnp.int32))
        tree = jnp.concatenate([jnp.zeros((1,), jnp.int32), *nodes])
        return Scores(scores, tree, nodes[0][0])

    def before(tree, j):
        """The sum of the weights of the directions before direction j."""
        nodes = (leaves + j) >> jnp.arange(levels, dtype=jnp.int32)
        return jnp.where(nodes % 2 == 1, tree[nodes - 1], 0).sum(dtype=jnp.int32)

    def find(tree, at):
        """The leaves at these places i32[k] of the line, and the places within the leaves."""

        def descend(_, place):
            node, rest = place
            left = tree[2 * node]
            right = rest >= left
            return 2 * node + right.astype(jnp.int32), rest - jnp.where(right, left, 0)

        return jax.lax.fori_loop(0, levels, descend, (jnp.ones_like(at), at))

    def draw(state, key):
        # A unit of weight has the length k here, so that a stratum has the length `total`.
        tree, total = state.tree, state.total
        first, heads, others = jax.random.split(key, 3)
        start = before(tree, jax.random.randint(first, (), 0, size, jnp.int32)) - total
        strata = jnp.arange(k, dtype=jnp.int32)

        def place(within):
            """Where a place in each stratum is on the line, and what is left of a unit."""
            units = strata * (total % k) + within % k
            at = start + strata * (total // k) + within // k + units // k
            return jnp.where(at < 0, at + total, at), units % k

        at, rest = place(jnp.zeros_like(strata))
        cut, inside = find(tree, at)  # the directions at the beginnings of the strata
        ahead = k * inside + rest  # the part of each in the stratum before
        behind = k * tree[cut] - ahead
        head = jax.random.randint(heads, (k,), 0, total - ahead, jnp.int32) < behind
        within = jnp.minimum(
            jax.random.randint(others, (k,), behind, total, jnp.int32), total - 1
        )
        other, _ = find(tree, place(within)[0])
        # A stratum draws the direction at its end, if that is its other choice and the one at
        # its beginning is not drawn: it does not get its head, or the stratum before drew it.
        tail = within >= total - jnp.append(ahead[1:], 0)
        settled = jax.lax.cummax(jnp.where(tail & head, -1, strata))
        ended = (settled >= 0) & (tail & ~head)[settled]
        taken = jnp.append(False, ended[:-1])
        return jnp.where(head & ~taken, cut, other) - leaves

    def leaf(state, j):
        # XLA copies the tree in every event unless all reads must precede the write: this read,
        # in `receive` and in `weights`, is the same one.
        return state.tree[leaves + j]

    def receive(state, answer):
        j, value, present = answer
        old = state.scores[j]
        new = jnp.where(present, old + rate * (vote(value) - old), old)
        change = weight(new) - leaf(state, j)  # which is weight(old), read before it is written
        nodes = (leaves + j)[None] >> jnp.arange(levels + 1, dtype=jnp.int32)[:, None]
        tree = state.tree.at[nodes].add(jnp.broadcast_to(change, nodes.shape))
        return Scores(
            state.scores.at[j].set(new), tree, state.total + change.sum(dtype=jnp.int32)
        ), ()

    def learn(state, direction, value, present):
        if len(present) == 1:
            return receive(state, (direction[0], value[0], present[0]))[0]
        return jax.lax.scan(receive, state, (direction, value, present))[0]

    def weights(state, direction):
        if not inverse:
            return 1.0
        mean = state.total.astype(jnp.float32) / size
        own = leaf(state, direction.reshape(-1)).reshape(direction.shape)
        return jnp.minimum(mean / own.astype(jnp.float32), max_weight)

    return Sampler(init, draw, learn, weights)
