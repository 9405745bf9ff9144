"""The README is right: its example runs, its tables list what there is."""

import pathlib
import re
import tomllib

import pytest

import farsign_jax
from farsign_jax import attacks, datasets, methods, partitions

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs_and_learns(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    record = eval(capsys.readouterr().out)
    expected = float(re.findall(r"'test_accuracy': about ([\d.]+)", example)[0])
    assert record["test_accuracy"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    "names", [attacks.ATTACKS, methods.METHODS, datasets.DATASETS, partitions.PARTITIONS]
)
def test_tables_list_every_name(names):
    assert [name for name in names if f"`{name}`" not in README] == []


def test_links_and_commands_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for module in set(re.findall(r"python -m ((?:experiments|benchmarks)\.[a-z]\w+)", README)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_the_version_is_said_once_and_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == farsign_jax.__version__
