"""AsynRSA-VR: RSA whose workers use SAGA gradients, for rounds in which not all take part.

The server and the models of the workers are those of `rsa`; g_i in their step, eq. (8), comes
from `oracles.saga_gradient`.

References:
    "Asynchronous Byzantine-Robust Stochastic Aggregation with Variance Reduction", Algorithm 1.
"""

from farsign_jax import oracles
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.method import Hyper, Method, OracleConfig
from farsign_jax.methods.rsa import PRESETS, build_with


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    norm: str = "l1",
    weight_decay: float = 0.0,
    server_sees: str = "old",
) -> tuple[Server, Worker]:
    """Rounds: models of their own, pulled together, with SAGA gradients.

    Args:
        step_size: alpha, the initial step size.
        penalty: lambda >= 0.
        norm: the norm of the penalty, "l1", "l2" or "linf".
        weight_decay: the factor >= 0 of f_0(x) = weight_decay |x|^2 / 2.
        server_sees: "old" if the answer is the model of the round, as in the papers; "new" if
            it is the model after the step, as in RSA's public code.
    """
    gradients = oracles.saga_gradient(problem, batch_size=oracle.batch_size)
    return build_with(
        problem,
        oracle,
        hyper,
        gradients,
        norm=norm,
        weight_decay=weight_decay,
        server_sees=server_sees,
    )


METHOD = Method(build, PRESETS, works_in_rounds=True, attacks_in_lockstep=True)
