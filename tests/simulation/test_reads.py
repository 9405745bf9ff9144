"""Inconsistent reads: which iterate a worker is asked about, coordinate by coordinate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import (
    METHODS,
    Lockstep,
    OracleConfig,
    SystemSpec,
    arrivals,
    attacks,
    keys,
    simulation,
    sweeps,
)
from farsign_jax.base import System, Worker
from farsign_jax.validation import InvalidConfig
from tests import helpers

PROBLEM = helpers.quadratic()
SCHEDULE = arrivals.uniform(jax.random.key(1), helpers.M, 60)
SETTINGS = OracleConfig(batch_size=8, directions=5, decay_every=200)


@functools.cache
def system_of(method):
    hyper = dict(METHODS[method].presets["paper"]) | {"step_size": np.float32(0.1)}
    return SystemSpec(method, "none", (), SETTINGS)(PROBLEM, hyper)


@pytest.mark.parametrize("method", ["async_sgd", *helpers.slow(["far_sign", "async_zo_sgd"])])
def test_ages_of_zero_are_fresh_delivery(method):
    fresh, one = (
        simulation.run(PROBLEM, system_of(method), SCHEDULE, delivery=delivery)[0]
        for delivery in ("fresh", "inconsistent:1")
    )
    helpers.assert_same(fresh.server, one.server)
    helpers.assert_same(fresh.staleness, one.staleness)


@pytest.mark.slow
def test_answers_about_shared_directions_are_not_dropped():
    """Buffers of scalars take answers about the directions of the update in progress."""
    hyper, options = {"step_size": np.float32(0.1)}, {"message": "scalar", "buffers": 3}
    system = SystemSpec("cyber0", "none", (), SETTINGS, options)(PROBLEM, hyper)
    updates = [
        int(simulation.run(PROBLEM, system, SCHEDULE, delivery=delivery)[0].server.step)
        for delivery in ("fresh", "inconsistent:10")
    ]
    assert updates[0] == updates[1] > 5


@pytest.mark.parametrize("slots", [1, *helpers.slow([2])])
def test_reads_are_those_of_numpy(slots):
    """A server whose iterate counts events, n + 100 j, and workers that send what they read."""
    length, d, seed, events = 4, helpers.D, 5, 30
    inner = system_of("async_sgd").server
    start = jnp.asarray(100 * np.arange(d), jnp.float32)

    def update(state, reports):
        step = state.step + 1
        told = {"read": reports.value, "version": reports.version}
        return state._replace(params=start + step.astype(jnp.float32), step=step), told

    def init(params, key):
        return inner.init(start, key)

    worker = Worker(lambda shard: (), lambda s, query, shard, key: (s, query.params), 0)
    server = inner._replace(init=init, update=update)
    system, roles = System(server, worker, attacks.none()), keys.split(seed)
    schedule = arrivals.sets(jax.random.key(2), helpers.M, events, slots)
    delivery, liars = f"inconsistent:{length}", jnp.zeros(helpers.M, bool)
    run = simulation.start(system, PROBLEM, roles, delivery)
    _, info = simulation.advance(
        system, PROBLEM, liars, roles, delivery, run, jnp.asarray(schedule)
    )
    iterates = np.arange(events)[:, None] + np.asarray(start)
    numbers = jnp.arange(events, dtype=jnp.int32)[:, None]

    @functools.partial(jnp.vectorize, signature="(),()->(d)")
    def draw(worker, number):
        key = keys.message(roles.reads, worker, number)
        return jax.random.randint(key, (d,), 0, length, jnp.int32)

    read = np.asarray(jax.jit(draw)(jnp.asarray(schedule), numbers))
    for n, drawn in enumerate(read):
        for slot, ages in enumerate(np.minimum(drawn, n)):
            np.testing.assert_array_equal(info["read"][n, slot], iterates[n - ages, range(d)])
            assert info["version"][n, slot] == n - ages.max()
            assert info["staleness"][n, slot] == ages.max()
    counts = np.bincount(np.ravel(read), minlength=length)
    assert (
        len(counts) == length and len(np.unique(read.reshape(-1, d), axis=0)) == events * slots
    )
    assert (np.abs(counts / counts.sum() - 1 / length) < 0.06).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["async_sgd", "async_zo_sgd", "far_sign"])
def test_methods_converge_on_a_quadratic_with_old_coordinates(method):
    measure = helpers.distance(PROBLEM)
    schedule = arrivals.uniform(jax.random.key(1), helpers.M, 1500)
    options = {"delivery": "inconsistent:20", "measure": measure, "every": 60}
    run, records = simulation.run(PROBLEM, system_of(method), schedule, **options)
    assert records[-1]["distance"] < 0.15 * float(measure(PROBLEM.x0)["distance"])
    assert records[-1]["staleness"] == run.staleness.largest.max() == 19


@pytest.mark.optimized
@pytest.mark.slow
def test_runs_in_lock_step_that_resume_are_each_run_alone(tmp_path):
    names, delivery = ("none", "sign_flip"), "inconsistent:4"
    builds = tuple(
        SystemSpec("basgd", n, (), SETTINGS, (("buffers", 5), ("aggregator", "median")))
        for n in names
    )
    hyper = {"step_size": np.full((1, 1, 1), 0.1, np.float32)}
    byzantine = np.arange(helpers.M)[None] < 2
    every = sweeps.RunBatch.repeated(PROBLEM, 1)
    batch = sweeps.RunBatch(every, np.zeros(1, np.int32), hyper, byzantine, SCHEDULE[None])

    def stop(columns):
        raise KeyboardInterrupt

    options = {"every": 20, "measure": lambda x: {"x": x.sum(axis=-1)}, "delivery": delivery}
    options |= {"checkpoint": tmp_path / "runs.npz", "checkpoint_every": 20}
    with pytest.raises(KeyboardInterrupt):
        sweeps.sweep(Lockstep((builds,)), batch, on_checkpoint=stop, **options)
    _, ends = sweeps.sweep(Lockstep((builds,)), batch, **options)
    for number, build in enumerate(builds):
        system = build(PROBLEM, {"step_size": np.float32(0.1)})
        alone, _ = simulation.run(PROBLEM, system, SCHEDULE, byzantine=2, delivery=delivery)
        np.testing.assert_array_equal(alone.server.params, ends.params[0, number])


def test_the_iterates_that_are_kept_count_as_memory():
    batch = sweeps.RunBatch(
        sweeps.RunBatch.repeated(PROBLEM, 1),
        np.zeros(1, np.int32),
        {"step_size": np.full(1, 0.1, np.float32)},
        np.zeros((1, helpers.M), bool),
        np.asarray(SCHEDULE)[None],
    )
    build = SystemSpec("async_sgd", "none", (), SETTINGS)
    fresh, kept = (
        sweeps.run_sweep.bytes_per_run(build, batch, delivery)
        for delivery in ("fresh", "inconsistent:300")
    )
    assert kept - fresh == 300 * helpers.D * 4


@pytest.mark.parametrize("text", ["inconsistent:0", "inconsistent:", "fresh:2"])
def test_a_delivery_that_does_not_exist_is_refused(text):
    rule = f"outstanding:L or inconsistent:L with 0 < L < 65536: got '{text}'"
    with pytest.raises(InvalidConfig, match=rule):
        simulation.run(PROBLEM, system_of("async_sgd"), SCHEDULE, delivery=text)
    assert simulation.history_length("inconsistent") == 10
