"""The loop that computes ahead: the bits of `lax.scan`, and what is left within the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import RunConfig, attacks, keys, simulation
from farsign_jax.simulation import ahead
from tests import helpers

TABLE = jnp.arange(40.0).reshape(10, 4)


def step(state, event):
    """Draws rows and numbers that depend on the event alone, and one that depends on x."""
    x, total = state
    key = jax.random.fold_in(jax.random.key(3), event["number"])
    rows = jax.random.randint(key, (3,), 0, len(TABLE))
    drawn = TABLE[rows].sum() + jax.random.normal(key)
    place = (rows[0] + jnp.int32(jnp.abs(x))) % len(TABLE)
    x = jax.nn.relu(0.5 * x + drawn * TABLE[place, 0])  # a function with its own derivative
    return (x, total + rows.sum()), {"rows": rows, "x": x, "always": jnp.float32(2.0)}


def loops(jaxpr):
    """All loops of a program, the outermost first."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["jaxpr"].jaxpr
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "jaxpr"):
                yield from loops(inner.jaxpr)


def names(jaxpr):
    """The names of all operations of a program and of what it calls."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "jaxpr"):
                yield from names(inner.jaxpr)


@pytest.mark.parametrize("total", [0, 1, 7, 24, 31])
@pytest.mark.parametrize("together", [1, 300, ahead.TOGETHER])
def test_the_bits_are_those_of_scan(total, together, monkeypatch):
    monkeypatch.setattr(ahead, "TOGETHER", together)
    state, events = (jnp.float32(1.0), 0), {"number": jnp.arange(total)}
    loop = jax.jit(lambda scan: scan(step, state, events), static_argnums=0)
    helpers.assert_same(loop(jax.lax.scan), loop(ahead.scan))


def test_runs_side_by_side_have_the_bits_of_each_alone():
    starts, events = jnp.float32([1.0, 2.0, 3.0]), {"number": jnp.arange(12)}
    run = jax.jit(lambda x: ahead.scan(step, (x, 0), events))
    side_by_side = jax.vmap(run)(starts)
    for n, x in enumerate(starts):
        helpers.assert_same(jax.tree.map(lambda a, n=n: a[n], side_by_side), run(x))


def test_large_results_stay_in_the_loop(monkeypatch):
    monkeypatch.setattr(ahead, "LARGEST", 8)
    program = jax.make_jaxpr(lambda e: ahead.scan(step, (jnp.float32(1.0), 0), e))
    (loop,) = loops(program({"number": jnp.arange(12)}).jaxpr)
    assert {"random_bits", "gather"} <= set(names(loop))


@pytest.mark.parametrize("delivery", ["fresh", "outstanding"])
def test_an_event_draws_nothing_within_the_loop(delivery):
    """Coordinates, mini-batches and keys are drawn before it, with an attack's own key."""
    problem = helpers.digits()
    system = helpers.far_sign_system(problem, attacks.make("sign_flip"))
    mask, run_keys = jnp.arange(problem.num_workers) < 1, keys.split(0)

    def advance(schedule):
        run = simulation.start(system, problem, run_keys, delivery, mask)
        return simulation.advance(system, problem, mask, run_keys, delivery, run, schedule)

    program = jax.make_jaxpr(advance)(jnp.zeros((20,), jnp.int32))
    loop = list(loops(program.jaxpr))[-1]
    found = set(names(loop))
    assert "dot_general" in found
    assert not {name for name in found if name.startswith("random") or name == "scan"}


def test_a_run_ends_with_the_bits_of_one_event_at_a_time():
    config = RunConfig(attack="gaussian:std=3", events=64, eval_every=64, workers=10)
    whole = config.run()
    cut = RunConfig(attack="gaussian:std=3", events=64, eval_every=7, workers=10).run()
    assert np.array_equal(whole.params, cut.params)
