"""Byrd-SAGA: synchronous descent along the geometric median of SAGA gradients.

The server is `sgd` with the rule "geometric_median", and the workers are those of
`oracles.saga_gradient`.

References:
    Wu, Ling, Chen and Giannakis, IEEE Transactions on Signal Processing, 2020; SAGA: Defazio,
    Bach and Lacoste-Julien, NeurIPS 2014.
"""

from farsign_jax import oracles
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.sgd import build_server

_AGGREGATOR = "geometric_median"


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    scale: float = 1.0,
    weight_decay: float = 0.0,
) -> tuple[Server, Worker]:
    """Rounds: the geometric median of SAGA gradients.

    Args:
        step_size: eta, the initial step size.
        scale: the factor > 0 of the aggregate: m, if the sum of m losses is minimised.
        weight_decay: w >= 0 of the regulariser f_0(x) = w |x|^2 / 2.
    """
    server = build_server(problem, oracle, hyper, _AGGREGATOR, scale, weight_decay)
    return server, oracles.saga_gradient(problem, batch_size=oracle.batch_size)


METHOD = Method(
    build,
    step_size_presets(0.5),
    works_in_rounds=True,
    attacks_in_lockstep=True,
    fixed_aggregator=_AGGREGATOR,
)
