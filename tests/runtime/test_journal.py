"""The journal of arrivals: it is continued after its last valid record."""

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
    assert reopened.tail["number"].tolist() == [3, 4] and reopened.removed_bytes == 0
    reopened.append(make_arrival(5))
    reopened.close()
    assert len(journal.read(tmp_path / "journal")) == 6


def test_an_incomplete_last_record_is_removed(tmp_path):
    path = tmp_path / "journal"
    complete = write_journal(path)
    size = journal.record_dtype(2).itemsize
    for cut in range(1, 2 * size + 1):
        path.write_bytes(complete[:-cut])
        opened = Journal(path, 2, RUN)
        assert len(opened.tail) == 5 - -(-cut // size) and opened.removed_bytes == -cut % size
        opened.append(make_arrival(7))
        opened.close()
        arrivals = journal.read(path)
        assert arrivals["number"].tolist()[-1] == 7 and len(arrivals) == 6 - -(-cut // size)


def test_no_record_can_be_changed_moved_or_missing(tmp_path):
    path = tmp_path / "journal"
    complete = write_journal(path)
    size, begin = (
        journal.record_dtype(2).itemsize,
        len(complete) - 5 * journal.record_dtype(2).itemsize,
    )
    records = [complete[begin + i * size : begin + (i + 1) * size] for i in range(5)]
    for position in range(begin, len(complete)):
        path.write_bytes(
            complete[:position] + bytes([complete[position] ^ 1]) + complete[position + 1 :]
        )
        assert len(journal.read(path)) == (position - begin) // size
    for order in ((0, 1, 3, 4), (0, 2, 1, 3, 4), (0, 0, 1, 2, 3)):
        path.write_bytes(complete[:begin] + b"".join(records[i] for i in order))
        assert len(journal.read(path)) == [n == i for n, i in enumerate(order)].index(False)


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
