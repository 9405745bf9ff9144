"""Where y is kept: what each kind remembers and costs, and that FAR-SIGN learns with it."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import arrivals, simulation, sweeps
from farsign_jax.methods import OracleConfig, SystemSpec, average_storage
from farsign_jax.sweeps import inspection
from farsign_jax.sweeps.run_batch import RunBatch
from farsign_jax.validation import InvalidConfig
from tests import helpers

M, K, ASKED = 3, 40, 6


def conversation(kind, slots, answers=60, workers=M):
    """(worker, directions, what was read before, what was written) of random answers."""
    storage = average_storage.make(kind, workers, K, slots)
    rng, state, records = np.random.default_rng(0), storage.init(jnp.float32), []

    @jax.jit
    def receive(state, i, j, new):
        old = storage.read(state, i, j)
        return old, storage.write(state, i, j, old, new)

    for _ in range(answers):
        i = rng.integers(0, workers + 1)  # the last one stands for an empty slot
        j = rng.choice(K, ASKED, replace=False).astype(np.int32)
        new = rng.normal(size=(1, ASKED)).astype(np.float32)
        old, state = receive(state, jnp.full((1, 1), i), j[None], new)
        records.append((i, j, np.asarray(old)[0], new[0]))
    return records


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_tables_remember_everything(kind):
    known = np.zeros((M + 1, K), np.float32)
    for i, j, old, new in conversation(kind, None):
        if i < M:
            np.testing.assert_allclose(old, known[i, j], rtol=2**-8 if kind != "float32" else 0)
            known[i, j] = new


@pytest.mark.parametrize("kind", list(average_storage.STORAGE))
def test_an_answer_touches_no_more_of_the_state_than_its_own(kind):
    """No copy of all averages, and no change of their type, in a loop over answers."""
    storage = average_storage.make(kind, M, 9973, 9001)

    def receive(state, number):
        i, j = number[None, None] % M, number + jnp.arange(ASKED, dtype=jnp.int32)[None]
        old = storage.read(state, i, j)
        return storage.write(state, i, j, old, old + 1.0), old

    def run(state):
        return jax.lax.scan(receive, state, jnp.arange(20, dtype=jnp.int32))

    state = storage.init(jnp.float32)
    text = jax.jit(run, donate_argnums=0).lower(state).compile().as_text()
    found = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|convert)\(", text)
    sizes = [math.prod(map(int, shape.split(","))) for shape in found]
    assert max(sizes, default=0) < min(leaf.size for leaf in jax.tree.leaves(state))


def test_a_hashed_average_is_the_right_one_or_none():
    known, right, read = {}, 0, 0
    for i, j, old, new in conversation("hashed", 20, answers=200):
        for one, value, records in zip(j, old, new, strict=True):
            if i < M:
                assert value in (0, known.get((i, one), 0))
                right += value != 0
                read += (i, one) in known
                known[i, one] = records
    assert 0.2 < right / read < 0.8  # half as many slots as directions


def test_blocks_of_one_are_a_table_and_larger_ones_share():
    known, shared = np.zeros((M, K)), np.zeros((M, K // 5))
    for i, j, old, new in conversation("blocks", K):
        if i < M:
            np.testing.assert_allclose(old, known[i, j], atol=1e-6)
            known[i, j] = new
    for i, j, old, new in conversation("blocks", K // 5):
        if i < M:
            np.testing.assert_allclose(old, shared[i, j // 5], atol=1e-4)
            np.add.at(shared[i], j // 5, new - old)


def test_a_sketch_reads_what_was_written_but_for_collisions():
    storage = average_storage.make("sketch", 1, 10_000, 2_000)
    rng = np.random.default_rng(1)
    j = rng.choice(10_000, 200, replace=False).astype(np.int32)[None]
    value, i = rng.normal(size=(1, 200)).astype(np.float32), jnp.zeros((1, 1), jnp.int32)
    state = storage.init(jnp.float32)
    state = storage.write(state, i, j, storage.read(state, i, j), value)
    error = np.abs(storage.read(state, i, j) - value)
    assert (error < 1e-6).mean() > 0.9  # two of three rows free of collisions
    assert np.asarray(storage.read(state, i, (j + 1) % 10_000) == 0).mean() > 0.8


def system(problem, **options):
    feedback = OracleConfig(batch_size=8, directions=5, decay_every=200)
    build = SystemSpec("far_sign", "alie", (("z", 0.5),), feedback, tuple(options.items()))
    return build, build(problem, {"step_size": 0.1, "average_step": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(average_storage.STORAGE))
def test_far_sign_learns_with_every_kind(kind):
    problem = helpers.quadratic()
    _, given = system(problem, storage=kind, slots=10)
    schedule = arrivals.uniform(jax.random.key(1), helpers.M, 1500)
    measure = helpers.distance(problem)
    run, records = simulation.run(problem, given, schedule, byzantine=1, measure=measure)
    assert records[-1]["distance"] < 0.25 * float(measure(problem.x0)["distance"])
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(run.server.averages))
    each = {"float32": 4 * helpers.D, "bfloat16": 2 * helpers.D, "blocks": 40}
    assert kept == helpers.M * (each | {"sketch": 120, "hashed": 80})[kind]


def test_a_batch_that_does_not_fit_is_refused_with_one_that_would(monkeypatch):
    problem = helpers.quadratic(dim=2000)
    build, _ = system(problem)
    batch = RunBatch(
        problem=RunBatch.repeated(problem, 1),
        seeds=jnp.zeros(1, jnp.int32),
        hyper={"step_size": np.full(1, 0.1), "average_step": np.full(1, 0.5)},
        byzantine=jnp.zeros((1, helpers.M), bool),
        schedules=np.zeros((1, 3), np.int32),
    )
    monkeypatch.setattr(inspection, "memory", lambda batch: (50_000, 50_000))
    message = r"server.averages float32\[7, 2000\] takes .*bfloat16 needs .*slots=\d+ or less"
    with pytest.raises(InvalidConfig, match=message) as records:
        batch.check(build, "fresh")
    slots = int(str(records.value).partition("slots=")[2].split()[0])
    for fits, kind in ((slots, "hashed"), (slots + 200, "hashed")):
        other, _ = system(problem, storage=kind, slots=fits)
        assert (sweeps.bytes_per_run(other, batch) <= 50_000) == (fits == slots)


@pytest.mark.parametrize("slots", [0, K + 1])
def test_slots_are_checked(slots):
    with pytest.raises(InvalidConfig, match=f"1 <= slots <= K=40: got {slots}"):
        average_storage.make("hashed", M, K, slots)
