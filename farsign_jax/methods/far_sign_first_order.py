"""FAR-SIGN with first-order answers: coordinates of a stochastic gradient.

The server is `far_sign` with fewer options; workers answer with Y(i, j) = a_ij . grad F(x; xi),
eq. (7), for k coordinates of one gradient.

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026, Algorithm 1
    and eq. (7).
"""

from collections.abc import Sequence

from farsign_jax import oracles
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods import far_sign, table_vote
from farsign_jax.methods import far_sign_parts as parts
from farsign_jax.methods.method import Hyper, Method, OracleConfig


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    arrival_rates: str | Sequence[float] = "none",
    rate_cap: float | None = None,
    cap_rank: int | None = None,
    soft: float = 0.0,
    vote: str = table_vote.OWN,
    max_age: int | None = None,
    age_decay: float = 1.0,
    seeded: int | None = None,
) -> tuple[Server, Worker]:
    """Signs of a moving average per worker and coordinate of a gradient.

    Args:
        step_size: alpha, the initial distance moved along each coordinate.
        average_step: beta in (0, 1], the initial weight of the newest answer.
        arrival_rates: "none", all steps have weight 1; "known" (on a command line), the step of
            worker i is divided by m times its share of the arrivals as configured; "estimate",
            as counted.
        rate_cap: c >= 1, against workers that flood: worker i is admitted while
            c_i < 10 + c * C, where C is the `cap_rank`-th largest count of answers of all
            workers, and ignored beyond; None, every answer is admitted.
        cap_rank: the rank of the count that the cap follows; None, the middle one, m // 2 + 1,
            which fewer than half of the workers cannot raise.
        soft: c >= 0; along direction j, x moves by alpha * clip(y_j / (c * mean |y|), -1, 1)
            instead of alpha * sign(y_j), with the mean over the directions of the answer.
        vote: "own", x moves by the average of the worker that answered; or an aggregator of
            those of all workers, as in "nnm:f=5+trimmed_mean:f=5", see `table_vote`.
        max_age: workers that did not answer for so many updates have no vote; None, they have.
        age_decay: in (0, 1], the factor per update of age of an average that votes.
        seeded: K, the number of random directions in whose span x moves, the same for all
            seeds; None, coordinates.
    """
    server, _ = far_sign.build(
        problem,
        oracle,
        hyper,
        arrival_rates=arrival_rates,
        rate_cap=rate_cap,
        cap_rank=cap_rank,
        soft=soft,
        vote=vote,
        max_age=max_age,
        age_decay=age_decay,
        seeded=seeded,
    )
    d = problem.x0.shape[-1]
    dictionary = parts.make_dictionary(d, oracle.directions, seeded)
    worker = oracles.directional_derivative(
        problem.losses, dictionary, batch_size=oracle.batch_size, mode="grad"
    )
    return server, worker


METHOD = Method(
    build,
    {
        "paper": far_sign.METHOD.presets["paper"],
        "tuned": {"step_size": 0.0175, "average_step": 0.5},
    },
    moves_along_coordinates=True,
    dense_options=("seeded",),
    has_numpy_server=True,
    one_step_per_answer=True,
)
