"""Plain asynchronous sign descent, without memory or a defence.

Each answer g, a stochastic gradient at a possibly stale iterate, is applied as it arrives:

    x <- x - eta_n * sign(g)

This is `async_sgd` with `signs=True`. A worker sends d bits. Without memory, the bias of the
signs remains (Karimireddy et al., ICML 2019).

References:
    Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD: Compressed Optimisation for
    Non-Convex Problems", ICML 2018, with answers applied as they come.
"""

from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Signs of stochastic gradients as they come, no memory.

    Args:
        step_size: eta, the initial step size.
    """
    step_size = oracle.schedule(hyper["step_size"])
    server = async_sgd(problem.num_workers, step_size=step_size, signs=True)
    return server, gradient_worker(problem, oracle)._replace(bits=problem.x0.shape[-1])


METHOD = Method(build, step_size_presets(0.001), one_step_per_answer=True)
