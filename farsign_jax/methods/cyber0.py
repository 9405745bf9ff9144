"""CYBER-0 with buffers: a robust aggregate of two-point estimates along the unit sphere.

The server is `buffered`, whose workers send two-point estimates of the gradient along random
directions (`oracles.random_two_point`). It is the baseline of the FAR-SIGN paper.

References:
    Neto, Egger, Bakshi and Bitar, "Communication-Efficient Byzantine-Resilient Federated
    Zero-Order Optimization" (CYBER-0), arXiv 2406.14362; with buffers as in Paul et al.,
    arXiv 2605.09337, Section 4; for `message="scalar"`: Egger, Bakshi and Bitar,
    "Byzantine-Resilient Zero-Order Optimization ...", arXiv 2502.00193.
"""

from farsign_jax import aggregators, directions, oracles
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.buffered import buffered
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    aggregator: str = "median",
    buffers: int = 11,
    message: str = "dense",
    reassign_after: int = 0,
    scheme: str = "central",
) -> tuple[Server, Worker]:
    """An aggregator of buffers of two-point estimates along the unit sphere.

    Args:
        step_size: eta, the initial step size.
        aggregator: a rule of `aggregators` by name, as in "krum:f=4", for B rows.
        buffers: B, the number of buffers; q Byzantine workers need B >= 2q + 1.
        message: "dense" if answers are f32[d], rebuilt by the worker, which has directions of
            its own. With "scalar" they are f32[k] along directions that all workers share until
            the next update, the rule works in R^k, and the server rebuilds. A scalar answer
            about directions of an earlier update is not comparable, and is dropped.
        reassign_after: W: a buffer that has been empty for more than W answers, such as 10 m,
            is given a worker of another one, so that silent workers do not stop all updates; 0
            if workers keep their buffers.
        scheme: "central" differences, or "forward" for k + 1 evaluations instead of 2k.
    """
    sphere = directions.sphere(problem.x0.shape[-1], oracle.directions)
    server = buffered(
        problem.num_workers,
        aggregators.make(aggregator),
        buffers=buffers,
        step_size=oracle.schedule(hyper["step_size"]),
        directions=sphere,
        message=message,
        reassign_after=reassign_after,
    )
    worker = oracles.random_two_point(
        problem,
        sphere,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
        message=message,
        scheme=scheme,
    )
    return server, worker


# The paper's step size is not known. This one is inferred: it reproduces Table 3 of the
# FAR-SIGN paper, for an estimate scaled by d/k. The tuned ones are from
# `python -m experiments.tune`, for each aggregator by itself.
METHOD = Method(
    build,
    step_size_presets(0.055, 0.22),
    tuned={
        "mean": 0.055,
        "median": 0.22,
        "trimmed_mean:f=2": 0.11,
        "krum:f=4": 0.11,
        "multi_krum:f=4": 0.44,
        "rfa:iterations=32": 0.44,
        "bulyan:f=2": 0.22,
    },
)
