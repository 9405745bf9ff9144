"""The documentation is complete and right: its examples run, its catalogue is the registries.

`mkdocs build --strict` checks links, anchors and cross-references.
"""

import dataclasses
import inspect
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from mkdocs.exceptions import PluginError

import farsign_jax
from docs import hooks, plots
from farsign_jax import models
from farsign_jax.data import datasets, partitions
from tests import helpers

PAGES = {
    path.relative_to(hooks.PAGES).as_posix(): path.read_text()
    for path in sorted(hooks.PAGES.rglob("*.md"))
}
EXAMPLES = {
    name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()
}

# Which page has a section for every name of which registry.
CATALOGUE = {
    "AGGREGATORS": "aggregators.md",
    "ATTACKS": "attacks.md",
    "DATASETS": "data.md",
    "DELAYS": "delays.md",
    "METHODS": "methods.md",
    "MODELS": "data.md",
    "PARTITIONS": "data.md",
    "PREAGGREGATORS": "aggregators.md",
    "TIMING_ATTACKS": "delays.md",
}
REGISTRIES = hooks.REGISTRIES | {
    "DATASETS": datasets.DATASETS,
    "MODELS": models.MODELS,
    "PARTITIONS": partitions.PARTITIONS,
}


@pytest.fixture
def registries():
    """Removes what an example registers."""
    before = [(registry, dict(registry)) for registry in REGISTRIES.values()]
    yield
    for registry, names in before:
        registry.clear()
        registry.update(names)


def check_claim(claim, printed):
    """Checks a comment such as: 'name': about 0.8, about 0.8, below 0.5, about [1, 2], (2,)."""
    if found := re.search(r"'(\w+)': about ([\d.]+)", claim):
        assert eval(printed)[found[1]] == pytest.approx(float(found[2]), abs=0.02), claim
    elif found := re.search(r"below ([\d.]+)", claim):
        number = printed.removeprefix("tensor(").removesuffix(")")
        assert float(number) < float(found[1]), claim
    elif found := re.search(r"about \[(.*)\]", claim):
        numbers = np.fromstring(printed.strip("[]"), sep=" ")
        np.testing.assert_allclose(numbers, np.fromstring(found[1], sep=","), atol=1e-3)
    elif found := re.search(r"about (-?[\d.]+)", claim):
        assert float(printed) == pytest.approx(float(found[1]), abs=0.03), claim
    elif claim.startswith("("):
        assert printed == claim
    else:
        assert claim == "virtual seconds" and float(printed) > 0


# Their examples compile several programs, or repeat what the README's examples show.
SLOW = {"asynrsa.md", "brsgd.md", "configuration.md", "extend.md", "sweeps.md", "tutorial.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name, found in EXAMPLES.items()
        if found
    ],
)
def test_examples_run_and_print_what_they_say(page, capsys, registries):
    run_examples(EXAMPLES[page], page, capsys)


def test_the_example_for_numpy_runs_with_torch(capsys):
    pytest.importorskip("torch")
    example = EXAMPLES["interop.md"][0].replace("import numpy as xp", "import torch as xp")
    run_examples([example], "interop.md", capsys)


def run_examples(examples, page, capsys):
    for example in examples:
        exec(compile(example, page, "exec"), {"__name__": "example"})
        printed = capsys.readouterr().out.splitlines()
        claims = re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
        assert len(claims) == len(printed) == example.count("print(")
        assert claims
        for claim, line in zip(claims, printed, strict=True):
            check_claim(claim, line)


def test_every_part_has_an_example_of_one_of_your_own():
    parts = ["method", "attack", "aggregator", "model", "dataset", "delay model"]
    named = re.findall(r"^## An? (.*)$", PAGES["extend.md"], re.MULTILINE)
    assert named == parts and len(EXAMPLES["extend.md"]) == len(parts) + 1  # two servers


def sections(page):
    """From the names in the headings of a page to what stands below."""
    parts = re.split(r"^##+ (.*)$", PAGES[page], flags=re.MULTILINE)
    return {
        name: text
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
        for name in re.findall(r"`(\w+)`", heading)
    }


@pytest.mark.parametrize("registry", CATALOGUE)
def test_every_name_has_its_section_with_its_options_and_its_plot(registry):
    found, page = sections(CATALOGUE[registry]), CATALOGUE[registry]
    kind = None if registry in ("DATASETS", "MODELS") else registry.lower().removesuffix("s")
    for name in REGISTRIES[registry]:
        assert name in found, f"{page} has no section `{name}`"
        same = "constant" if name == "same_value" else name
        if registry in hooks.REGISTRIES:
            assert f"<!-- options: {registry}.{same}" in found[name]
        if kind:
            assert f"(plots/{kind}-{same}.svg)" in found[name]
    every = {name for r, p in CATALOGUE.items() if p == page for name in REGISTRIES[r]}
    assert set(found) - every <= {"trace"}, "sections about names that do not exist"


@pytest.mark.parametrize("registry", ["METHODS", "AGGREGATORS", "PREAGGREGATORS", "ATTACKS"])
def test_mathematics_needs_cost_and_source_are_in_every_section(registry):
    parts = ["$", "**Needs**", "**Source.**"]
    parts += ["**Cost.**"] if registry != "ATTACKS" else []  # one sentence for all of them
    found = sections(CATALOGUE[registry])
    for name in REGISTRIES[registry]:
        for part in parts if name != "none" else parts[:1]:
            assert part in found[name], (name, part)


def test_tables_have_all_options_with_their_defaults():
    markers = [
        m.split() for t in PAGES.values() for m in re.findall("<!-- options: (.*) -->", t)
    ]
    assert len(markers) == sum(map(len, hooks.REGISTRIES.values())) - 1  # same_value
    for target, *others in markers:
        table = hooks.options_table(target, *others)
        rows = re.findall(r"^\| `(\w+)` *\| (.*?) \| (.+) \|$", table, re.MULTILINE)
        listed = {name: default.strip(" `") for name, default, _ in rows}
        known = hooks.options(target).items()
        missing = inspect.Parameter.empty
        assert listed == {o: "required" if d is missing else str(d) for o, d in known}
        assert all(len(text) > 3 for _, _, text in rows)


def test_an_option_without_description_is_an_error(monkeypatch):
    monkeypatch.setitem(hooks.REGISTRIES["ATTACKS"], "new", lambda strength=1: None)
    with pytest.raises(PluginError, match=r"ATTACKS\.new: no docstring describes strength"):
        hooks.options_table("ATTACKS.new")


def test_costs_are_those_of_runs():
    rows = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in hooks.costs_table().splitlines()[2:]
    ]
    costs = {re.findall("`(.*)`", row[0])[0]: row[1:] for row in rows}
    assert list(costs) == list(farsign_jax.METHODS)
    assert costs["far_sign"] == ["answer", "200", "3,200", "2.6", "–"]  # 25 x 25,450 + x
    assert costs["sign_sgd_mv"][:3] == ["round", "1", "25,450"]
    assert costs["byrd_saga"][4] == "40.8"  # 400 gradients and their mean


def test_formulas_become_mathml_and_unknown_ones_errors():
    made = hooks.on_page_content('<span class="arithmatex">\\(x &lt; \\frac{1}{2}\\)</span>')
    assert made.startswith("<math") and "<mfrac>" in made and "&#x0003C;" in made
    text = {name: re.sub("```.*?```", "", t, flags=re.DOTALL) for name, t in PAGES.items()}
    for name, page in text.items():
        for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", page, re.DOTALL):
            made = ET.fromstring(hooks.mathml((block or inline).strip(), "block"))
            assert len(made), (name, block or inline)
    with pytest.raises(PluginError, match="nosuch"):
        hooks.mathml(r"\nosuch{x}", "block")


def test_links_into_the_repository_become_those_of_the_site():
    text = "[a](../../experiments/results/rates.md) [b](../../farsign_jax/keys.py)"
    assert hooks.on_page_markdown(text) == "[a](results/rates.md) [b][farsign_jax.keys]"
    with pytest.raises(PluginError, match=r"LICENSE is no part of the site"):
        hooks.on_page_markdown("[c](../../LICENSE)")


def test_settings_have_a_row_each():
    fields = [field.name for field in dataclasses.fields(farsign_jax.RunConfig)]
    rows = re.findall(r"^\| `(\w+)` ", hooks.settings_table(), re.MULTILINE)
    assert rows == fields and {"method", "byzantine", "step_size"} <= {*rows}


def test_the_reference_has_every_public_module():
    pages = hooks.api_pages()
    listed = {m for t in pages.values() for m in re.findall("^::: (.*)$", t, re.MULTILINE)}
    folder = hooks.ROOT / "farsign_jax"
    files = [path for path in folder.rglob("*.py") if not re.search("_pb2|__main__", path.name)]
    names = [".".join(p.relative_to(hooks.ROOT).with_suffix("").parts) for p in files]
    assert {name.removesuffix(".__init__") for name in names} - {"farsign_jax"} == listed
    for name in farsign_jax.__all__:
        value = getattr(farsign_jax, name)
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        assert home is None or home in listed, name  # None: METHODS, a table


def test_all_measured_tables_and_all_pages_are_in_the_menu():
    menu = (hooks.ROOT / "docs" / "mkdocs.yml").read_text()
    for folder, here in hooks.MEASURED.items():
        for path in (hooks.ROOT / folder).glob("*.md"):
            assert f": {here}/{path.name}\n" in menu
    for page in PAGES:
        assert menu.count(f": {page}\n") == 1, page


def test_plots_exist_and_are_small_and_shown():
    files = {path.stem: path.stat().st_size for path in plots.FOLDER.iterdir()}
    assert sorted(files) == sorted(plots.names())
    assert max(files.values()) < 60 * 1024
    shown = {n for t in PAGES.values() for n in re.findall(r"\(plots/(.*?)\.svg\)", t)}
    assert shown == set(files)


def drawn(path):
    """The coordinates of the parts of a plot whose id begins with "data"."""
    found = {}
    for group in ET.parse(path).iter("{http://www.w3.org/2000/svg}g"):
        if (group.get("id") or "").startswith("data"):
            text = " ".join(
                element.get(name, "")
                for element in group.iter()
                for name in ("d", "x", "y")
                if not element.tag.endswith("clipPath")
            )
            found.setdefault(group.get("id"), []).extend(re.findall(r"-?\d+(?:\.\d+)?", text))
    assert found
    return {name: np.asarray(numbers, float) for name, numbers in found.items()}


LATER = [name for name in plots.names() if not name.startswith("method-")]
NOW = ["aggregator-krum", "attack-mimic", "timing_attack-burst"]


@pytest.mark.parametrize(
    "name", [*NOW, *(pytest.param(n, marks=helpers.LONG) for n in LATER if n not in NOW)]
)
def test_plots_are_reproducible(name, tmp_path):
    before, after = drawn(plots.FOLDER / f"{name}.svg"), drawn(plots.draw(name, tmp_path))
    assert before.keys() == after.keys()
    for part, numbers in before.items():
        np.testing.assert_allclose(after[part], numbers, atol=0.5, err_msg=f"{name} {part}")


def test_the_trials_of_the_server_are_tests():
    named = set(re.findall(r"`(test_\w+)`", PAGES["server_trials.md"]))
    tests = {
        path.name: path.read_text() for path in (hooks.ROOT / "tests/runtime").glob("test_*.py")
    }
    defined = set(re.findall(r"^def (test_\w+)", "".join(tests.values()), re.MULTILINE))
    assert named <= defined
    faults = {name for name in defined if re.match(r"test_f\d", name)}
    assert {name for name in faults if f"def {name}(" not in tests["test_ray.py"]} <= named
