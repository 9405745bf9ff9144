"""Synthetic problems with known minimisers or stationary points."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Key, Problem
from farsign_jax.validation import require

Losses = Callable[[Array, Any], Array]  # (x f32[d], batch) -> f32[b]


def _quadratic_losses(x: Array, batch: tuple[Array, Array, Array]) -> Array:
    curvature, center, noise = batch  # [b, d] each
    x = x[None]
    return jnp.sum(0.5 * curvature * (x - center) ** 2 + noise * x, axis=-1)


def waves(x: Array) -> Array:
    """sum_j x_j^2 / 2 + 2 cos x_j, a function that is smooth (L = 3), coercive and not convex.

    Each coordinate is stationary at 0 and where x_j = 2 sin x_j, at x_j = +-1.8955.
    """
    return jnp.sum(x**2 / 2 + 2 * jnp.cos(x))


def crossed_waves(x: Array) -> Array:
    """`waves` with the cosine of x - 2 mean(x), a reflection that couples the coordinates."""
    return jnp.sum(x**2 / 2 + 2 * jnp.cos(x - 2 * x.mean()))


def ripples(x: Array) -> Array:
    """sum_j x_j^2 / 2 + 3/2 cos x_j: as `waves`, with L = 5/2, stationary at 0 and +-1.4957."""
    return jnp.sum(x**2 / 2 + 1.5 * jnp.cos(x))


def bowl(x: Array) -> Array:
    """|x|^2 / 2, whose minimiser `online_mean` estimates from noisy gradients."""
    return jnp.sum(x**2) / 2


def kinked_bowl(x: Array) -> Array:
    """sum_j c_j x_j^2 / 2 with curvature 3 where x_j > 0 and 1 elsewhere (L = 3).

    The gradient is Lipschitz, but not differentiable at the minimum 0. A central difference
    there has an error in proportion to its radius; where f is twice continuously
    differentiable, the error is of smaller order.
    """
    return jnp.sum(jnp.where(x > 0, 3.0, 1.0) * x**2) / 2


def valley(x: Array) -> Array:
    """sum_j x_j / 4 + max(|x_j| - 1, 0)^3, with the minimum at x_j = -1 - 1/sqrt(12).

    It is the slope on which sign descent ascends in Karimireddy et al. (ICML 2019,
    counterexample 1), between soft walls at -1 and 1.
    """
    return jnp.sum(x / 4 + jnp.maximum(jnp.abs(x) - 1, 0) ** 3)


NOISES = ("gaussian", "asymmetric")


@functools.lru_cache(maxsize=64)
def _with_noise(value: Callable[[Array], Array], relative: bool) -> Losses:
    """The losses of `smooth`; the same function for the same arguments."""

    def losses(x: Array, noise: Array) -> Array:
        size = 1.0
        if relative:
            size = jax.lax.stop_gradient(jnp.linalg.norm(jax.grad(value)(x)))
        return value(x) + size * (noise @ x)

    return losses


def _equal_shards(num_workers: int, examples: int) -> dict[str, Any]:
    """The `rows` and `sizes` of a problem whose data are sorted by worker."""
    count = num_workers * examples
    return {
        "rows": jnp.arange(count, dtype=jnp.int32).reshape(num_workers, -1),
        "sizes": jnp.full((num_workers,), examples, jnp.int32),
    }


def smooth(
    value: Callable[[Array], Array],
    x0: Any,
    num_workers: int,
    key: Key,
    *,
    noise: float = 1.0,
    kind: str = "gaussian",
    relative: bool = False,
    examples: int = 64,
) -> Problem:
    """Makes the problem of minimising a function from noisy gradients.

    Example e has the loss value(x) + xi_e . x. The xi of each worker are drawn once and have
    mean exactly 0 (up to rounding), so that all workers share the same function.

    Args:
        value: the function `x f32[d] -> f32[]`; using the same object for all calls avoids
            compiling again.
        x0: f32[d], the start of a run.
        num_workers: m.
        key: the key of the noise.
        noise: the standard deviation of the noise in each coordinate.
        kind: "gaussian"; or "asymmetric", which is sqrt(3) noise with probability 1/4 and
            -noise / sqrt(3) otherwise, and whose sign is mostly wrong where the gradient is
            small.
        relative: multiplies the noise by |grad value(x)|, so that it vanishes where the
            gradient does. For first-order feedback only: a finite difference would also
            measure the change of the norm.
        examples: n, the number of examples of each worker.

    Raises:
        InvalidConfig: if the kind is unknown, the noise is negative or not finite, or examples
            is not a positive multiple of 4.
    """
    require(kind in NOISES, f"noise is one of {', '.join(NOISES)}: got {kind!r}")
    require((noise >= 0) & (noise < float("inf")), f"need a finite noise >= 0: got {noise}")
    rule = f"smooth needs a positive multiple of 4 examples per worker: got {examples}"
    require(examples > 0 and examples % 4 == 0, rule)
    x0 = jnp.asarray(x0)
    x0 = x0.astype(x0.dtype)  # a weak type would change in the first event, and compile twice
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
    """Makes the problem of minimising f(x) = sum_j h_j (x_j - c_j)^2 / 2 with gradient noise.

    The loss of example e is f(x) + xi_e . x. The noise has mean zero over the shard of each
    worker, so that all workers share f and its minimiser c, which is row 0 of `data[1]`. h is
    uniform in [0.5, 2]; c and x0 are standard normal. All numbers have the default type of JAX.

    Args:
        dim: d.
        num_workers: m.
        key: the key of all that is drawn.
        noise: the standard deviation of xi in each coordinate.
        examples: n, the number of examples of each worker.
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
    """Makes a strongly convex problem in which every worker has a known minimiser of its own.

    Example j of worker i has the loss w_ij |x|^2 / 2 - b_ij . x. Over the examples of a worker,
    the w_ij, which lie within 1/2 of 1, have mean 1, and the b_ij have mean b_i, which is
    uniform within `spread` of 0. So f_i(x) = |x|^2 / 2 - b_i . x, and
    sum_{i in R} f_i + c |x|^2 / 2 has its minimum at sum b_i / (r + c). Problems with the same
    key differ in `noise` only. All numbers have the default type of JAX.

    Args:
        dim: d.
        num_workers: m.
        key: the key of all that is drawn.
        noise: the standard deviation of the b_ij in each coordinate, before their mean is
            shifted to b_i.
        examples: J, the number of examples of each worker.
        spread: the largest absolute value of the entries of the b_i.

    Returns:
        A `Problem` with data w f[m J] and b f[m J, d], and x0 = 0.

    Raises:
        InvalidConfig: if J < 1, or the noise or the spread is negative.
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
