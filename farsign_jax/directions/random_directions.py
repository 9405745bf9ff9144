"""Random directions of several distributions, and the generator that draws them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key
from farsign_jax.validation import lookup, require

DISTRIBUTIONS = ("sphere", "gaussian", "rademacher", "uniform", "bernoulli")


class RandomDirections(NamedTuple):
    """k fresh directions u of R^d per question, whose entries have mean 0 and are uncorrelated.

    An estimate of the gradient is made of the derivatives D_l along them,

        g = 1 / (k E u_j^2) * sum_l D_l u_l

    which is unbiased if D_l = u_l . grad F. The distributions are those of `random_directions`.
    Directions are drawn again from a seed wherever they are needed; nothing is stored.
    """

    dim: int  # d
    k: int
    distribution: str = "sphere"
    half_width: float = 1.0  # c of "uniform"
    epsilon: float = 1e-4  # of "bernoulli"

    @property
    def factor(self) -> float:
        """1 / E u_j^2."""
        factors = {
            "sphere": self.dim,
            "uniform": 3 / self.half_width**2,
            "bernoulli": 1 / (1 + self.epsilon),
        }
        return factors.get(self.distribution, 1)

    def draw(self, key: Key) -> Array:
        """Draws a seed u32[2] of k directions."""
        return jax.random.bits(key, (2,), jnp.uint32)

    def vectors(self, seed: Array) -> tuple[Array, Array]:
        """Returns vectors f32[k, d] and numbers f32[k]; direction l is their quotient.

        On the sphere these are normal vectors and their lengths: it is cheaper to divide the k
        numbers that are computed from them. For other distributions the numbers are 1.
        """
        size, shape = self.k * self.dim, (self.k, self.dim)
        if self.distribution in ("sphere", "gaussian"):
            z = normals(seed, size).reshape(shape)
            if self.distribution == "sphere":
                return z, jnp.linalg.norm(z, axis=1)
        else:
            u = uniforms(seed, size).reshape(shape)
            if self.distribution == "rademacher":
                z = jnp.sign(u)  # u is never 0
            elif self.distribution == "uniform":
                z = jnp.float32(self.half_width) * u
            else:
                # P(u < t) = (t + 1) / 2 is (1 + eps) / (2 + eps).
                low = u < self.epsilon / (2 + self.epsilon)
                z = jnp.where(low, -1, 1 + self.epsilon).astype(jnp.float32)
        return z, jnp.ones(self.k, jnp.float32)

    def rebuild(self, seed: Array, amounts: Array) -> Array:
        """Returns 1 / (k E u_j^2) * sum_l amounts_l u_l, f32[d]."""
        rule = f"an answer is made of k={self.k} numbers: got shape {amounts.shape}"
        require(amounts.shape == (self.k,), rule)
        z, lengths = self.vectors(seed)
        z, lengths = z.astype(amounts.dtype), lengths.astype(amounts.dtype)
        return (self.factor / self.k) * jnp.matmul(amounts / lengths, z, precision="highest")


def random_directions(
    dim: int,
    k: int,
    distribution: str = "sphere",
    *,
    half_width: float = 1.0,
    epsilon: float = 1e-4,
) -> RandomDirections:
    """Returns k random directions of R^dim per question; k may exceed dim.

    Args:
        dim: d.
        k: the number of directions, independent of each other.
        distribution: "sphere", uniform on the unit sphere; or the distribution of the entries,
            which are independent: "gaussian", N(0, 1); "rademacher", 1 or -1, those of SPSA;
            "uniform" in [-c, c]; or "bernoulli", -1 with probability
            (1 + epsilon) / (2 + epsilon), else 1 + epsilon. The last two are those of RDSA.
        half_width: c > 0 of "uniform".
        epsilon: that of "bernoulli", >= 0; with 0 it is "rademacher".

    Raises:
        InvalidConfig: on an unknown distribution, k < 1, dim < 1, c <= 0 or epsilon < 0.

    References:
        "rademacher": Spall, IEEE Transactions on Automatic Control, 1992; "uniform" and
        "bernoulli": Prashanth, Bhatnagar, Fu and Marcus, "Adaptive System Optimization Using
        Random Directions Stochastic Approximation", IEEE Transactions on Automatic Control,
        2017.
    """
    lookup("distribution", distribution, dict.fromkeys(DISTRIBUTIONS))
    require(k >= 1, f"a question needs at least one direction: got k={k}")
    require(dim >= 1, f"directions need a dimension: got dim={dim}")
    rule = f"uniform directions need a finite half_width > 0: got {half_width}"
    require(0 < half_width < float("inf"), rule)
    rule = f"bernoulli directions need a finite epsilon >= 0: got {epsilon}"
    require(0 <= epsilon < float("inf"), rule)
    return RandomDirections(dim, k, distribution, float(half_width), float(epsilon))


def sphere(dim: int, k: int) -> RandomDirections:
    """Returns k directions from the unit sphere of R^dim per question; k may exceed dim."""
    return random_directions(dim, k)


def normals(seed: Array, size: int) -> Array:
    """Returns standard normal numbers, f32[size], from a seed u32[2]."""
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniforms(seed, size))


def uniforms(seed: Array, size: int) -> Array:
    """Returns numbers in (-1, 1), f32[size], from a seed u32[2], fast on every device.

    The generator is Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), as in `jax.random`.
    There, both words of a block make one number, and on a CPU the rounds are a loop that
    passes over memory each time. Written out, and with both words used, they are one fused
    pass: 7 ms instead of 29 for the 2.5 million numbers of one question of CYBER-0.
    """
    half = (size + 1) // 2
    counter = jnp.arange(half, dtype=jnp.uint32)
    bits = jnp.concatenate(threefry(seed[0], seed[1], jnp.zeros_like(counter), counter))
    # 24 bits, the middle of each interval of (-1, 1): never an end, so never infinite.
    # Nor is it ever 0: it is an odd multiple of 2^-24.
    return (bits[:size] >> 8).astype(jnp.float32) * 2.0**-23 - (1 - 2.0**-24)


def threefry(key0: Array, key1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Returns two words u32[...], a keyed bijection of the counter (x0, x1)."""
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for block in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            x0 = x0 + x1
            x1 = ((x1 << turn) | (x1 >> (32 - turn))) ^ x0
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return x0, x1
