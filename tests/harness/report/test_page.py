"""The page: which folders it shows, what it reports of them, and malicious content."""

import math
import os
import pathlib
import re
import shutil
from urllib.parse import unquote

import pytest

from farsign_jax.harness.report import reader, reproduce
from farsign_jax.validation import InvalidConfig
from tests.harness.report.samples import make, rows_of, write


@pytest.mark.slow
def test_every_folder_is_named_with_what_is_wrong_with_it(root, capsys):
    found, empty = reader.gather([str(root / "r")], root / "page")
    states = {folder.path.name: folder.state for folder in found}
    assert states == {"a run, 100 %": "complete", "evil<img src=x onerror=alert()>": "complete",
                      "begun": "unfinished", "going on": "unfinished",
                      "torn": "damaged"}  # fmt: skip
    assert [pathlib.Path(name).name for name in empty] == ["nothing"]
    text = (root / "page" / "index.html").read_text()
    assert "Unfinished: it has a configuration, and no results yet." in text
    assert "Unfinished: the command has not come to its tables" in text
    assert "Damaged: results.json is no JSON that can be read" in text
    assert f"No results in {root}/r/nothing." in text
    assert text.count("Damaged: ") == 1 and "python -m experiments.compare --" in text


@pytest.mark.slow
def test_the_same_folders_are_the_same_bytes_and_a_page_is_no_folder_of_results(root):
    text = (root / "page" / "index.html").read_text()
    assert make(root / "page", root / "r") == text
    # A page below the folders, even another one, is neither shown nor named as empty.
    inside = make(root / "r" / "page", root / "r")
    assert "r/page" not in re.sub('href="[^"]*"', "", inside)
    assert re.sub('href="[^"]*"', "", inside) == re.sub('href="[^"]*"', "", text)
    shutil.rmtree(root / "r" / "page")


@pytest.mark.slow
def test_links_lead_from_the_page_to_the_data(root):
    links = re.findall('<a href="([^"#][^"]*)">', (root / "page" / "index.html").read_text())
    assert any(link.endswith("/results.csv") for link in links)
    assert all((root / "page" / unquote(link)).is_file() for link in links)


def test_what_cannot_be_reported_is_one_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    other = tmp_path / "site"
    other.mkdir()
    (other / "index.html").write_text("<h1>mine</h1>")
    write(tmp_path / "run", rows_of())
    for out, place, message in (
        ("page", "empty", "no results in "),
        ("page", "none", "^/.*none: no such folder"),
        ("page", "file", "^/.*file: no such folder"),
        ("file", "run", "file is a file: --out names a folder"),
        ("site", "run", "index.html was not written by this command: choose another --out"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            make(tmp_path / out, tmp_path / place)
    with pytest.raises(InvalidConfig, match="--from names no folder"):
        make(tmp_path / "page")
    assert not (tmp_path / "page").exists()
    assert (other / "index.html").read_text() == "<h1>mine</h1>"


def test_rows_are_shown_before_there_is_a_results_json(tmp_path):
    write(tmp_path / "run", rows_of())
    (tmp_path / "run" / "results.json").unlink()
    text = make(tmp_path / "page", tmp_path / "run")
    assert "Unfinished: results.json is missing." in text and "1 folder, 8 runs" in text


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '"x"', '{"rows": 3}', '{"rows": [1]}', "\x00\xff",
     '{"config": {"experiment": [1], "seeds": 3}}',
     '{"config": {"experiment": "compare", "seeds": 3, "varied": [1]}, "rows": []}',
     '{"config": {"model": "\\ud800"}, "environment": 3}'],
)  # fmt: skip
def test_no_results_json_breaks_the_page(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(content, encoding="latin-1")
    (tmp_path / "run" / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "run" / "table.md").write_bytes(b"\xff | a |\n")
    text = make(tmp_path / "page", tmp_path / "run")
    assert "Damaged: broken.png is no PNG" in text


@pytest.mark.parametrize(
    ("content", "damaged"),
    [("", True), ("\n", True), ("event\n1,2\n", True), ("a,b\n1,2\n1,2,3\n", True),
     ('event,test_accuracy\n1,"0.5\n', True), ("\x00\xff\n1\n", False), ("event\n1\n2", False),
     ("a\n[1]\n", False), ("event,event\n1,2\n", False), ("event\n", False),
     ("method,event,test_accuracy,seed\n3,x,,[1]\n", False),
     ("attack,event,test_accuracy\n{},NaN,0.5\n,2\n", False),
     ("run,record,line,plot,event\n1,2,3,4,5\n", False),
     (f"method,event,test_accuracy\n\xff,1{'0' * 400},1\n\xff,2,1\n", False)],
)  # fmt: skip
def test_no_results_csv_breaks_the_page(tmp_path, content, damaged):
    write(tmp_path / "run", rows_of())
    (tmp_path / "run" / "results.csv").write_text(content, encoding="latin-1")
    text = make(tmp_path / "page", tmp_path / "run")
    reasons = re.findall("Damaged: ([^<]*)", text)
    assert len(reasons) == damaged
    assert all(each.startswith("results.csv is no CSV that can be read: ") for each in reasons)


def test_a_folder_that_cannot_be_shown_is_damaged_and_the_others_are_there(
    tmp_path, monkeypatch
):
    for name in ("bad", "good"):
        write(tmp_path / "r" / name, rows_of(), model=name)
    command = reproduce.command

    def fails(config, recipe_of):
        return 1 / 0 if config.get("model") == "bad" else command(config, recipe_of)

    monkeypatch.setattr(reproduce, "command", fails)
    text = make(tmp_path / "page", tmp_path / "r")
    assert text.count("Damaged: ") == 1 and "Damaged: it cannot be shown: ZeroDivision" in text
    assert text.count("<td>damaged</td>") == 1 and text.count("<td>complete</td>") == 1
    assert "--model good" in text and "bad/results.csv" in text and "2 folders, 8 runs" in text


def test_links_and_pipes_are_not_followed(tmp_path):
    (tmp_path / "private").write_text("| secret |\n|---|\n")
    for name in ("a", "b", "c"):
        write(tmp_path / "r" / name, rows_of())
    (tmp_path / "r" / "a" / "notes.md").symlink_to(tmp_path / "private")
    (tmp_path / "r" / "a" / "index.html").symlink_to(tmp_path / "private")
    for folder, name in (("b", "results.json"), ("c", "results.csv")):
        (tmp_path / "r" / folder / name).unlink()
        os.mkfifo(tmp_path / "r" / folder / name)
    os.mkfifo(tmp_path / "r" / "a" / "more.png")
    text = make(tmp_path / "page", tmp_path / "r")
    assert "secret" not in text
    for reason in (
        "notes.md is not shown: it is a link to another file",
        "more.png is not shown: it is no regular file",
        "results.json is no JSON that can be read: it is no regular file",
        "results.csv is no CSV that can be read: it is no regular file",
    ):
        assert f"Damaged: {reason}" in text


def test_runs_that_have_diverged_are_marked(tmp_path):
    """In results.csv a loss is nan, in results.json null; other JSON may have NaN."""
    rows = rows_of(("sgd", "basgd", "far_sign"), ("none",))
    for row in rows[:8]:  # both seeds of sgd
        row["test_loss"] = math.nan
    rows[11]["test_loss"] = math.inf  # the last record of one seed of basgd
    folder = write(tmp_path / "run", rows, varied={"x": [math.nan, 1.0]})
    assert '"test_loss": null' in (folder / "results.json").read_text()
    text = make(tmp_path / "page", tmp_path / "run")
    assert "Damaged" not in text
    cells = re.findall(r"<td[^>]*>([^<]* ± [^<]*)</td>", text)
    marked = [cell for cell in cells if "diverged" in cell]
    assert len(marked) == 6  # best and last accuracy, and loss
    assert sum(cell.endswith(" (diverged)") for cell in marked) == 3
    assert sum(cell.endswith(" (1 of 2 diverged)") for cell in marked) == 3


def test_integers_that_no_float_can_hold_are_shown(tmp_path):
    rows = rows_of(seeds=(0,))
    rows[3]["test_loss"], rows[7]["test_loss"] = 10**400, -(10**400)
    write(tmp_path / "run", rows)
    assert "Damaged" not in make(tmp_path / "page", tmp_path / "run")
