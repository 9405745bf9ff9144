"""BASGD: asynchronous SGD with buffers and a robust aggregate of their means.

The server is `buffered`, whose workers send stochastic gradients f32[d]. With `momentum` they
send moving averages of them, v_i <- (1 - b) * g_i + b * v_i, and the method is BASGDm. With
`reassign_after` workers change their buffers where one starves (`reassignment`).

References:
    Yang and Li, "BASGD: Buffered Asynchronous SGD for Byzantine Learning", ICML 2021,
    Algorithm 2; BASGDm: "Buffered Asynchronous SGD for Byzantine Learning", JMLR 24(204), 2023.
"""

from farsign_jax import aggregators
from farsign_jax.base import Problem, Server, Worker
from farsign_jax.methods.buffered import buffered
from farsign_jax.methods.method import (
    Hyper,
    Method,
    OracleConfig,
    gradient_worker,
    step_size_presets,
)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    aggregator: str = "median",
    buffers: int = 11,
    momentum: float = 0.0,
    reassign_after: int = 0,
) -> tuple[Server, Worker]:
    """An aggregator of buffers of stochastic gradients.

    Args:
        step_size: eta, the initial step size.
        aggregator: a rule of `aggregators` by name, as in "krum:f=4", for B rows.
        buffers: B, the number of buffers; q Byzantine workers need B >= 2q + 1.
        momentum: b in [0, 1) of the moving average that a worker sends; BASGDm if b > 0.
        reassign_after: W: a buffer that has been empty for more than W answers, such as 10 m,
            is given a worker of another one, so that silent workers do not stop all updates; 0
            if workers keep their buffers.
    """
    server = buffered(
        problem.num_workers,
        aggregators.make(aggregator),
        buffers=buffers,
        step_size=oracle.schedule(hyper["step_size"]),
        reassign_after=reassign_after,
    )
    return server, gradient_worker(problem, oracle, momentum)


METHOD = Method(build, step_size_presets(0.2))
