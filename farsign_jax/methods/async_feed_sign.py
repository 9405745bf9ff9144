"""FeedSign without rounds: every one-bit answer moves x at once.

    x <- x - eta_n * sign(F_i(x + delta u) - F_i(x - delta u)) * u,    u ~ N(0, I)

Each question has a direction of its own, which its seed names. Nobody votes, so that the bias
of the sign remains, and a lie is one wrong step: it is what `far_sign` does without averages.

References:
    Of `feed_sign`, with the server of `mezo`.
"""

from farsign_jax.base import Problem, Server, Worker
from farsign_jax.directions.random_directions import random_directions
from farsign_jax.methods.feed_sign import one_bit
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.mezo import along_seeds, scalar_worker


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Signs of two-point differences along Gaussian directions from seeds, each at once.

    Args:
        step_size: eta, the initial step size.
    """
    directions = random_directions(problem.x0.shape[-1], 1, "gaussian")
    step_size = oracle.schedule(hyper["step_size"])
    server = along_seeds(problem.num_workers, directions, step_size=step_size, signs=True)
    return server, one_bit(scalar_worker(problem, oracle, directions))


# The better of 0.0003 and 0.001 after 2,000 answers on the embedded digits.
METHOD = Method(build, step_size_presets(0.001))
