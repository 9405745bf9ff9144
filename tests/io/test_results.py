import csv
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.io import files, folder_readme, provenance, run_folder, tables
from farsign_jax.validation import InvalidConfig
from tests import helpers


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a" / "file"
    files.write_text(path, "old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.atomic_write(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


def test_states_come_back_bit_by_bit(tmp_path):
    state = {"a": np.asarray([np.nan, -0.0, np.inf], np.float32), "b": (jnp.arange(3), [])}
    files.save_state(tmp_path / "s", state)
    helpers.assert_same(files.load_state(tmp_path / "s", state), state)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([np.zeros(3, np.float32), np.zeros(1)], "holds 1 arrays where 2 are needed"),
        ([np.zeros(4, np.float32)], r"float32\[3\] where float32\[4\] is needed"),
        ([np.zeros(3, np.int32)], r"float32\[3\] where int32\[3\] is needed"),
    ],
)
def test_states_of_another_shape_are_refused(tmp_path, other, message):
    files.save_state(tmp_path / "s", [np.zeros(3, np.float32)])
    with pytest.raises(InvalidConfig, match=message):
        files.load_state(tmp_path / "s", other)


def test_a_folder_belongs_to_one_configuration(tmp_path):
    run_folder.RunFolder(tmp_path, {"attack": "alie", "seeds": [0]})  # leaves no trace
    run_folder.RunFolder(tmp_path, {"attack": "none", "seeds": [0]}).claim()
    run_folder.RunFolder(tmp_path, {"attack": "none", "seeds": [0]})
    with pytest.raises(
        files.ConfigMismatch, match=r"attack was 'none', is 'alie'.*another --out"
    ):
        run_folder.RunFolder(tmp_path, {"attack": "alie", "seeds": [0]})
    for text in ('{"attack"', "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(files.ConfigMismatch, match="not readable JSON"):
            run_folder.RunFolder(tmp_path, {"attack": "none", "seeds": [0]})
    (tmp_path / "config.json").unlink()
    (tmp_path / "results.csv").write_text("precious")
    with pytest.raises(files.ConfigMismatch, match="unknown configuration"):
        run_folder.RunFolder(tmp_path, {"attack": "none", "seeds": [0]})
    with pytest.raises(files.ConfigMismatch, match="is a file"):
        run_folder.RunFolder(tmp_path / "results.csv", {})


def test_other_code_is_noted_and_recorded(tmp_path, capsys, monkeypatch):
    row, now = {"method": "far_sign", "seed": 0}, provenance.code()
    run_folder.open_folder(tmp_path, {"events": 5}).write_rows([row])
    run_folder.open_folder(tmp_path, {"events": 5})
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(provenance, "code", lambda: now | {"digest": "other"})
    run_folder.open_folder(tmp_path, {"events": 5})  # which does not write
    note = capsys.readouterr().err
    assert f"was written by other code (revision {now['revision']}, changed since)" in note
    other = {"revision": "r2", "digest": "third"}
    monkeypatch.setattr(provenance, "code", lambda: other)
    for _ in range(2):
        run_folder.open_folder(tmp_path, {"events": 5}).write_rows([row])
    assert (
        capsys.readouterr().err.count("now r2); its results are kept. Choose another --out")
        == 1
    )
    assert provenance.codes(tmp_path) == [now, other]
    assert json.loads((tmp_path / "results.json").read_text())["code"] == [now, other]
    (tmp_path / "code.json").write_text("{")
    run_folder.open_folder(tmp_path, {"events": 5}).claim()
    assert capsys.readouterr().err == "" and provenance.codes(tmp_path) == []


def test_a_lock_file_of_an_editor_is_no_code():
    provenance.code.cache_clear()
    before = provenance.code()
    lock = pathlib.Path(run_folder.__file__).with_name(".#rows.py")
    lock.symlink_to("someone@somewhere")
    try:
        provenance.code.cache_clear()
        assert provenance.code() == before
    finally:
        lock.unlink()


def test_rows_are_tidy_and_say_how_they_were_made(tmp_path):
    folder = run_folder.RunFolder(tmp_path, {"events": 5})
    folder.write_rows([{"method": "far_sign", "seed": 0, "zeal": 1.5}], {"best": 0.9})
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(folder_readme.MARK) and len(text.splitlines()) < 16
    with open(tmp_path / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == [*tables.COLUMNS, "zeal"]
    assert (row["method"], row["aggregator"], row["zeal"]) == ("far_sign", "", "1.5")
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["config"] == {"events": 5} and record["summary"] == {"best": 0.9}
    assert record["rows"] == [{"method": "far_sign", "seed": 0, "zeal": 1.5}]
    environment = record["environment"]
    assert {"jax", "farsign_jax"} <= environment["versions"].keys()
    assert "cpu" in environment["device"]


def test_tables():
    header, rows = ["method", "best, %"], [["far_sign", "89.7 ± 0.3"], ["sgd", "10.0"]]
    assert tables.markdown_table(header, rows) == (
        "| method   | best, %    |\n"
        "|----------|------------|\n"
        "| far_sign | 89.7 ± 0.3 |\n"
        "| sgd      | 10.0       |\n"
    )
    latex = tables.latex_table(header, rows)
    assert r"method & best, \%" in latex and r"far\_sign & 89.7 $\pm$ 0.3 \\" in latex
