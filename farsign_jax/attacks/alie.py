"""Attacks of the family "a little is enough": lies that hide in the spread of honest answers.

Each sends the mean of what honest workers reported, moved in every entry by a number of their
standard deviations, at a cost of O(m k) per message.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from farsign_jax.attacks.honest import statistics
from farsign_jax.attacks.stateless import check_finite, like, stateless
from farsign_jax.base import Array, Attack, Key, Report, View
from farsign_jax.validation import InvalidConfig, check_integer, require


def alie_z(num_workers: int, num_byzantine: Array | int, dtype: Any = jnp.float32) -> Array:
    """The largest z that rules by majority accept, Baruch et al., 2019, Algorithm 3.

    With s = floor(n / 2 + 1) - q supporters needed among the n - q honest workers,
    z = Phi^-1((n - q - s) / (n - q)). Where the Byzantine workers need no supporter (s <= 0),
    the formula does not apply and z is 1.5, as in the authors' experiments. Where it needs all
    honest workers (n <= 2), which support no finite deviation, z is 0.

    Args:
        num_workers: n.
        num_byzantine: q.
        dtype: the type of the result.

    Returns:
        z, f[].
    """
    n, q = num_workers, jnp.asarray(num_byzantine, dtype)
    supporters = n // 2 + 1 - q
    honest = n - q
    z = ndtri((honest - supporters) / honest)
    return jnp.where(supporters > 0, jnp.where(supporters < honest, z, 0), 1.5).astype(dtype)


def alie(z: float | None = None, sign: int = -1, ddof: int = 0) -> Attack:
    """A little is enough: mean + sign * z * std of what honest workers reported, per entry.

    Args:
        z: the number of standard deviations: None for the paper's formula `alie_z`, or a fixed
            number, 1.5 in the authors' code and ByzFL, 1.035 in Garfield.
        sign: -1 as in the paper; +1 in ByzFL and Blades.
        ddof: the degrees of freedom that the variance is corrected for: 0 as in the authors'
            code; 1 in ByzFL and Blades.

    Raises:
        InvalidConfig: if sign or ddof is none of these, or z is not finite.

    References:
        Baruch, Baruch and Goldberg, "A Little Is Enough", NeurIPS 2019, Algorithm 3.
    """
    require(sign in (-1, 1), f"alie needs sign -1 or 1: got {sign}")
    require(ddof in (0, 1), f"alie needs ddof 0 or 1: got {ddof}")
    if z is not None:
        check_finite("alie", "z", z)

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, std = statistics(report, view, ddof)
        return mean + int(sign) * _size(z, report, view) * std

    return stateless(forge, omniscient=True)


def _size(z: float | None, report: Report, view: View) -> Array:
    """A number of standard deviations: the given one, or that of the formula."""
    if z is not None:
        return like(report, z)
    return alie_z(view.byzantine.size, view.byzantine.sum(), report.value.dtype)


def drift(z: float | None = 1.5, seed: int = 0) -> Attack:
    """Sends mean + s * z * std with a random sign s for each direction, the same in all events.

    ALIE moves all entries the same way, as does a constant. Here the direction of the lie is
    random and stays, so that its effect adds up over time and averages do not remove it.

    Args:
        z: the number of standard deviations; None for the formula of ALIE, `alie_z`.
        seed: decides the signs. All Byzantine workers have the same.

    Raises:
        InvalidConfig: if z is not finite, or the seed is not a whole number >= 0.
    """
    seed = check_integer("drift", "seed", seed, 0)
    if z is not None:
        check_finite("drift", "z", z)

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, std = statistics(report, view)
        signs = _signs(directions_of(report), seed).astype(mean.dtype)
        return mean + signs * _size(z, report, view) * std

    return stateless(forge, omniscient=True)


def hybrid_sparse(z: float | None = 1.5, scale: float = 5.0, share: float = 0.05) -> Attack:
    """Sends mean - z * std, and mean - scale * std in the entries that matter most.

    The small part adds up without being noticed, the large one does damage in a few entries,
    which distances to other answers hardly show.

    Args:
        z: the number of standard deviations in all other entries; None for `alie_z`.
        scale: the number of standard deviations in the entries that matter most, those with
            the largest mean: where a step changes the loss most.
        share: the part of the entries that matter most, in [0, 1].

    Raises:
        InvalidConfig: if z or scale is not finite, or share is outside [0, 1].

    References:
        Ozfatura, Ozfatura, Kupcu and Gunduz, "Aggressive or Imperceptible, or Both: Network
        Pruning Assisted Hybrid Byzantines in Federated Learning", arXiv 2404.06230. There, the
        entries that matter are found once by pruning the network.
    """
    check_finite("hybrid_sparse", "scale", scale)
    require((share >= 0) & (share <= 1), f"hybrid_sparse needs 0 <= share <= 1: got {share}")
    if z is not None:
        check_finite("hybrid_sparse", "z", z)

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, std = statistics(report, view)
        size = jnp.abs(mean)
        rank = jnp.round(mean.shape[-1] * (1 - like(report, share))).astype(jnp.int32)
        ordered = jnp.append(jnp.sort(size), jnp.inf)
        many = jnp.where(size >= ordered[rank], like(report, scale), _size(z, report, view))
        return mean - many * std

    return stateless(forge, omniscient=True)


def trapsetter(z: float | None = 1.5) -> Attack:
    """Sends mean + z * std * sign(x): it draws the model into a trap, x = 0.

    The network whose weights are all 0 is as bad as guessing, and its gradient is 0 but for the
    last biases, so that honest workers do not lead out of it.

    Args:
        z: the number of standard deviations; None for `alie_z`.

    Raises:
        InvalidConfig: if z is not finite; in a run, if neither x nor the directions of an
            answer are coordinates.

    References:
        Yue, Jin, Wong and Dai, "Advancing Hybrid Defense for Byzantine Attacks in Federated
        Learning", arXiv 2409.06474. There, the trap is searched near the present model.
    """
    if z is not None:
        check_finite("trapsetter", "z", z)

    def forge(report: Report, view: View, key: Key) -> Array:
        mean, std = statistics(report, view)
        return mean + _size(z, report, view) * std * jnp.sign(_coordinates(report, view))

    return stateless(forge, omniscient=True)


def directions_of(report: Report) -> Array:
    """i32[k], the ids of the directions of an answer; 0 .. k - 1 for a whole gradient."""
    for ids in jax.tree.leaves(report.direction):
        if ids.shape == report.value.shape and jnp.issubdtype(ids.dtype, jnp.integer):
            return ids
    return jnp.arange(report.value.shape[-1], dtype=jnp.int32)


def _coordinates(report: Report, view: View) -> Array:
    """f[k], the coordinates of x that an answer is about."""
    x = getattr(view.server, "params", None)
    if x is None:
        raise InvalidConfig("trapsetter needs the iterate of a server: there is none")
    ids = directions_of(report)
    rule = f"trapsetter needs answers about coordinates of x: got {ids.size} numbers for "
    require(ids.size <= x.shape[-1], f"{rule}d={x.shape[-1]}")
    return x[ids]


def _signs(ids: Array, seed: int) -> Array:
    """A random sign for each id, from the 32 bits of a hash (the finaliser of MurmurHash3)."""
    bits = ids.astype(jnp.uint32) + np.uint32((seed * 0x9E3779B9) % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * np.uint32(factor)
    return 1 - 2 * ((bits ^ (bits >> 16)) & 1).astype(jnp.int32)
