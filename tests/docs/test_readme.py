"""The README is right: its examples run, and its tables list what there is."""

import json
import pathlib
import re
import tomllib

import pytest

import farsign_jax
from farsign_jax import aggregators, attacks, methods, models
from farsign_jax.aggregators import preaggregators
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.data import datasets, partitions

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs" / "pages").glob("*.md"))
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
REGISTRIES = {
    "aggregators": aggregators.AGGREGATORS,
    "attacks": attacks.ATTACKS,
    "datasets": datasets.DATASETS,
    "delays": delays.DELAYS,
    "methods": methods.METHODS,
    "models": models.MODELS,
    "partitions": partitions.PARTITIONS,
    "preaggregators": preaggregators.PREAGGREGATORS,
    "timing_attacks": timing.TIMING_ATTACKS,
}


def test_it_can_be_read_in_one_sitting():
    assert len(README.splitlines()) <= 200 and len(README.encode()) <= 14_000
    assert all(len([line for line in block.splitlines() if line]) <= 10 for block in BLOCKS)


@pytest.fixture
def own_names():
    """Removes what the example registers."""
    yield
    for names in (methods.METHODS, attacks.ATTACKS):
        names.pop("mine", None)


def test_the_library_examples_run_and_learn(capsys, own_names):
    assert len(BLOCKS) == 2
    for example in BLOCKS:
        exec(compile(example, "README.md", "exec"), {})
        expected = float(re.findall(r"# .*about ([\d.]+)$", example, re.MULTILINE)[0])
        assert float(capsys.readouterr().out) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("registry", REGISTRIES)
def test_tables_list_every_name(registry):
    assert [name for name in REGISTRIES[registry] if f"`{name}`" not in README] == []


def test_numbers_of_names_are_those_of_the_registries():
    named = re.findall(r"(\d+)\s+(other methods|aggregators|attacks)", README)
    counted = {
        "other methods": len(methods.METHODS) - 1,
        "aggregators": len(aggregators.AGGREGATORS),
        "attacks": len(set(attacks.ATTACKS.values()) - {attacks.none}),  # one has two names
    }
    assert {kind: int(number) for number, kind in named} == counted


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", re.sub("```.*?```", "", text, flags=re.DOTALL), re.M)
    kept = [re.sub(r"[^\w -]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES])
def test_links_lead_somewhere_in_the_repository(page):
    """Pages are also read in the repository; mkdocs checks the links of the site."""
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_what_newcomers_look_for_is_one_click_away():
    wanted = {
        "add my own attack": "docs/pages/extend.md#an-attack",
        "run on my GPU": "docs/pages/devices.md",
        "run on two machines": "docs/pages/real_processes.md",
        "reproduce Table 3": "docs/pages/table3.md",
    }
    for text, target in wanted.items():
        assert f"[{text}]({target})" in README


def test_commands_exist():
    for page in (ROOT / "README.md", *PAGES):
        text = page.read_text()
        for module in re.findall(
            r"python -m ((?:experiments|benchmarks|docs)\.[a-z]\w+)", text
        ):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), (page.name, module)
        assert not re.search(r"\b[A-Z]+_(?:TEXT|STEPS)\b|TODO", text)


def test_every_command_is_in_the_table_of_results():
    page = (ROOT / "docs" / "pages" / "reproduce.md").read_text()
    named = set(re.findall(r"python -m (experiments\.\w+)", page))
    others = {"experiments.compare", "experiments.list", "experiments.report"}  # own pages
    there = {
        f"experiments.{path.stem}"
        for path in (ROOT / "experiments").glob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    assert named == there - others


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == farsign_jax.__version__
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_notebook_is_named_where_it_is():
    path = re.findall(
        r"`(experiments/\w+\.ipynb)`", (ROOT / "docs/pages/devices.md").read_text()
    )
    assert json.loads((ROOT / path[0]).read_text())["cells"]
