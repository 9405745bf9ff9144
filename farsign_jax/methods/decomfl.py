"""DeComFL: rounds with several local steps along shared Gaussian directions, scalars averaged.

This is `cyber0_rounds` on scalars with directions u ~ N(0, I) instead of those of the sphere:

    x_i0 = x;   x_ie = x_i,e-1 - eta_local * (1/k) sum_l D_iel u_el,   e = 1..E
    x <- x - eta * (1/k) sum_e sum_l a_el u_el,    a = Aggr({D_i})

The paper averages the scalars; any other rule makes it robust in the same messages. A worker
that was away is sent the seeds and scalars of the rounds that it missed, not the model.

References:
    Li, Ying, Liu, Dong and Yang, "Achieving Dimension-Free Communication in Federated Learning
    via Zeroth-Order Optimization" (DeComFL), ICLR 2025, arXiv 2405.15861, Algorithm 3.
"""

from farsign_jax import aggregators
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.directions.random_directions import random_directions
from farsign_jax.methods.cyber0_rounds import cyber0_rounds, with_local_steps
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.mezo import scalar_worker
from farsign_jax.validation import check_integer


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    aggregator: str = "mean",
    local_steps: int = 2,
    samples: int = 5,
) -> tuple[Server, Worker]:
    """Rounds: local steps along shared Gaussian directions, an aggregator of the scalars.

    Args:
        step_size: eta, the initial step size, of local steps too.
        aggregator: a rule of `aggregators` by name; the mean in the paper.
        local_steps: E, the local steps of a worker in each round.
        samples: k, the directions of a local step.
    """
    samples = check_integer("decomfl", "samples", samples, 1)
    directions = random_directions(problem.x0.shape[-1], samples, "gaussian")
    server = cyber0_rounds(
        problem.num_workers,
        aggregators.make(aggregator),
        directions,
        step_size=oracle.schedule(hyper["step_size"]),
        local_steps=local_steps,
    )
    return server, with_local_steps(
        scalar_worker(problem, oracle, directions),
        directions,
        local_steps=local_steps,
        step_size=oracle.per_round_schedule(hyper["step_size"], problem.num_workers),
    )


# The best of 0.0003, 0.001 and 0.003 with the mean after 2,000 answers on the embedded digits.
METHOD = Method(build, step_size_presets(0.003), works_in_rounds=True)
