"""Problems: per-example losses of one flat vector, and whose examples are whose."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key, Problem
from farsign_jax.validation import require


def _quadratic_losses(x: Array, batch: tuple[Array, Array, Array]) -> Array:
    curvature, center, noise = batch  # [b, d] each
    x = x[None]
    return jnp.sum(0.5 * curvature * (x - center) ** 2 + noise * x, axis=-1)


def waves(x: Array) -> Array:
    """sum_j x_j^2 / 2 + 2 cos x_j: smooth (L = 3), coercive, not convex; stationary in each
    coordinate at 0 and where x_j = 2 sin x_j, x_j = +-1.8955."""
    return jnp.sum(x**2 / 2 + 2 * jnp.cos(x))


def crossed_waves(x: Array) -> Array:
    """`waves` reflected, so that no coordinate goes alone: 2 cos of x - 2 mean(x)."""
    return jnp.sum(x**2 / 2 + 2 * jnp.cos(x - 2 * x.mean()))


def ripples(x: Array) -> Array:
    """sum_j x_j^2 / 2 + 3/2 cos x_j: as `waves`, L = 5/2, stationary at 0 and +-1.4957."""
    return jnp.sum(x**2 / 2 + 1.5 * jnp.cos(x))


def bowl(x: Array) -> Array:
    """|x|^2 / 2: with noise, what `online_mean` estimates the minimiser of."""
    return jnp.sum(x**2) / 2


def valley(x: Array) -> Array:
    """sum_j x_j / 4 between soft walls at -1 and 1, where Karimireddy et al. (ICML 2019,
    counterexample 1) let sign descent climb; the minimum is at x_j = -1 - 1/sqrt(12)."""
    return jnp.sum(x / 4 + jnp.maximum(jnp.abs(x) - 1, 0) ** 3)


NOISES = ("gaussian", "asymmetric")


@functools.lru_cache(maxsize=64)
def _with_noise(value: Any, relative: bool):
    def losses(x, noise):
        size = 1.0
        if relative:
            size = jax.lax.stop_gradient(jnp.linalg.norm(jax.grad(value)(x)))
        return value(x) + size * (noise @ x)

    return losses


def _equal_shards(num_workers: int, examples: int) -> dict[str, Array]:
    """`rows` and `sizes` of a problem whose data lie worker by worker."""
    count = num_workers * examples
    return {
        "rows": jnp.arange(count, dtype=jnp.int32).reshape(num_workers, -1),
        "sizes": jnp.full((num_workers,), examples, jnp.int32),
    }


def smooth(
    value: Any,
    x0: Any,
    num_workers: int,
    key: Key,
    *,
    noise: float = 1.0,
    kind: str = "gaussian",
    relative: bool = False,
    examples: int = 64,
) -> Problem:
    """Any function `value: x f32[d] -> f32[]` whose gradient is known but for noise.

    Example e has the loss value(x) + xi_e . x. The xi of each worker are drawn once and have
    mean exactly 0 (up to rounding), so all workers share the one function.

    Args:
        value: what is minimised; one object for all calls compiles once.
        x0: f32[d].
        num_workers: m.
        key: what the noise is drawn from.
        noise: its standard deviation in each coordinate.
        kind: "gaussian"; or "asymmetric", sqrt(3) noise with probability 1/4 and
            -noise / sqrt(3) else, whose sign is mostly wrong where the gradient is small.
        relative: times |grad value(x)|: noise that vanishes where the gradient does. For
            first-order feedback only: a finite difference sees the norm change, too.
        examples: n, of each worker.

    Raises:
        InvalidConfig: on an unknown kind, noise < 0, or examples that 4 does not divide.
    """
    require(kind in NOISES, f"noise is one of {', '.join(NOISES)}: got {kind!r}")
    require((noise >= 0) & (noise < float("inf")), f"need a finite noise >= 0: got {noise}")
    rule = f"smooth needs a positive multiple of 4 examples per worker: got {examples}"
    require(examples > 0 and examples % 4 == 0, rule)
    x0 = jnp.asarray(x0)
    x0 = x0.astype(x0.dtype)  # a weak type would be lost in the first event: two programs
    shape = (num_workers, examples, x0.shape[-1])
    if kind == "gaussian":
        xi = jax.random.normal(key, shape, x0.dtype)
        xi = xi - xi.mean(axis=1, keepdims=True)
    else:
        high = jnp.arange(examples)[None, :, None] % 4 == 0
        xi = jnp.where(high, np.sqrt(3.0), -1 / np.sqrt(3.0)).astype(x0.dtype)
        xi = jax.random.permutation(key, jnp.broadcast_to(xi, shape), 1, independent=True)
    return Problem(
        data=noise * xi.reshape(-1, shape[2]),
        **_equal_shards(num_workers, examples),
        x0=x0,
        losses=_with_noise(value, relative),
    )


def quadratic(
    dim: int, num_workers: int, key: Key, *, noise: float = 1.0, examples: int = 64
) -> Problem:
    """f(x) = sum_j h_j (x_j - c_j)^2 / 2 with gradient noise: example e adds xi_e . x.

    The noise has mean zero over each worker's shard, so all workers share f and its
    minimiser `c`, which is row 0 of `data[1]`. h is in [0.5, 2], c and x0 are standard normal.
    """
    center_key, curvature_key, noise_key, start_key = jax.random.split(key, 4)
    center = jax.random.normal(center_key, (dim,))
    curvature = jax.random.uniform(curvature_key, (dim,), minval=0.5, maxval=2.0)
    xi = noise * jax.random.normal(noise_key, (num_workers, examples, dim))
    xi = (xi - xi.mean(axis=1, keepdims=True)).reshape(-1, dim)
    return Problem(
        data=(jnp.broadcast_to(curvature, xi.shape), jnp.broadcast_to(center, xi.shape), xi),
        **_equal_shards(num_workers, examples),
        x0=jax.random.normal(start_key, (dim,)),
        losses=_quadratic_losses,
    )


def _own_losses(x: Array, batch: tuple[Array, Array]) -> Array:
    curvature, linear = batch  # [b], [b, d]
    return 0.5 * curvature * jnp.sum(x**2) - linear @ x


def own_quadratics(
    dim: int,
    num_workers: int,
    key: Key,
    *,
    noise: float = 1.0,
    examples: int = 20,
    spread: float = 0.3,
) -> Problem:
    """Strongly convex, every worker with a minimiser of its own, all known.

    Example j of worker i has the loss w_ij |x|^2 / 2 - b_ij . x. Over the examples of a worker
    the w_ij, within 1/2 of 1, have mean 1 and the b_ij have mean b_i, uniform within `spread`
    of 0, so f_i(x) = |x|^2 / 2 - b_i . x, and sum_{i in R} f_i + c |x|^2 / 2 is least at
    sum b_i / (r + c). Problems of one key differ in `noise` alone.

    Args:
        dim: d.
        num_workers: m.
        key: what everything is drawn from.
        noise: standard deviation of the b_ij in each coordinate, before it is made to have
            mean b_i.
        examples: J, of each worker.
        spread: see above.

    Returns:
        A `Problem` whose data are w f[m J] and b f[m J, d], and whose x0 is 0.

    Raises:
        InvalidConfig: on J < 1 or a negative noise or spread.
    """
    require(examples >= 1, f"own_quadratics needs J >= 1 examples: got {examples}")
    require(noise >= 0 and spread >= 0, f"need noise, spread >= 0: got {noise}, {spread}")
    mean_key, curvature_key, noise_key = jax.random.split(key, 3)
    means = jax.random.uniform(mean_key, (num_workers, 1, dim), minval=-spread, maxval=spread)
    bend = jax.random.uniform(curvature_key, (num_workers, examples), minval=-0.25, maxval=0.25)
    bend = 1 + bend - bend.mean(axis=1, keepdims=True)
    xi = jax.random.normal(noise_key, (num_workers, examples, dim))
    xi = noise * (xi - xi.mean(axis=1, keepdims=True))
    return Problem(
        data=(bend.reshape(-1), (means + xi).reshape(-1, dim)),
        **_equal_shards(num_workers, examples),
        x0=jnp.zeros(dim, means.dtype),
        losses=_own_losses,
    )
