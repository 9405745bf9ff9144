"""Rows that are appended as they come: none is lost or written twice, whenever it is killed."""

import csv
import signal
import subprocess
import sys

import pytest

from farsign_jax.io import rows, run_folder

COLUMNS = ("name", "seed", "value")
KEY = ("name", "seed")


def row(seed, value=0.5, name="sgd, median"):
    return {"name": name, "seed": seed, "value": value}


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_and_those_already_there_are_not(tmp_path):
    path = tmp_path / "rows.csv"
    rows.RowFile(path, COLUMNS, KEY).append([row(0), row(1, 1e-17)])
    again = rows.RowFile(path, COLUMNS, KEY)
    again.append([row(0), row(1), row(2)])
    again.append([row(3)])
    assert [int(one["seed"]) for one in read(path)] == [0, 1, 2, 3]
    assert rows.read_rows(path) == [row(0), row(1, 1e-17), row(2), row(3)]


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_was_cut_off_is_repaired(tmp_path, cut):
    path = tmp_path / "rows.csv"
    rows.RowFile(path, COLUMNS, KEY).append([row(0), row(1), row(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    for made in (row(0), row(1), row(2)), ():
        rows.RowFile(path, COLUMNS, KEY).append(made)
        assert path.read_bytes() == whole


def test_a_file_with_other_columns_is_begun_anew(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("other\n1\n")
    rows.RowFile(path, COLUMNS, KEY).append([row(0)])
    assert rows.read_rows(path) == [row(0)]


def test_empty_cells_are_left_out_and_numbers_keep_their_type(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c,d\n1,,nan,x\n1.0,2,inf,\n")
    first, second = rows.read_rows(path)
    assert first.pop("c") != first.get("c") and first == {"a": 1, "d": "x"}
    assert second == {"a": 1.0, "b": 2, "c": float("inf")} and type(second["a"]) is float


APPENDING = """
import sys
from farsign_jax.io import run_folder
folder = run_folder.RunFolder(sys.argv[1], {"events": 5})
for event in range(10**9):
    folder.append_rows([{"method": "sgd", "event": event, "zeal": event / 7}], ["zeal"])
    print(event, flush=True)
"""


def test_rows_survive_sigkill(tmp_path):
    command = [sys.executable, "-c", APPENDING, tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    reported = [int(process.stdout.readline()) for _ in range(500)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = rows.read_rows(tmp_path / "results.csv")
    assert [one["event"] for one in kept][: len(reported)] == reported
    folder = run_folder.RunFolder(tmp_path, {"events": 5})
    made = [{"method": "sgd", "event": e, "zeal": e / 7} for e in range(len(kept) + 3)]
    folder.append_rows(made, ["zeal"])
    assert rows.read_rows(tmp_path / "results.csv") == made
    before = (tmp_path / "results.csv").read_bytes()
    folder.write_rows(made, {})
    assert (tmp_path / "results.csv").read_bytes() == before
