"""The rows of a run that is being served survive a killed server."""

import csv
import os
import signal
import subprocess
import sys

from farsign_jax.io import run_folder
from farsign_jax.runtime import rows
from farsign_jax.runtime.rows import ServedRows

ROW = {"method": "far_sign", "seed": 0, "event": 5, "seconds": 0.1, "test_accuracy": 1.0}


def row_of(event):
    return ROW | {"event": event, "seconds": event / 3}


def test_appended_rows_are_read_and_continued(tmp_path):
    assert rows.read(tmp_path) == []
    for begin in (0, 2):
        file = ServedRows(tmp_path)
        assert file.rows == [row_of(event) for event in range(begin)]
        for event in range(begin, begin + 2):
            file.append(row_of(event))
            assert rows.read(tmp_path) == file.rows
    with (tmp_path / "results.csv").open() as opened:
        assert [row["event"] for row in csv.DictReader(opened)] == ["0", "1", "2", "3"]


def test_appended_rows_are_the_file_that_the_folder_writes_at_the_end(tmp_path):
    file = ServedRows(tmp_path)
    for event in range(3):
        file.append(row_of(event) | {"an_extra_measure": 0.1})
    appended = (tmp_path / "results.csv").read_text()
    folder = run_folder.open_folder(tmp_path / "folder", {})
    folder.write_rows(file.rows)
    assert (tmp_path / "folder" / "results.csv").read_text() == appended


def test_an_incomplete_last_line_is_removed_wherever_it_ends(tmp_path):
    file = ServedRows(tmp_path)
    for event in range(2):
        file.append(row_of(event))
    path = tmp_path / "results.csv"
    complete = path.read_bytes()
    for removed in range(1, len(complete) + 1):
        path.write_bytes(complete[:-removed])
        lines = complete[:-removed].count(b"\n")
        expected = [row_of(event) for event in range(max(lines - 1, 0))]
        assert rows.read(tmp_path) == expected
        file = ServedRows(tmp_path)
        file.append(row_of(7))
        assert file.rows == rows.read(tmp_path) == [*expected, row_of(7)]


APPENDING = """
import sys
from farsign_jax.runtime.rows import ServedRows
from tests.runtime.test_rows import row_of
file = ServedRows(sys.argv[1])
for event in range(len(file.rows), 10**6):
    file.append(row_of(event))
    print(event, flush=True)
"""


def test_no_row_is_lost_when_the_writer_is_killed(tmp_path):
    last = -1
    for _ in range(3):
        command = [sys.executable, "-c", APPENDING, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(5):
                last = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            last = max([last, *map(int, writer.stdout.read().split())])
        found = rows.read(tmp_path)
        assert found == [row_of(event) for event in range(len(found))]
        assert len(found) in (last + 1, last + 2)
