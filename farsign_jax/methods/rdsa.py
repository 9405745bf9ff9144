"""RDSA: stochastic approximation along random directions.

In round n each worker of a set S draws directions u_l and sends a balanced estimate, and x
moves along the mean of these estimates:

    g_i = factor/k sum_l [F(x + delta_n u_l; xi+) - F(x - delta_n u_l; xi-)] / (2 delta_n) u_l
    x_{n+1} = x_n - gamma_n 1/|S| sum_i g_i
    gamma_n = gamma_0 / (n + 1 + A)^p,   delta_n = delta_0 / (n + 1)^q

Entries of u_l are uniform in [-1, 1], with factor 3, or have the asymmetric Bernoulli
distribution: -1 with probability (1 + epsilon) / (2 + epsilon), else 1 + epsilon, with factor
1 / (1 + epsilon). Uniform entries in [-c, c], as in the paper, are the same as c delta_n in
place of delta_n. p = 0.602 and q = 0.101 are Spall's choices. With p = 0 and q = 0 both are
constant, as in the nonasymptotic bounds for T rounds: gamma_0 of the order of T^(-2/3) and
delta_0 of T^(-1/6) if the noise of both evaluations is independent, gamma_0 of T^(-1/2) if it
is common. In the papers a round has one direction; the mean of several has a smaller variance.

References:
    Prashanth, Bhatnagar, Fu and Marcus, "Adaptive System Optimization Using Random Directions
    Stochastic Approximation", IEEE Transactions on Automatic Control, 2017; Bhavsar and
    Prashanth, "Nonasymptotic Bounds for Stochastic Optimization With Biased Noisy Gradient
    Oracles", IEEE Transactions on Automatic Control, 2022. The exponents: Spall,
    "Implementation of the Simultaneous Perturbation Algorithm for Stochastic Optimization",
    IEEE Transactions on Aerospace and Electronic Systems, 1998.
"""

from farsign_jax import oracles, step_sizes
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.directions.random_directions import RandomDirections, random_directions
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.sgd import mean_of_estimates
from farsign_jax.oracles.zeroth_order import check
from farsign_jax.validation import lookup, require

PERTURBATIONS = ("uniform", "bernoulli")


def stochastic_approximation(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    directions: RandomDirections,
    *,
    power: float,
    stability: float,
    delta_power: float,
) -> tuple[Server, Worker]:
    """Returns the server and the worker of RDSA or SPSA, which differ in their directions.

    Args:
        problem: what is minimised.
        oracle: how workers are asked; its `delta` is delta_0, and its `coupled`
            says whether the noise of both evaluations is common.
        hyper: its `step_size` is gamma_0.
        directions: u_l.
        power: p >= 0.
        stability: A >= 0, in rounds.
        delta_power: q >= 0.

    Raises:
        InvalidConfig: if a number is outside these bounds.
    """
    for name, number in (
        ("power", power),
        ("stability", stability),
        ("delta_power", delta_power),
    ):
        rule = f"stochastic approximation needs a finite {name} >= 0: got {number}"
        require(0 <= number < float("inf"), rule)
    start = hyper["step_size"]
    rule = f"a step size is positive and finite: got {start}"
    require((start > 0) & (start < float("inf")), rule)
    check(oracle.batch_size, oracle.delta)
    gamma = step_sizes.power(start, power, stability)
    server = mean_of_estimates(problem.num_workers, step_size=gamma, directions=directions)
    worker = oracles.random_two_point(
        problem,
        directions,
        batch_size=oracle.batch_size,
        delta=step_sizes.power(oracle.delta, delta_power),
        coupled=oracle.coupled,
    )
    return server, worker


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    perturbation: str = "uniform",
    epsilon: float = 1e-4,
    power: float = 0.602,
    stability: float = 0.0,
    delta_power: float = 0.101,
) -> tuple[Server, Worker]:
    """Rounds: differences along uniform or Bernoulli directions; no defence.

    Args:
        step_size: gamma_0 > 0 of gamma_n = gamma_0 / (n + 1 + stability)^power.
        perturbation: "uniform" in [-1, 1], or "bernoulli": -1 or 1 + epsilon.
        epsilon: that of "bernoulli", >= 0.
        power: p >= 0; 0 for constant steps.
        stability: A >= 0 in the denominator of gamma_n, in rounds.
        delta_power: q >= 0 of delta_n = delta / (n + 1)^q; 0 for a constant perturbation.
    """
    lookup("perturbation", perturbation, dict.fromkeys(PERTURBATIONS))
    d, k = problem.x0.shape[-1], oracle.directions
    directions = random_directions(d, k, perturbation, epsilon=epsilon)
    steps = {"power": power, "stability": stability, "delta_power": delta_power}
    return stochastic_approximation(problem, oracle, hyper, directions, **steps)


# The papers have no step for this problem. This one is that of `spsa`.
METHOD = Method(
    build,
    step_size_presets(1.0),
    works_in_rounds=True,
    attacks_in_lockstep=True,
    fixed_aggregator="mean",
)
