"""The packages depend on each other as drawn, and no file grows out of hand."""

import statistics

import pytest

from docs import layers

GRAPH = layers.dependencies()
LINES = {path: len(path.read_text().splitlines()) for path in layers.files()}


def importers(unit, other):
    return [str(path.relative_to(layers.ROOT)) for path in GRAPH[unit].get(other, ())]


def test_every_package_has_a_layer():
    assert set(GRAPH) == set(layers.LEVELS)
    folders = {layers.unit_of(path) for path in LINES} - {*layers.OUTSIDE}
    assert folders == set(layers.LEVELS)


def test_imports_point_down():
    assert layers.upward(GRAPH) == []


def test_packages_import_each_other_in_no_cycle():
    assert layers.cycle(GRAPH) == []


@pytest.mark.parametrize(
    ("unit", "others"),
    [
        ("harness", ["runtime"]),
        ("runtime", ["harness"]),
        ("simulation", ["io", "cli"]),
        *((unit, layers.LAYERS[-1]) for row in layers.LAYERS[:-1] for unit in row),
    ],
)
def test_forbidden_imports_are_absent(unit, others):
    assert [path for other in others for path in importers(unit, other)] == []


def test_no_private_module_of_another_library_is_imported():
    found = [
        f"{path.relative_to(layers.ROOT)}: {name}"
        for path in [*LINES, *sorted((layers.ROOT / "tests").rglob("*.py"))]
        for name in layers.imported_modules(path)
        if name.startswith("jax._src")
    ]
    assert found == []


def test_no_file_has_more_than_300_lines():
    assert {str(path.relative_to(layers.ROOT)): n for path, n in LINES.items() if n > 300} == {}


def test_the_median_file_of_the_package_has_fewer_than_130_lines():
    package = [
        n for path, n in LINES.items() if path.is_relative_to(layers.ROOT / "farsign_jax")
    ]
    assert statistics.median(package) < 130


def test_the_drawing_is_current():
    assert layers.DRAWING.read_text() == layers.drawing(), "python -m docs.layers"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import farsign_jax.io.files", ["farsign_jax.io.files"]),
        ("def f():\n    from . import rule", ["farsign_jax.attacks.rule"]),
        ("from ..io import files as f", ["farsign_jax.io.files"]),
        ("from jax._src import core", ["jax._src.core"]),
    ],
)
def test_imports_are_found_wherever_they_are(text, names, monkeypatch, tmp_path):
    path = tmp_path / "farsign_jax" / "attacks" / "new.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.setattr(layers, "ROOT", tmp_path)
    assert list(layers.imported_modules(path)) == names


def test_an_upward_import_and_a_cycle_are_reported():
    path = layers.ROOT / "farsign_jax" / "io" / "files.py"
    graph = {"io": {"cli": {path}}, "cli": {"io": {path}}}
    assert layers.upward(graph) == ["farsign_jax/io/files.py imports cli"]
    assert set(layers.cycle(graph)) == {"io", "cli"}


def test_edges_that_follow_from_others_are_left_out():
    path = layers.ROOT
    graph = {"c": {"a": {path}, "b": {path}}, "b": {"a": {path}}, "a": {}}
    assert layers.reduced(graph) == [("b", "a"), ("c", "b")]
