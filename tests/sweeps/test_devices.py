"""Many devices and processes: the same bits as on one, and devices do not communicate."""

import dataclasses
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from farsign_jax import sweeps
from farsign_jax.harness import flags as flags_lib
from farsign_jax.harness import multi_host
from farsign_jax.sweeps import chunks
from farsign_jax.sweeps import devices as devices_lib
from farsign_jax.validation import InvalidConfig
from tests import helpers
from tests.experiments.test_experiments import ROOT, read, start, timeless
from tests.sweeps.test_lockstep import batch_of, everything, first
from tests.sweeps.test_sweeps import BUILD, Stop, digits_batch, run

pytestmark = pytest.mark.optimized


def simple(count):
    """Runs on a problem that compiles faster than a network."""
    problem = sweeps.RunBatch.repeated(helpers.quadratic(workers=5), count)
    return dataclasses.replace(
        digits_batch(1).take(np.zeros(count, int)), problem=problem, seeds=np.arange(count)
    )


def in_lockstep(**options):
    """Five seeds, one at a time on each device, of a rule under two attacks."""
    rules, attacks = ("krum:f=1",), (("none", ()), ("mimic", ()))
    batch = batch_of(helpers.quadratic(), seeds=range(5), rules=rules)
    program = everything("basgd", rules, attacks)
    columns, final = sweeps.sweep(
        program, batch, every=30, measure=first, max_parallel_runs=1, **options
    )
    columns.pop("seconds")
    return columns, final


def resumed(batch, folder):
    """A sweep begun on eight devices, interrupted, continued on one, and finished on three."""
    local = jax.local_devices()
    options = {"checkpoint": folder / "sweep.npz", "checkpoint_every": 20}
    for some, segments in ((local, 1), (local[:1], 3)):
        left = segments

        def progress(_):
            nonlocal left
            left -= 1
            if left == 0:
                raise Stop

        with pytest.raises(Stop):
            run(batch, devices=some, progress=progress, **options)
    seen = []
    ended = run(batch, devices=local[4:7], progress=seen.append, **options)
    assert sum(seen) == len(batch) * batch.schedules.shape[1]
    return ended


def program_of_eight():
    """The compiled program of one run on each device."""
    mesh = devices_lib.mesh_of(jax.local_devices())
    batch = jax.tree.map(jnp.asarray, simple(8))
    problem = devices_lib.spread(mesh, batch.problem)
    rest = devices_lib.split(mesh, (batch.seeds, batch.hyper, batch.byzantine))
    begin = sweeps.start(BUILD, "fresh", problem, *rest[:2], mesh=mesh)
    chunk = devices_lib.split(mesh, batch.schedules)
    args = (BUILD, "fresh", problem, *rest, begin, chunk)
    program = sweeps.advance.lower(*args, mesh=mesh).compile()
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(begin)) // 8
    return program.as_text(), program.memory_analysis().alias_size_in_bytes, state


def parts_of_eight():
    """The shapes that each device has of two leaves, one of them without numbers."""
    mesh = devices_lib.mesh_of(jax.local_devices())
    leaves = devices_lib.split(mesh, (np.zeros((16, 0)), np.zeros((16, 3))))
    made = jax.jit(lambda leaves: jax.tree.map(lambda leaf: leaf + 1, leaves))(leaves)
    return [jax.tree.map(np.shape, part) for part in devices_lib.each(mesh, made)]


def child(folder):
    """Computes all that needs eight devices, in a process that has them."""
    assert jax.local_device_count() == 8
    results = {"five": run(digits_batch(5)), "nineteen": resumed(simple(19), folder)}
    results |= {"lockstep": in_lockstep(), "program": program_of_eight()}
    results["parts"] = parts_of_eight()
    (folder / "results.pickle").write_bytes(pickle.dumps(results))


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Returns the results of a process with eight devices, for which it does not wait yet."""
    folder = tmp_path_factory.mktemp("eight")
    call = "import pathlib, sys; from tests.sweeps import test_devices as t; "
    call += "t.child(pathlib.Path(sys.argv[1]))"
    devices = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    flags = {"XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", call, folder], cwd=ROOT, env=os.environ | flags
    )

    def results():
        assert process.wait(timeout=300) == 0
        return pickle.loads((folder / "results.pickle").read_bytes())

    yield results
    process.kill()
    process.wait()


@pytest.mark.slow
def test_eight_devices_are_one_bit_by_bit(eight):
    one = {"five": run(digits_batch(5)), "lockstep": in_lockstep()}
    for name, value in one.items():
        helpers.assert_same(eight()[name], value)


@pytest.mark.slow
def test_a_sweep_resumes_on_other_devices_with_the_same_bits(eight):
    helpers.assert_same(eight()["nineteen"], run(simple(19)))


@pytest.mark.slow
def test_devices_do_not_communicate_and_reuse_the_memory_of_the_runs(eight):
    text, reused, state = eight()["program"]
    verbs = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|send|recv"
    assert "while" in text and not re.findall(rf"\b(?:{verbs})(?:-start)?\(", text)
    assert reused >= state


@pytest.mark.slow
def test_every_device_has_its_part_of_an_empty_array(eight):
    assert eight()["parts"] == [((2, 0), (2, 3))] * 8


def test_one_device_needs_no_mesh():
    (device,) = jax.local_devices()
    assert devices_lib.mesh_of([device]) is None
    with pytest.raises(InvalidConfig, match="devices names one twice"):
        run(digits_batch(1), devices=[device, device])
    with pytest.raises(InvalidConfig, match="devices names none"):
        run(digits_batch(1), devices=[])


@pytest.mark.parametrize(
    ("total", "fit", "devices", "number", "width"),
    [
        (5, 5, 1, 1, 5),
        (5, 2, 1, 3, 2),
        (5, 5, 8, 5, 1),
        (19, 19, 8, 7, 3),
        (19, 1, 8, 19, 1),
        (40, 3, 8, 14, 3),  # two rounds of eight would be 3 each
        (100, 100, 8, 8, 13),
    ],
)
def test_runs_are_cut_into_chunks(total, fit, devices, number, width, tmp_path):
    assert chunks.agree_number(total, fit, devices) == number
    cut = chunks.cut(total, number, None)
    assert {len(chunk.ids) for chunk in cut} == {width}
    np.testing.assert_array_equal(np.concatenate([c.runs for c in cut]), np.arange(total))
    batches = list(chunks.side_by_side(cut, devices))
    assert len({len(batch) for batch in batches}) == 1 and len(batches[0]) <= devices
    assert sum(chunk.count for batch in batches for chunk in batch) == total


def test_chunks_at_different_events_do_not_run_side_by_side(tmp_path):
    cut = chunks.cut(5, 5, tmp_path / "sweep.npz")
    for chunk, event in ((cut[1], 40), (cut[3], 40), (cut[4], 20)):
        chunks.save(chunk, np.zeros(16, np.uint8), event, {}, ())
    found = [[int(s.ids[0]) for s in batch] for batch in chunks.side_by_side(cut, 2)]
    assert found == [[0, 2], [4], [1, 3]]
    # The cut stays, but for a caller who allows fewer runs on a device.
    path = tmp_path / "sweep.npz"
    assert (
        chunks.agree_number(5, 5, 1, None, path) == chunks.agree_number(5, 1, 1, 1, path) == 5
    )
    assert chunks.agree_number(10, 1, 1, 1, path) == 10


FLAGS = [
    "--dataset=mnist_subset", "--model=softmax_regression", "--methods=far_sign,basgd",
    "--aggregators=median", "--attacks=alie", "--seeds=3", "--events=60", "--eval_every=20",
    "--directions=5", "--checkpoint_every=20",
]  # fmt: skip


def pair(out):
    """Two processes at the same command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    many = [f"--out={out}", f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    return [
        start("experiments.compare", *FLAGS, *many, f"--process={number}")
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_write_what_one_does_and_one_resumes_what_two_began(tmp_path):
    single, both, cut = (tmp_path / name for name in ("single", "both", "cut"))
    processes = pair(both)
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed[1] == ("", "")  # only the first one prints
    alone = start("experiments.compare", *FLAGS, f"--out={single}")
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0, err
    assert printed[0][0] == out.replace(str(single), str(both))
    assert timeless(read(both)) == timeless(read(single))
    written = (sorted(path.name for path in out.glob("*")) for out in (both, single))
    assert next(written) == next(written)

    processes = pair(cut)
    while not list(cut.glob("checkpoints/*.npz")):
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    begun = {path.name for path in cut.glob("checkpoints/*.npz")}
    alone = start("experiments.compare", *FLAGS, f"--out={cut}")
    assert alone.wait(timeout=300) == 0
    alone.communicate()
    ended = {path.name for path in cut.glob("checkpoints/*.npz")}
    ways = {re.sub(r"-\d+of", "-of", name) for name in ended}
    assert begun <= ended and len(ways) == 2  # of two sweeps: the cut is kept
    assert timeless(read(cut)) == timeless(read(single))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"processes": 0}, "need --processes > 0: got 0"),
        ({"process": 1}, "go with --processes: got --process=1 alone"),
        ({"coordinator": "a:1"}, "go with --processes: got --coordinator=a:1 alone"),
        ({"processes": 2}, r"--process is 0\.\.N-1: got none"),
        ({"processes": 2, "process": 5}, r"--process is 0\.\.N-1: got 5 of 2"),
        ({"processes": 2, "process": 1}, "HOST:PORT of process 0: got none"),
        ({"processes": 2, "process": 1, "coordinator": "a"}, "HOST:PORT of process 0: got a"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
    if not flags_lib.FLAGS.is_parsed():
        flags_lib.FLAGS(["test"])
    with flagsaver.flagsaver(**flags), pytest.raises(InvalidConfig, match=message):
        multi_host.check(many=True)


def test_a_command_that_cannot_share_its_runs_says_so():
    if not flags_lib.FLAGS.is_parsed():
        flags_lib.FLAGS(["test"])
    values = {"processes": 2, "process": 0, "coordinator": "a:1"}
    with flagsaver.flagsaver(**values), pytest.raises(InvalidConfig, match="in one process"):
        multi_host.check(many=False)
