"""Which losses zeroth-order workers take differences of: none that is rounded below float32."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import METHODS, OracleConfig, SystemSpec, directions, models, oracles, problems
from farsign_jax.base import Query
from farsign_jax.oracles.precision import check_precision
from farsign_jax.validation import InvalidConfig
from tests import helpers

REFUSED = "losses that are computed in float32 or float64: got {}.*use a first-order method"


def rounded(h, dtype):
    return h.astype(dtype).astype(jnp.float32)


def looped(h):  # only the second round reads what was rounded, from a carry that was exact
    def round_again(carry, _):
        first, _ = carry
        return (h, first.astype(jnp.bfloat16).astype(jnp.float32)), None

    return jax.lax.scan(round_again, (jnp.zeros_like(h), h), None, length=2)[0][1]


INSIDE = {
    "bfloat16": lambda h: rounded(h, jnp.bfloat16),
    "float16": jax.jit(lambda h: rounded(h, jnp.float16)),
    "7 bits": lambda h: jax.lax.reduce_precision(h, 8, 7),
    "bfloat16 in a loop": looped,
    "bfloat16 in a branch": lambda h: jax.lax.cond(
        h.sum() > 0, lambda a: rounded(a, jnp.bfloat16), lambda a: a, h
    ),
}
LAYERS = {
    "bfloat16": (("dtype", jnp.bfloat16),),
    "float16": (("dtype", jnp.float16),),
    "bfloat16 ": (("param_dtype", jnp.bfloat16),),
    "matrix products of the device's default precision": (("precision", "default"),),
}


class Net(nn.Module):
    """A dense layer with options, a function, and a dense layer in float32."""

    options: tuple
    inside: Any = None

    @nn.compact
    def __call__(self, inputs):
        h = nn.tanh(nn.Dense(5, **dict(self.options))(inputs.reshape(inputs.shape[0], -1)))
        h = self.inside(h) if self.inside else h
        return nn.Dense(4)(h.astype(jnp.float32))


def answer(problem, method):
    """The shape of an answer: the worker is traced, which is when it refuses."""
    oracle = OracleConfig(batch_size=8, directions=3)
    options = (("buffers", 3),) if method == "cyber0" else ()
    system = SystemSpec(method, oracle=oracle, options=options)(
        problem, METHODS[method].presets["paper"]
    )

    def ask():
        state, zero = system.server.init(problem.x0, jax.random.key(0)), jnp.int32(0)
        query = system.server.query(state, zero, jax.random.key(1))
        return system.worker.respond((), query, problem.shard(zero), jax.random.key(2))[1]

    return jax.eval_shape(ask)


ZEROTH = ("far_sign", "async_zo_sgd", "cyber0")


@pytest.mark.parametrize("method", ZEROTH)
@pytest.mark.parametrize(
    ("options", "inside", "found"),
    [(options, None, found) for found, options in LAYERS.items()]
    + [((), inside, found) for found, inside in INSIDE.items()],
)
def test_half_precision_is_refused_wherever_it_is(method, options, inside, found):
    with jax.numpy_dtype_promotion("standard"):  # Flax adds parameters to inputs
        problem = helpers.digits(Net(options, inside))
        assert problem.x0.dtype == jnp.float32
        rule = REFUSED.format(found.split(" in ")[0].strip())
        with pytest.raises(InvalidConfig, match=rule):
            answer(problem, method)
        for first_order in ("far_sign_first_order", "async_sgd"):
            assert answer(problem, first_order).dtype == jnp.float32


@pytest.mark.parametrize("method", ZEROTH)
def test_half_precision_in_the_activation_of_an_mlp_is_refused(method):
    problem = helpers.digits(models.MLP((5, 4), lambda z: rounded(nn.relu(z), jnp.bfloat16)))
    assert problem.structure is not None
    with pytest.raises(InvalidConfig, match=REFUSED.format("bfloat16")):
        answer(problem, method)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("structured", [True, False])
def test_parameters_in_half_precision_are_refused(dtype, structured):
    problem = helpers.digits()
    problem = dataclasses.replace(problem, x0=problem.x0.astype(dtype))
    if not structured:
        problem = dataclasses.replace(problem, structure=None)
    for method in ZEROTH:
        with pytest.raises(
            InvalidConfig, match=f"need parameters in float32.*got {dtype.dtype}"
        ):
            answer(problem, method)


def test_half_precision_that_does_not_depend_on_the_parameters_is_accepted():
    def losses(x, batch):
        images = batch.astype(jnp.bfloat16) / jnp.bfloat16(255)
        return images.astype(x.dtype) @ x

    check_precision(losses, jnp.zeros(3), jnp.zeros((4, 3), jnp.uint8))
    check_precision(losses, jnp.zeros(3), jnp.zeros((4, 3), jnp.bfloat16))
    with helpers.float64():
        check_precision(losses, jnp.zeros(3, jnp.float64), jnp.zeros((4, 3), jnp.bfloat16))


def test_answers_have_the_type_of_the_parameters_where_losses_are_wider():
    with helpers.float64(), jax.numpy_dtype_promotion("standard"):
        data = np.linspace(-1, 1, 12).reshape(6, 2)
        problem = problems.smooth(problems.bowl, jnp.zeros(2, jnp.float32), 3, helpers.KEY)
        losses = lambda x, batch: batch.astype(jnp.float64) @ x  # noqa: E731
        problem = dataclasses.replace(
            problem, data=data, rows=jnp.arange(6).reshape(3, 2), losses=losses
        )
        dictionary, zero = directions.identity(2, 2), jnp.int32(0)
        query = Query(problem.x0, zero, jnp.arange(2, dtype=jnp.int32), zero)
        for worker in (
            oracles.two_point(losses, dictionary, batch_size=1),
            oracles.directional_derivative(losses, dictionary, batch_size=1),
        ):
            value = worker.respond((), query, problem.shard(zero), helpers.KEY)[1]
            assert value.dtype == jnp.float32


def test_the_losses_of_a_module_are_float32_whatever_it_computes_in():
    problem = helpers.digits(Net((("dtype", jnp.bfloat16),)))
    batch = problem.shard(jnp.int32(0)).batch(helpers.KEY, 8)
    assert jax.eval_shape(problem.losses, problem.x0, batch).dtype == jnp.float32
