"""FeedSign: one bit per worker and round, a vote about one direction that a seed names.

In every round all workers draw the same direction u ~ N(0, I), and each sends the sign of its
difference; the server moves x by the majority, where a tie counts as 0:

    s_i = sign(F_i(x + delta u) - F_i(x - delta u))
    x <- x - eta_n * sign(sum_i s_i) * u

A worker that comes late is sent one bit per round and rebuilds x from the seeds. The majority
bounds what a lie does, as long as most workers are honest; averages over time there are none.

References:
    Cai et al., "FeedSign: Robust Full-parameter Federated Fine-tuning of Large Models with
    Extremely Low Communication Overhead of One Bit", arXiv 2501.17610.
"""

import jax.numpy as jnp

from farsign_jax.aggregators.row_ops import add_up
from farsign_jax.base import Array, Key, Problem, PyTree, Query, Server, Shard, Worker
from farsign_jax.directions.random_directions import random_directions
from farsign_jax.methods.cyber0_rounds import cyber0_rounds
from farsign_jax.methods.method import Hyper, Method, OracleConfig, step_size_presets
from farsign_jax.methods.mezo import scalar_worker


def majority(rows: Array, *, mask: Array, key: Key | None = None) -> Array:
    """The sign of the sum of the signs of the rows that are present, f32[k]."""
    del key  # nothing is drawn

    def vote(row: Array, present: Array) -> Array:
        return jnp.where(present, jnp.sign(row), 0)

    return jnp.sign(add_up(vote, rows, mask))


def one_bit(worker: Worker) -> Worker:
    """The honest worker that sends the signs of what another one would send, one bit each."""

    def respond(state: PyTree, query: Query, shard: Shard, key: Key) -> tuple[PyTree, Array]:
        state, value = worker.respond(state, query, shard, key)
        return state, jnp.sign(value)

    return worker._replace(respond=respond, bits=1)


def build(problem: Problem, oracle: OracleConfig, hyper: Hyper) -> tuple[Server, Worker]:
    """Rounds: a majority vote of one-bit answers about one shared direction.

    Args:
        step_size: eta, the initial step size.
    """
    directions = random_directions(problem.x0.shape[-1], 1, "gaussian")
    step_size = oracle.schedule(hyper["step_size"])
    server = cyber0_rounds(problem.num_workers, majority, directions, step_size=step_size)
    return server, one_bit(scalar_worker(problem, oracle, directions))


# The best of 0.001, 0.003 and 0.01 after 2,000 answers on the embedded digits.
METHOD = Method(build, step_size_presets(0.01), works_in_rounds=True)
