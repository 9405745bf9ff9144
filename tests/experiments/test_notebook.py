"""The notebook runs from the first cell to the last, and is stored without outputs."""

import json
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

from farsign_jax import aggregators, attacks, models
from farsign_jax.config.systems import parse_method
from farsign_jax.data import datasets, partitions

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "farsign_colab.ipynb"
EXECUTE = "from nbclient.cli import main; main()"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert {"kernelspec", "language_info", "colab"} == set(notebook.metadata)


def test_every_choice_of_the_form_exists():
    form = code(nbformat.read(NOTEBOOK, 4))[4].source
    offered = re.findall(r'^(\w+) = "(.*)"  # @param (\[.*\])', form, re.MULTILINE)
    checks = {
        "method": parse_method,
        "attack": attacks.parse,
        "aggregator": aggregators.make,
        "model": models.make,
        "dataset": datasets.DATASETS.__getitem__,
        "partition": partitions.PARTITIONS.__getitem__,
    }
    assert [name for name, _, _ in offered] == list(checks)
    for name, chosen, choices in offered:
        assert chosen in json.loads(choices)
        for choice in json.loads(choices):
            checks[name](choice)


def rows(text):
    """The cells of a Markdown table, without its header."""
    lines = [re.findall(r"[^|]+", line) for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.slow
@pytest.mark.long
def test_it_runs_on_two_devices(tmp_path):
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path) for kind in ("CONFIG", "RUNTIME")}
    forced = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, NOTEBOOK, f"--output={tmp_path / 'shown.ipynb'}"],
        env=os.environ | folders | forced | {"IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    shown = code(nbformat.read(tmp_path / "shown.ipynb", 4))
    install, device, sweep, figure, yours, many = shown
    assert "farsign_jax is installed" in install.outputs[0].text
    assert "2 x cpu" in device.outputs[0].text
    assert "100%|" in "".join(output.text for output in sweep.outputs)

    def data(cell, kind):
        found = [output.get("data", {}) for output in cell.outputs]
        return [one[kind] for one in found if kind in one]

    assert len(data(figure, "image/png")) == 1
    table = rows(data(figure, "text/markdown")[0])
    final = {(method, attack): float(value) for method, attack, _, value in table}
    assert len(final) == 10
    assert all(value > 75 for (method, _), value in final.items() if method == "far_sign")
    assert final["async_sgd", "none"] > 85 and final["async_sgd", "constant:value=100"] < 20
    assert len(data(yours, "image/png")) == len(data(yours, "text/markdown")) == 1
    devices = rows(data(many, "text/markdown")[0])
    assert [row[:2] for row in devices] == [
        ["cpu:0", "0, 1, 2, 3"],
        ["cpu:1", "4, 5, 6, 7"],
    ]
