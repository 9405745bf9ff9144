"""FedSGD: synchronous SGD along the mean of the answers, without a defence.

The server is `sgd` with the rule "mean".

References:
    McMahan et al., AISTATS 2017, with one local step.
"""

from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)
from farsign_jax.methods.sgd import build_server

_AGGREGATOR = "mean"


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    scale: float = 1.0,
    weight_decay: float = 0.0,
) -> tuple[Server, Worker]:
    """Rounds: the mean of gradients, no defence.

    Args:
        step_size: eta, the initial step size.
        scale: the factor > 0 of the mean: m, if the sum of m losses is minimised.
        weight_decay: w >= 0 of the regulariser f_0(x) = w |x|^2 / 2.
    """
    server = build_server(problem, oracle, hyper, _AGGREGATOR, scale, weight_decay)
    return server, gradient_worker(problem, oracle)


METHOD = Method(
    build,
    step_size_presets(0.5),
    works_in_rounds=True,
    attacks_in_lockstep=True,
    fixed_aggregator=_AGGREGATOR,
)
