"""Asynchronous zeroth-order SGD: two-point differences along coordinates, without a defence.

Asked about k of the d coordinates at a possibly stale iterate, a worker sends differences Y_j,
which are applied as they arrive:

    x <- x - eta_n * (d / k) * sum_j Y_j e_j

This is `async_sgd` along the coordinates.

References:
    Lian et al., "A Comprehensive Linear Speedup Analysis for Asynchronous Stochastic Parallel
    Optimization from Zeroth-Order to First-Order", NeurIPS 2016.
"""

from farsign_jax import directions, oracles
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Two-point differences along coordinates as they come, no defence.

    Args:
        step_size: eta, the initial step size.
    """
    dictionary = directions.identity(problem.x0.shape[-1], oracle.directions)
    step_size = oracle.schedule(hyper["step_size"])
    worker = oracles.zeroth_order(
        problem,
        dictionary,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
    )
    return async_sgd(problem.num_workers, dictionary, step_size=step_size), worker


METHOD = Method(build, step_size_presets(0.01), moves_along_coordinates=True)
