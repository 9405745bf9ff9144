"""Schedules in files: saved ones and traces."""

import jax
import numpy as np
import pytest

from farsign_jax import arrivals
from farsign_jax.arrivals import delays
from farsign_jax.validation import InvalidConfig
from tests.arrivals.workers import ALIKE, EXP, KEY


@pytest.mark.parametrize(
    "schedule",
    [
        arrivals.by_time(KEY, ALIKE["all_kinds"], 80),
        arrivals.rounds(KEY, [EXP] * 4, 20, participation=0.3),
        arrivals.Schedule(arrivals.uniform(KEY, 5, 30)),
        arrivals.Schedule(np.zeros(0, np.int32), np.zeros(0)),
        arrivals.Schedule(np.full((3, 2), -1, np.int32), np.zeros(3)),
    ],
    ids=["one_by_one", "rounds", "no_clock", "no_events", "no_workers"],
)
def test_a_saved_schedule_is_loaded_bit_by_bit(tmp_path, schedule):
    path = tmp_path / "folder" / "schedule.npz"
    arrivals.save(path, schedule)
    got = arrivals.load(path)
    for mine, theirs in zip(got, schedule, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert mine.tobytes() == theirs.tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["schedule.npz"]  # no other file


def test_workers_alone_can_be_saved(tmp_path):
    arrivals.save(tmp_path / "a.npz", [0, 2, 1])
    got = arrivals.load(tmp_path / "a.npz")
    assert got.workers.tolist() == [0, 2, 1] and got.times is None


def test_damaged_schedules_are_refused(tmp_path):
    path = tmp_path / "schedule.npz"
    want = arrivals.by_time(KEY, [EXP] * 3, 20)
    arrivals.save(path, want)
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(InvalidConfig, match=r"schedule.npz is not a saved schedule"):
            arrivals.load(path)
    values = good.index(want.times.tobytes())  # a checksum covers each bit of the numbers
    for at in range(values, values + want.times.nbytes, 13):
        damaged = bytearray(good)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(InvalidConfig, match="not a saved schedule"):
            arrivals.load(path)


def test_one_flipped_byte_anywhere_is_refused_or_harmless(tmp_path):
    path = tmp_path / "schedule.npz"
    want = arrivals.by_time(KEY, [EXP] * 3, 4)
    arrivals.save(path, want)
    good = path.read_bytes()
    for at in range(len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            got = arrivals.load(path)
        except InvalidConfig:
            continue
        assert got.workers.tobytes() == want.workers.tobytes(), at
        # No checksum covers the names in an archive: the second array may be
        # missing, but not wrong.
        assert got.times is None or got.times.tobytes() == want.times.tobytes(), at


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [0, 1]}, "not a saved schedule"),
        ({"times": [0.0, 1.0]}, "not a saved schedule"),
        ({"workers": [0.0, 1.0]}, "integer array"),
        ({"workers": 3}, "integer array"),
        ({"workers": [0, -1]}, "names worker -1"),
        ({"workers": [[0, 0]]}, "names a worker twice"),
        ({"workers": [0, 1], "times": [1.0]}, "one time per event"),
        ({"workers": [0, 1], "times": [1.0, 0.5]}, "times ascend: event 1"),
        ({"workers": [0, 1], "times": [-1.0, 0.5]}, "finite and >= 0: event 0"),
        ({"workers": [0, 1], "times": [0.0, np.nan]}, "finite and >= 0: event 1"),
    ],
)
def test_other_archives_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidConfig, match=message):
        arrivals.load(tmp_path / "a.npz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("time,worker\n0,1\n")
    np.save(tmp_path / "array.npy", np.arange(3))
    for name in ("text", "array.npy"):
        with pytest.raises(InvalidConfig, match=f"{name} is not a saved schedule"):
            arrivals.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        arrivals.load(tmp_path / "nowhere.npz")


def write_trace(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read(tmp_path):
    path = write_trace(tmp_path, "time,worker\n0,2\n0.125,0\n0.125,2\n1e3,1\n")
    got = arrivals.trace(path, 3)
    assert got.workers.dtype == np.int32 and got.times.dtype == np.float64
    assert got.workers.tolist() == [2, 0, 2, 1]
    assert got.times.tolist() == [0, 0.125, 0.125, 1000]
    assert arrivals.trace(path, 5, 2).workers.tolist() == [2, 0]
    spaced = write_trace(tmp_path, "time, worker\r\n0, 2\r\n0.5, 0\r\n")
    assert arrivals.trace(spaced, 3).workers.tolist() == [2, 0]


def test_a_schedule_written_as_a_trace_is_read_bit_by_bit(tmp_path):
    want = arrivals.by_time(KEY, ALIKE["all_kinds"], 100)
    pairs = zip(want.times.tolist(), want.workers.tolist(), strict=True)
    lines = [f"{time!r},{worker}\n" for time, worker in pairs]
    got = arrivals.trace(write_trace(tmp_path, "time,worker\n" + "".join(lines)), 20)
    assert got.workers.tobytes() == want.workers.tobytes()
    assert got.times.tobytes() == want.times.tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with 'time,worker': got ''"),
        ("worker,time\n0,0\n", "got 'worker,time'"),
        ("0,1\n", "got '0,1'"),
        ("time,worker\n0,1\nsoon,1\n", "could not convert string 'soon'"),
        ("time,worker\n0,\n", "could not convert"),
        ("time,worker\n0,1,2\n", "has 3 columns"),
        ("time,worker\n0,1\n1\n", "number of columns changed"),
        ("time,worker\n0\n", "has 1 columns"),
        ("time,worker\n0,1\n1,3\n", "line 3: unknown worker 3: workers are integers 0..2"),
        ("time,worker\n0,-1\n", "line 2: unknown worker -1"),
        ("time,worker\n0,1e20\n", r"line 2: unknown worker 1e\+20"),
        ("time,worker\n0,inf\n", "line 2: unknown worker"),
        ("time,worker\n0,0.5\n", "line 2: unknown worker 0.5"),
        ("time,worker\n0,nan\n", "line 2: unknown worker nan"),
        ("time,worker\n0,1\n-1,0\n", "line 3: times are finite and >= 0: got -1 after 0"),
        ("time,worker\nnan,0\n", "line 2: times are finite and >= 0: got nan"),
        ("time,worker\ninf,0\n", "line 2: times are finite and >= 0: got inf"),
        ("time,worker\n0,1\n2,0\n1,2\n", "line 4: times ascend: got 1 after 2"),
    ],
)
def test_bad_traces_are_refused(tmp_path, text, message):
    with pytest.raises(InvalidConfig, match=message):
        arrivals.trace(write_trace(tmp_path, text), 3)


def test_a_saved_schedule_is_a_trace(tmp_path):
    saved = arrivals.by_time(jax.random.key(0), [delays.exponential()] * 3, 50)
    arrivals.save(tmp_path / "s.npz", saved)
    got = arrivals.trace(tmp_path / "s.npz", 3, 20)
    np.testing.assert_array_equal(got.workers, saved.workers[:20])
    np.testing.assert_array_equal(got.times, saved.times[:20])
    with pytest.raises(InvalidConfig, match="has 50 arrivals: asked for 51"):
        arrivals.trace(tmp_path / "s.npz", 3, 51)
    with pytest.raises(InvalidConfig, match="names worker 2"):
        arrivals.trace(tmp_path / "s.npz", 2)


def test_unreadable_traces_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "binary"):
        with pytest.raises(InvalidConfig, match="cannot read a trace of arrivals"):
            arrivals.trace(path, 3)


def test_empty_and_short_traces(tmp_path):
    path = write_trace(tmp_path, "time,worker\n")
    got = arrivals.trace(path, 3)
    assert got.workers.shape == (0,) and got.workers.dtype == np.int32
    assert arrivals.trace(write_trace(tmp_path, "time,worker\n0,1\n"), 3, 0).times.size == 0
    with pytest.raises(InvalidConfig, match="has 1 arrivals: asked for 5"):
        arrivals.trace(path, 3, 5)


def test_blank_lines_of_a_trace_are_skipped(tmp_path):
    path = write_trace(tmp_path, "time,worker\n0,1\n\n1,2\n2,0\n\n")
    assert arrivals.trace(path, 3).workers.tolist() == [1, 2, 0]
    assert arrivals.trace(path, 3, 2).workers.tolist() == [1, 2]
