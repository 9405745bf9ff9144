"""Many runs at once: the same bits however they are cut, killed or resumed; and their cost."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax import OracleConfig, SystemSpec, arrivals, models, sweeps
from farsign_jax.sweeps import run_sweep
from farsign_jax.validation import InvalidConfig
from tests import helpers

WORKERS, EVENTS = 5, 60
FEEDBACK = OracleConfig(batch_size=8, directions=6)
BUILD = SystemSpec("far_sign", "alie", (("z", 1.5),), FEEDBACK)


def largest(params):
    return {"largest": jnp.abs(params).max(axis=-1)}


def digits_batch(count=3, module=None, shape=(6, 6, 1), examples=40, workers=WORKERS):
    one = [
        helpers.digits(module, seed=s, shape=shape, examples=examples, workers=workers)
        for s in range(count)
    ]
    problem = dataclasses.replace(
        one[0],
        rows=jnp.stack([p.rows for p in one]),
        sizes=jnp.stack([p.sizes for p in one]),
        x0=jnp.stack([p.x0 for p in one]),
    )
    steps = np.linspace(0.02, 0.05, count, dtype=np.float32)
    return sweeps.RunBatch(
        problem,
        np.arange(count, dtype=np.int32),
        {"step_size": steps, "average_step": np.full(count, 0.5, np.float32)},
        np.tile(np.arange(workers) < 2, (count, 1)),
        np.stack([arrivals.uniform(jax.random.key(s), workers, EVENTS) for s in range(count)]),
    )


def run(batch, **options):
    options = {"every": 20, "measure": largest} | options
    columns, final = sweeps.sweep(BUILD, batch, **options)
    columns.pop("seconds")
    return columns, final.params


@pytest.mark.slow
@pytest.mark.parametrize("delivery", [pytest.param("fresh", marks=helpers.LONG), "outstanding"])
def test_chunks_of_runs_equal_all_at_once_and_each_alone(delivery):
    """A real MLP: matrix products and reductions must not depend on the number of runs."""
    batch = digits_batch()
    together = run(batch, delivery=delivery)
    helpers.assert_same(together, run(batch, delivery=delivery, max_parallel_runs=2))
    alone = [run(batch.take(slice(i, i + 1)), delivery=delivery) for i in range(3)]
    helpers.assert_same(together, jax.tree.map(lambda *a: np.concatenate(a), *alone))


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("delivery", "max_parallel_runs"),
    [("outstanding", 2)] + helpers.slow([("outstanding", None), ("fresh", 2), ("fresh", None)]),
)
def test_an_interrupted_sweep_ends_with_the_same_bits(tmp_path, delivery, max_parallel_runs):
    batch = digits_batch()
    options = {"delivery": delivery, "max_parallel_runs": max_parallel_runs}
    complete = run(batch, **options)
    path = tmp_path / "sweep.npz"
    stops = iter([1, 3, 2, 10**9])
    for attempt in range(4):
        left = next(stops)

        def progress(_):
            nonlocal left
            left -= 1
            if left < 0:
                raise Stop

        try:
            resumed = run(
                batch, checkpoint=path, checkpoint_every=20, progress=progress, **options
            )
            break
        except Stop:
            assert attempt < 3
    helpers.assert_same(complete, resumed)
    # Finished: nothing is computed again.
    seen = []
    helpers.assert_same(complete, run(batch, checkpoint=path, progress=seen.append, **options))
    assert sum(seen) == 3 * EVENTS


@pytest.mark.slow
def test_a_sweep_resumes_with_the_chunks_it_began_with(tmp_path, monkeypatch):
    """Free memory may differ from call to call; what was computed must still be found."""
    path = tmp_path / "sweep.npz"
    batch = digits_batch()
    monkeypatch.setattr(run_sweep, "runs_that_fit", lambda total, size: 2)
    first = run(batch, checkpoint=path)
    monkeypatch.setattr(run_sweep, "runs_that_fit", lambda total, size: total)
    with helpers.compilations() as compiled:
        again = run(batch, checkpoint=path)
    assert compiled == []
    helpers.assert_same(first, again)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_of_another_sweep_raises(tmp_path):
    path = tmp_path / "sweep.npz"
    batch = digits_batch()
    run(batch, checkpoint=path)
    other = dataclasses.replace(batch, seeds=batch.seeds + 1)
    with pytest.raises(InvalidConfig, match="another method, attack"):
        run(other, checkpoint=path)
    with pytest.raises(InvalidConfig, match="another method, attack"):
        sweeps.sweep(
            SystemSpec("far_sign", "none", (), FEEDBACK), batch, every=20, measure=largest,
            checkpoint=path,
        )  # fmt: skip
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])  # writes are atomic, so this is damage
    with pytest.raises(InvalidConfig, match="damaged"):
        run(batch, checkpoint=path)


_KILLED = """
import sys, time
import numpy as np
from tests.sweeps.test_sweeps import digits_batch, run
seen = []
def progress(events):
    print("segment", flush=True)
    time.sleep(0.2)
columns, params = run(digits_batch(), checkpoint=sys.argv[1], checkpoint_every=10, every=10,
                      progress=progress)
np.save(sys.argv[2], params)
"""

pytestmark = pytest.mark.optimized


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing_but_the_running_segment(tmp_path):
    command = [sys.executable, "-c", _KILLED, tmp_path / "s.npz", tmp_path / "params.npy"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    # All attempts need the same programs, which the first one compiles.
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for segments in (1, 3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(segments):
            assert child.stdout.readline() == "segment\n"
        time.sleep(0.1 * segments)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert not (tmp_path / "params.npy").exists()
    # The last attempt has less left to do than a run from the start.
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    assert done.stdout.count("segment") < EVENTS // 10 + 1
    _, params = run(digits_batch(), every=10)
    np.testing.assert_array_equal(np.load(tmp_path / "params.npy"), params)


def compiled(batch, events=20, delivery="fresh", turns=None):
    """The program of a segment: with 20 events, one that the runs above have compiled."""
    batch = jax.tree.map(jnp.asarray, batch)
    run = sweeps.start(BUILD, delivery, batch.problem, batch.seeds, batch.hyper)
    args = (batch.problem, batch.seeds, batch.hyper, batch.byzantine, run)
    chunk = batch.schedules[:, :events]
    return sweeps.advance.lower(BUILD, delivery, *args, chunk, turns=turns).compile()


@pytest.mark.slow
def test_runs_in_turns_and_side_by_side_give_the_same_bits():
    batch = jax.tree.map(jnp.asarray, digits_batch(3))
    args = (batch.problem, batch.seeds, batch.hyper, batch.byzantine)
    after = []
    for turns in (True, False):
        run = sweeps.start(BUILD, "fresh", *args[:3])
        chunk = batch.schedules[:, :20]
        after.append(sweeps.advance(BUILD, "fresh", *args, run, chunk, turns=turns))
    helpers.assert_same(*after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "delivery", "turns"),
    [(1, "fresh", True), (3, "fresh", True), (3, "fresh", False), (2, "outstanding", False)],
)
def test_the_compiled_loop_copies_no_table(count, delivery, turns):
    batch = digits_batch(count)
    m, d = WORKERS, batch.problem.x0.shape[1]
    text = compiled(batch, delivery=delivery, turns=turns).as_text()
    assert re.search(rf"f32\[(\d+,)*{m},{d}\]", text)  # the table is there
    copies = re.findall(r"= f32\[([\d,]+)\]\S* copy(?:-start)?\(", text)
    tables = [shape for shape in copies if shape.endswith(f"{m},{d}") or shape == f"{m * d}"]
    assert tables == []


def test_a_run_needs_little_more_than_its_state_and_data():
    """y + x + data + 20 %, by the compiler's own account, at the size of the paper."""
    module = models.mlp()
    batch = digits_batch(1, module, shape=(28, 28, 1), examples=2400, workers=25)
    program = compiled(batch, events=1000).memory_analysis()
    used = (
        program.argument_size_in_bytes
        + program.output_size_in_bytes
        - program.alias_size_in_bytes
        + program.temp_size_in_bytes
    )
    d = 25_450
    y, x, data = 25 * d * 4, d * 4, 25 * 2400 * (784 + 4)
    assert used <= 1.2 * (y + x + data)
    # The state of one run, and its table of examples, are what bytes_per_run counts.
    kept = sweeps.bytes_per_run(BUILD, batch)
    assert y + 2 * x + 25 * 2400 * 4 <= kept <= 1.1 * (y + 2 * x + 25 * 2400 * 4)


def test_the_number_of_runs_that_fit_is_bounded_by_memory():
    assert sweeps.runs_that_fit(10, 1) == 10
    assert sweeps.runs_that_fit(10, 2**60) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, "every > 0"),
        ({"checkpoint_every": 0}, "checkpoint_every > 0: got 0"),
        ({"max_parallel_runs": 0}, "max_parallel_runs > 0: got 0"),
        ({"delivery": "late"}, "got 'late'"),
    ],
)
def test_invalid_options_raise(change, message):
    with pytest.raises(InvalidConfig, match=message):
        run(digits_batch(1), **change)


def test_every_run_is_checked_before_the_loop():
    batch = digits_batch(2)
    bad = dataclasses.replace(batch, hyper=batch.hyper | {"average_step": np.array([0.5, 2.0])})
    with pytest.raises(InvalidConfig, match="0 < average_step <= 1: got 2"):
        run(bad)
    bad = dataclasses.replace(batch, hyper=batch.hyper | {"step_size": np.array([0.5, -1.0])})
    with pytest.raises(InvalidConfig, match="positive and finite: got -1"):
        run(bad)
    late = batch.schedules.copy()
    late[1, 7] = WORKERS
    with pytest.raises(InvalidConfig, match=f"names worker {WORKERS}"):
        run(dataclasses.replace(batch, schedules=late))
    build = dataclasses.replace(BUILD, oracle=OracleConfig(batch_size=41))
    with pytest.raises(InvalidConfig, match="got batch_size=41, and a worker has 40"):
        sweeps.sweep(build, batch, every=20, measure=largest)
    build = dataclasses.replace(BUILD, oracle=OracleConfig(batch_size=8, directions=10**6))
    with pytest.raises(InvalidConfig, match="k <= number of directions: got k=1000000"):
        sweeps.sweep(build, batch, every=20, measure=largest)
