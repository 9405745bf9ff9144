"""The FAR-SIGN server for loops of other frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from farsign_jax import arrivals, base, interop, oracles, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.attacks.messages import none
from farsign_jax.base import System
from farsign_jax.directions.dictionary import identity
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.validation import InvalidConfig
from tests import helpers


@pytest.mark.optimized
def test_the_server_equals_the_simulator():
    problem = helpers.quadratic()
    dictionary = identity(helpers.D, 4)
    worker = oracles.directional_derivative(problem.losses, dictionary, batch_size=8)
    options = {"step_size": optax.exponential_decay(0.1, 10, 0.9), "average_step": 0.3}
    system = System(far_sign(helpers.M, dictionary, **options), worker, none())
    schedule = arrivals.uniform(jax.random.key(5), helpers.M, 40)
    keys = keys_lib.split(2)
    run, _ = simulation.run(problem, system, schedule, seed=2)

    server = interop.FarSign(np.asarray(problem.x0), helpers.M, directions=4, seed=2, **options)
    respond = jax.jit(worker.respond)
    for event, i in enumerate(np.asarray(schedule)):
        question = server.ask(i)
        assert question.directions.dtype == np.int64
        ids = jnp.asarray(question.directions, jnp.int32)
        query = base.Query(jnp.asarray(question.params), i, ids, jnp.int32(event))
        key = keys_lib.message(keys.batches, i, event)
        _, value = respond((), query, problem.shard(i), key)
        server.tell(question, np.asarray(value))
    np.testing.assert_array_equal(server.params, run.server.params)
    assert server.step == 40
    snapshot = server.params
    snapshot[:] = 0  # a copy that belongs to the caller
    np.testing.assert_array_equal(server.params, run.server.params)


def test_answers_may_be_late_and_are_checked():
    server = interop.FarSign(np.zeros(5), 3, step_size=0.5, average_step=1.0)
    early, late = server.ask(0), server.ask(1)
    server.tell(late, np.ones(5, np.float16))
    server.tell(early, [np.nan, np.inf, 0, -3, -1e38])
    want = np.zeros(5)
    want[late.directions] -= 0.5
    want[early.directions[3:]] += 0.5
    np.testing.assert_array_equal(server.params, want)
    last = server.ask(np.int64(2))
    wrong = last._replace(directions=np.arange(5) - 1)
    for bad, message in (
        (lambda: server.ask(3), r"workers 0..2: got worker=3"),
        (lambda: server.ask("a"), r"workers 0..2: got worker='a'"),
        (lambda: server.ask(1.5), r"workers 0..2: got worker=1.5"),
        (lambda: server.tell(early, np.ones(5)), "answered once, .* number 0 is not open"),
        (lambda: server.tell(last, np.ones(4)), r"per direction, 5 here: got shape \(4,\)"),
        (lambda: server.tell(last, ["a"] * 5), r"of real numbers: got \['a', "),
        (lambda: server.tell(last, np.ma.ones(5)), "without a mask: got MaskedArray"),
        (lambda: server.tell("last", np.ones(5)), "a question of ask: got str"),
        (lambda: server.tell(last._replace(worker=77), np.ones(5)), "worker 2: got 77"),
        (lambda: server.tell(wrong, np.ones(5)), r"directions 0..4: got \[-1, "),
        (lambda: interop.FarSign(np.zeros((2, 2)), 3, step_size=1, average_step=1), r"\[d\]"),
        (lambda: interop.FarSign(np.zeros(2), 3, step_size=0, average_step=1), "step_size > 0"),
        (
            lambda: interop.FarSign(np.zeros(2), 3, directions=0, step_size=1, average_step=1),
            "k=0",
        ),
    ):
        with pytest.raises(InvalidConfig, match=message):
            bad()
    np.testing.assert_array_equal(server.params, want)
    server.tell(last, np.zeros(5))  # refused answers left the question open
    assert server.step == 3


def test_a_loop_of_pytorch_tolerates_byzantine_workers(torch):
    target = torch.linspace(-1, 1, 10)
    generator = torch.Generator().manual_seed(0)
    server = interop.FarSign(torch.zeros(10), 7, directions=5, step_size=0.02, average_step=0.5)
    for event in range(600):
        question = server.ask(event % 7)
        noise = 0.1 * torch.randn(10, generator=generator)
        gradient = question.params - target + noise
        if question.worker < 2:
            gradient *= -10
        server.tell(question, gradient[question.directions])
    assert isinstance(server.params, torch.Tensor)
    assert (server.params - target).abs().max() < 0.15
