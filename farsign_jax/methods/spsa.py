"""SPSA: simultaneous perturbation stochastic approximation.

This is `rdsa` with entries of u_l that are 1 or -1 with probability 1/2 each, and factor 1:

    g_i = 1/k sum_l [F(x + delta_n u_l; xi+) - F(x - delta_n u_l; xi-)] / (2 delta_n) u_l

The original divides the difference by the entry u_lj, which is the same, as 1 / u_lj = u_lj.

References:
    Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient
    Approximation", IEEE Transactions on Automatic Control, 1992; the exponents: Spall,
    "Implementation of the Simultaneous Perturbation Algorithm for Stochastic Optimization",
    IEEE Transactions on Aerospace and Electronic Systems, 1998.
"""

from farsign_jax.base import Problem, Server, Worker
from farsign_jax.directions.random_directions import random_directions
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.rdsa import stochastic_approximation


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    power: float = 0.602,
    stability: float = 0.0,
    delta_power: float = 0.101,
) -> tuple[Server, Worker]:
    """Rounds: differences along random signs; no defence.

    Args:
        step_size: gamma_0 > 0 of gamma_n = gamma_0 / (n + 1 + stability)^power.
        power: p >= 0; 0 for constant steps.
        stability: A >= 0 in the denominator of gamma_n, in rounds.
        delta_power: q >= 0 of delta_n = delta / (n + 1)^q; 0 for a constant perturbation.
    """
    directions = random_directions(problem.x0.shape[-1], oracle.directions, "rademacher")
    steps = {"power": power, "stability": stability, "delta_power": delta_power}
    return stochastic_approximation(problem, oracle, hyper, directions, **steps)


# The papers have no step for this problem. This one is the better of 0.3 and 1 after 2,000
# answers on the embedded digits.
METHOD = Method(
    build,
    step_size_presets(1.0),
    works_in_rounds=True,
    attacks_in_lockstep=True,
    fixed_aggregator="mean",
)
