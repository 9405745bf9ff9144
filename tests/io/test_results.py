import csv
import html
import json
import math
import os
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from farsign_jax.io import files, folder_readme, provenance, run_folder, tables
from farsign_jax.runtime.store import lock
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


@pytest.mark.parametrize("text", ["a|b", "50 % & more", "#1_x", "~x~ ^2 {y} $5", r"a\b", "<b>"])
def test_names_stand_in_tables_as_they_are(text):
    markdown = tables.markdown_table(["name", "value"], [[text, "1"]])
    pytest.importorskip("markdown_it")
    from farsign_jax.harness.report import html_tables

    shown = html_tables.markdown("table", markdown, "folder")
    assert shown.count("<td>") == 2 and f"<td>{html.escape(text)}</td>" in shown
    line = tables.latex_table(["name", "value"], [[text, "1"]]).splitlines()[4]
    bare = re.sub(r"\\(text[a-z]+\{\}|[&%$#_{}])", "", line)
    assert bare.endswith(r" & 1 \\") and not set(bare[:-7]) & set("\\&%$#_{}~^<>|")


def test_a_line_break_in_a_name_breaks_no_table():
    for table in (tables.markdown_table, tables.latex_table):
        assert len(table(["a"], [["x\ny"]]).splitlines()) == len(
            table(["a"], [["x"]]).splitlines()
        )


def test_json_has_null_where_a_number_is_not_finite(tmp_path):
    row = {"test_loss": math.nan, "list": [1.5, -math.inf, (np.float64("nan"),)]}
    files.write_json(tmp_path / "x.json", {"rows": [row]})

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert found == {"rows": [{"test_loss": None, "list": [1.5, None, [None]]}]}


def test_json_is_written_by_one_function():
    """Everything else that makes JSON is read by this package only, or is a message."""
    root = pathlib.Path(files.__file__).parents[2]
    folders = ("farsign_jax", "experiments", "benchmarks", "docs")
    found = {
        str(path.relative_to(root))
        for folder in folders
        for path in (root / folder).rglob("*.py")
        if re.search(r"json\.dumps?\(", path.read_text())
    }
    assert found == {
        "farsign_jax/io/files.py",
        "farsign_jax/io/processes.py",
        "farsign_jax/io/provenance.py",
        "farsign_jax/cli/spec_file.py",
    }


def test_a_folder_that_was_not_finite_is_found_again(tmp_path):
    run_folder.RunFolder(tmp_path, {"a": math.inf, "b": (1, 2)}).claim()
    run_folder.RunFolder(tmp_path, {"a": math.inf, "b": (1, 2)})


@pytest.mark.parametrize("kind", [np.savez, np.savez_compressed])
def test_a_state_with_any_wrong_byte_is_refused_or_the_same(tmp_path, kind):
    path, state = tmp_path / "s", {"0": np.arange(5, dtype=np.float32), "1": np.zeros(2)}
    files.atomic_write(path, lambda file: kind(file, **state))
    whole, refused = path.read_bytes(), 0
    damaged = [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in range(len(whole))]
    for content in (*damaged, *(whole[:i] for i in range(0, len(whole), 7))):
        path.write_bytes(content)
        try:
            found = files.load_state(path, [state["0"], state["1"]])
        except InvalidConfig as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error).strip()
        else:
            helpers.assert_same(found, [state["0"], state["1"]])
    assert refused > len(whole) / 2


def test_a_planted_link_is_replaced_and_not_followed(tmp_path):
    private = tmp_path / "private"
    private.write_text("mine")
    (tmp_path / "run").mkdir()
    for name in ("config.json", "lock"):
        (tmp_path / "run" / name).symlink_to(private)
    files.write_text(tmp_path / "run" / "config.json", "{}")
    assert (tmp_path / "run" / "config.json").read_text() == "{}"
    with pytest.raises(OSError, match="symbolic links"):
        lock(tmp_path / "run" / "lock")
    assert private.read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "lock"]


def test_files_are_read_as_they_are_written_in_any_locale():
    """`read_text` without an encoding reads UTF-8 as the locale says."""
    root = pathlib.Path(files.__file__).parents[2]
    bare = re.compile(r"\.read_text\((?!encoding=)|\.open\(\)|\.open\(\"[rw]t?\"\)")
    found = [
        str(path.relative_to(root))
        for folder in ("farsign_jax", "experiments", "benchmarks", "docs")
        for path in (root / folder).rglob("*.py")
        if bare.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
