"""ZO-signSGD: the signs of two-point estimates, and a majority vote over workers.

In every round each worker of a set S draws k directions u_l of the unit sphere and sends the
signs of its estimate of the gradient. The server is that of `sign_sgd_mv`:

    D_l = [F(x + delta u_l; xi) - F(x; xi)] / delta
    s_i = sign(d/k sum_l D_l u_l)
    x <- x - eta_n * sign(sum_{i in S} s_i)

With one worker it is ZO-signSGD, with several its distributed variant. With `vote="terms"`, a
worker sends the majority of the signs of its terms, s_i = sign(sum_l sign(D_l u_l)), as the
variant with a majority vote, ZO-M-signSGD, does. There a term belongs to one direction and one
example; here it belongs to one direction and a whole mini-batch.

References:
    Liu, Chen, Chen and Hong, "signSGD via Zeroth-Order Oracle", ICLR 2019.
"""

import jax.numpy as jnp

from farsign_jax import oracles
from farsign_jax.base import Array, Problem, PyTree, Server, Worker
from farsign_jax.directions.random_directions import RandomDirections, sphere
from farsign_jax.methods.gradient_server import ask_along
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.sign_sgd_mv import sign_sgd
from farsign_jax.validation import lookup, require

VOTES = ("estimate", "terms")


def estimate_sign(
    worker: Worker, directions: RandomDirections, vote: str = "estimate"
) -> Worker:
    """The honest worker: signs of an estimate along random directions.

    Args:
        worker: `oracles.random_two_point` with scalar messages along these directions.
        directions: those of the server.
        vote: "estimate", the signs of the estimate; "terms", the majority of the signs of its
            terms, where a tie counts as 0.

    Returns:
        A `Worker` that measures D f32[k] and sends f32[d] of -1, 0 and 1, which counts as d
        bits.

    Raises:
        InvalidConfig: if the vote is unknown or the worker encodes what it sends.
    """
    lookup("vote", vote, dict.fromkeys(VOTES))
    rule = "estimate_sign needs a worker that sends the numbers it measures: this one encodes"
    require(worker.encode is None, rule)

    def encode(direction: PyTree, measured: Array) -> Array:
        if vote == "estimate":
            return jnp.sign(directions.rebuild(direction, measured))
        z, _ = directions.vectors(direction)
        rule = f"an answer is made of k={directions.k} numbers: got shape {measured.shape}"
        require(measured.shape == (directions.k,), rule)
        signs = jnp.sign(z).astype(measured.dtype)
        return jnp.sign(jnp.matmul(jnp.sign(measured), signs, precision="highest"))

    return worker._replace(encode=encode, bits=directions.dim)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    scheme: str = "forward",
    vote: str = "estimate",
) -> tuple[Server, Worker]:
    """Rounds: a majority vote of signs of two-point estimates.

    Args:
        step_size: eta, the initial step size.
        scheme: "forward" differences, as in the paper, or "central" ones.
        vote: "estimate" if a worker sends the signs of its estimate, "terms" if it sends the
            majority of the signs along its directions.
    """
    directions = sphere(problem.x0.shape[-1], oracle.directions)
    server = sign_sgd(problem.num_workers, step_size=oracle.schedule(hyper["step_size"]))
    worker = oracles.random_two_point(
        problem,
        directions,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
        message="scalar",
        scheme=scheme,
    )
    server = server._replace(query=ask_along(directions))
    return server, estimate_sign(worker, directions, vote)


# The paper has no step for this problem. "paper" is that of `sign_sgd_mv`; "tuned" is the best
# of 0.001, 0.0025 and 0.006 after 4,000 answers on the embedded digits.
METHOD = Method(
    build, step_size_presets(0.0025, 0.006), works_in_rounds=True, attacks_in_lockstep=True
)
