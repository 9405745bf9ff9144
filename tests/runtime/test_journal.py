"""The journal of arrivals: it is continued after its last record, and never cut short."""

import numpy as np
import pytest

from farsign_jax import InvalidConfig
from farsign_jax.runtime import journal
from farsign_jax.runtime.journal import Arrival, Journal

RUN = "0123456789abcdef"


def make_arrival(number, value=(1.0, 2.0)):
    return Arrival(number % 3, number, number, float(number), np.asarray(value, np.float32))


def write_journal(path, count=5):
    opened = Journal(path, 2, RUN)
    for number in range(count):
        opened.append(make_arrival(number))
    opened.close()
    return path.read_bytes()


def test_appended_arrivals_are_read(tmp_path):
    write_journal(tmp_path / "journal")
    arrivals = journal.read(tmp_path / "journal")
    assert arrivals["number"].tolist() == [0, 1, 2, 3, 4] and arrivals["worker"].tolist() == [
        0,
        1,
        2,
        0,
        1,
    ]
    np.testing.assert_array_equal(arrivals["value"], [[1, 2]] * 5)
    reopened = Journal(tmp_path / "journal", 2, RUN, durable=3)
    assert reopened.tail["number"].tolist() == [3, 4] and reopened.set_aside is None
    reopened.append(make_arrival(5))
    reopened.close()
    assert len(journal.read(tmp_path / "journal")) == 6


def test_an_incomplete_last_record_is_set_aside(tmp_path):
    path = tmp_path / "journal"
    complete = write_journal(path)
    size = journal.record_dtype(2).itemsize
    for cut in range(1, 2 * size + 1):
        path.write_bytes(complete[:-cut])
        found = journal.contents(path)
        assert found.rest == -cut % size and not found.damage
        opened = Journal(path, 2, RUN)
        assert len(opened.tail) == 5 - -(-cut // size)
        if found.rest:
            assert opened.set_aside.read_bytes() == complete[found.end : -cut]
        else:
            assert opened.set_aside is None
        opened.append(make_arrival(7))
        opened.close()
        arrivals = journal.read(path)
        assert arrivals["number"].tolist()[-1] == 7 and len(arrivals) == 6 - -(-cut // size)


def test_f18_damage_is_named_and_left_as_it_is(tmp_path):
    """Whatever byte is changed, and whichever records are moved, missing or repeated."""
    path = tmp_path / "journal"
    complete = write_journal(path)
    size = journal.record_dtype(2).itemsize
    begin = len(complete) - 5 * size
    records = [complete[begin + i * size : begin + (i + 1) * size] for i in range(5)]
    damaged = [
        (complete[:i] + bytes([complete[i] ^ 1]) + complete[i + 1 :], (i - begin) // size)
        for i in range(begin, len(complete))
    ]
    for order, first in (((0, 1, 3, 4), 2), ((0, 2, 1, 3, 4), 1), ((0, 0, 1, 2, 3), 1)):
        damaged.append((complete[:begin] + b"".join(records[i] for i in order), first))
    for content, record in damaged:
        path.write_bytes(content)
        rule = f"record {record}, counted from 0, at byte {begin + record * size}, is not"
        for durable in (0, 3):  # before what a checkpoint includes, too
            with pytest.raises(InvalidConfig, match=rule):
                Journal(path, 2, RUN, durable)
        with pytest.raises(InvalidConfig, match=rule):
            journal.read(path)
        assert len(journal.contents(path).arrivals) == record
        assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_a_short_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "journal"
    complete = write_journal(path)
    path.write_bytes(complete[:9])  # the header was being written
    Journal(path, 2, RUN).close()
    assert path.read_bytes() == complete[:40] and len(journal.read(path)) == 0
    path.write_bytes(b"mine")
    with pytest.raises(InvalidConfig, match="is a journal of something else"):
        Journal(path, 2, RUN)
    assert path.read_bytes() == b"mine"


def test_journals_of_other_runs_and_other_files_are_rejected(tmp_path):
    path = tmp_path / "journal"
    complete = write_journal(path)
    for fingerprint, k in (("f" * 16, 2), (RUN, 3)):
        with pytest.raises(InvalidConfig, match="is a journal of another run"):
            Journal(path, k, fingerprint)
    with pytest.raises(InvalidConfig, match="includes 6 arrivals, and the journal has fewer"):
        Journal(path, 2, RUN, durable=6)
    path.write_bytes(b"x" * len(complete))
    with pytest.raises(InvalidConfig, match="is not a journal of arrivals"):
        journal.read(path)
    with pytest.raises(InvalidConfig, match="is not a journal of arrivals"):
        journal.read(tmp_path / "nothing")
