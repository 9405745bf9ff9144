"""Inconsistent reads: an iterate whose coordinates are of different ages.

Where workers read the iterate from shared memory without a lock, the server goes on writing
while they read. With "inconsistent:L" delivery, the question of event n is about

    xhat_j = x^{n - tau_j}_j,   tau_j = min(u_j, n),   u_j independent, uniform on 0 .. L - 1

for every coordinate j, where x^n is the iterate before event n. All else is as in fresh
delivery. With L = 1 it is fresh delivery. The version of the question, from which the staleness
of the answer follows, is that of its oldest coordinate; but where a server compares answers
about the same directions (`Server.comparable`), it remains that of the directions.

References:
    Lian, Zhang, Hsieh, Huang and Liu, "A Comprehensive Linear Speedup Analysis for Asynchronous
    Stochastic Parallel Optimization from Zeroth-Order to First-Order", NeurIPS 2016, whose
    analysis needs no more of the ages than a bound; that they are independent and uniform is a
    choice of this library.
"""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

import jax
import jax.numpy as jnp

from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Query
from farsign_jax.simulation.state import History


def no_history(params: Array, step: Array, length: int) -> History:
    """Returns the history before the first event, in which all iterates are the first one.

    Args:
        params: f32[..., d], the first iterate.
        step: i32[], of the server.
        length: L, the number of iterates that are kept.
    """
    repeat = (length,) + params.ndim * (1,)
    return History(jnp.tile(params[None], repeat), jnp.full((length,), step))


def mix(
    history: History,
    queries: Query,
    number: Array,
    keys: keys_lib.RunKeys,
    comparable: bool,
) -> tuple[History, Query]:
    """Replaces the iterate of s questions by what each of the workers reads of it.

    Args:
        history: of the events before this one.
        queries: leaves [s, ...]; all are about the same iterate.
        number: i32[], of the event.
        keys: of the run.
        comparable: of the server.

    Returns:
        The history with the iterate of this event, and the questions.
    """
    length, d = len(history.versions), history.params.shape[-1]
    at = number % length
    history = History(
        history.params.at[at].set(queries.params[0]),
        history.versions.at[at].set(queries.version[0]),
    )

    def one(query: Query) -> Query:
        key = keys_lib.message(keys.reads, query.worker, number)
        ages = jax.random.randint(key, (d,), 0, length, jnp.int32)
        ages = jnp.minimum(ages, number)
        places = jnp.broadcast_to((number - ages) % length, (1, *query.params.shape))
        params = jnp.take_along_axis(history.params, places, axis=0)[0]
        if not comparable:
            oldest = history.versions[(number - ages.max()) % length]
            query = query._replace(version=oldest)
        return query._replace(params=params)

    return history, jax.vmap(one)(queries)
