"""The examples that the server of Zeno++ and AFLGuard trusts are nobody else's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import OracleConfig, SystemSpec, arrivals, simulation
from farsign_jax.base import Query, Shard
from farsign_jax.methods.trusted import set_aside
from farsign_jax.validation import InvalidConfig
from tests import helpers

ORACLE = OracleConfig(batch_size=40)


def seen():
    """A problem whose gradient counts how often each of its 200 examples was drawn."""
    problem = helpers.digits()

    def losses(x, batch):
        return x[batch]

    count = 5 * 40
    x0 = jnp.zeros(count)
    return dataclasses.replace(problem, data=jnp.arange(count), x0=x0, losses=losses)


@pytest.mark.parametrize("count", [5, *helpers.slow([1, 13])])
def test_no_worker_draws_an_example_of_the_server(count):
    problem = seen()
    examples, worker = set_aside(problem, count, OracleConfig(batch_size=20))
    own = np.asarray(examples)
    assert len(set(own)) == count
    share = [np.isin(own, np.asarray(rows)).sum() for rows in problem.rows]
    assert max(share) - min(share) <= 1 and sum(share) == count
    drawn = np.zeros(len(problem.x0), bool)
    for i in range(problem.num_workers):
        shard = Shard(problem.data, problem.rows[i], problem.sizes[i])
        query = Query(problem.x0, jnp.int32(i), (), jnp.int32(0))
        mine = np.zeros(len(problem.x0), bool)
        for key in jax.random.split(jax.random.key(i), 30):
            mine |= np.asarray(worker.respond((), query, shard, key)[1]) != 0
        each = -(-count // problem.num_workers)
        assert mine.sum() == 40 - each  # all of the others are drawn
        drawn |= mine
    assert not drawn[own].any()


@pytest.mark.parametrize("name", ["zeno_pp", "aflguard"])
def test_a_mini_batch_must_be_left(name):
    problem = helpers.digits()
    system = SystemSpec(name, "none", (), ORACLE, (("trusted", 5),))(
        problem, {"step_size": 0.1}
    )
    schedule = arrivals.uniform(jax.random.key(0), problem.num_workers, 3)
    rule = "batch_size=40, and a worker has 40, of which 1 are set aside"
    with pytest.raises(InvalidConfig, match=rule):
        simulation.run(problem, system, schedule)
    for wrong in (0, 201):
        with pytest.raises(InvalidConfig, match=f"1 <= trusted <= 200 .* got {wrong}"):
            set_aside(problem, wrong, ORACLE)
