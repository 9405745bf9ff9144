"""Byzantine-resilient SGD with a random iterate.

In round k the workers' stochastic gradients at w_k are aggregated,

    w_{k+1} = w_k - alpha_k Agg(g_1, ..., g_m)

and alpha_k decreases. Some iterate has a small gradient, but which one is not known, so that
one is drawn: R_K = k with probability W_k / sum_{j < K} W_j, where W_{-1} = 1,
alpha_{-1} = alpha_0,

    W_k = W_{k-1} alpha_k / (alpha_{k-1} (1 + L A' alpha_k^2))

Its expected gradient norm has the same bound as the smallest one (Section 3.1). It is drawn on
line (`random_iterate`).

References:
    "A simplified convergence analysis of Byzantine Resilient SGD for nonconvex objectives",
    Algorithm 1, Lemma 3.5 and eq. (3.46); the framework: Blanchard et al., NeurIPS 2017.
"""

from collections.abc import Callable

import jax.numpy as jnp

from farsign_jax import aggregators, step_sizes
from farsign_jax.base import Array, Problem, Schedule, Server, Worker
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.methods.random_iterate import random_iterate
from farsign_jax.methods.sgd import sgd
from farsign_jax.step_sizes import check_step_size
from farsign_jax.validation import require


def brsgd(
    num_workers: int,
    aggregator: Callable[..., Array],
    *,
    step_size: float | Array | Schedule,
    growth: float | Array = 0.0,
) -> Server:
    """SGD in rounds along a robust aggregate, which also keeps a random iterate.

    Args:
        num_workers: m (static).
        aggregator: a rule of `aggregators`, as in `sgd`.
        step_size: alpha, a number, a tracer or a schedule of the number of *rounds*, not
            increasing.
        growth: L A' >= 0 of the weights: the smoothness times the constant A of expected
            smoothness (3.2), E|G|^2 <= 2 A (F - F_low) + B |grad F|^2 + C, times that of (2.6);
            0 if noise does not grow with F. It may be traced.

    Returns:
        A `Server` for m workers; `params` is w_k, and the random iterate is `state.chosen`.

    Raises:
        InvalidConfig: if the step size is not positive, or growth < 0.
    """
    alpha = check_step_size("brsgd", step_size)
    require(growth >= 0, f"brsgd needs growth >= 0: got {growth}")

    def log_weight(previous: Array, k: Array) -> Array:  # W_{-1} = 1
        now = jnp.asarray(alpha(k), jnp.float32)
        before = jnp.asarray(alpha(jnp.maximum(k - 1, 0)), jnp.float32)
        shrink = jnp.log1p(jnp.asarray(growth, jnp.float32) * now**2)
        return previous + jnp.log(now / before) - shrink

    server = sgd(num_workers, aggregator, step_size=alpha, by_rounds=True)
    return random_iterate(server, log_weight)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    aggregator: str = "median",
    power: float = 0.55,
    growth: float = 0.0,
) -> tuple[Server, Worker]:
    """Rounds: an aggregator, steps that sum to infinity, a random iterate.

    Args:
        step_size: alpha_0 > 0 of alpha_k = alpha_0 / (k + 1)^power.
        aggregator: a rule of `aggregators` by name, as in "krum:f=5".
        power: the exponent in (1/2, 1).
        growth: L A' >= 0 of the weights; 0 if noise does not grow with F.
    """
    alpha = step_sizes.power(hyper["step_size"], power)
    rule = f"brsgd needs 1/2 < power < 1, so that sum alpha^2 is finite: got {power}"
    require(0.5 < power < 1, rule)
    rule = aggregators.make(aggregator)
    server = brsgd(problem.num_workers, rule, step_size=alpha, growth=growth)
    return server, gradient_worker(problem, oracle)


METHOD = Method(build, step_size_presets(2.0), works_in_rounds=True)
