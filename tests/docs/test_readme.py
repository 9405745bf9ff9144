"""The README is right: its example runs, its tables list what there is."""

import pathlib
import re
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import farsign_jax
from farsign_jax import (
    OracleConfig,
    SystemSpec,
    aggregators,
    arrivals,
    attacks,
    methods,
    simulation,
)
from farsign_jax.aggregators import preaggregators, registry
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.data import datasets, partitions
from tests import helpers

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EXAMPLE, RSA, RESILIENCE, NEW_RULE, INTEROP, OPTAX = BLOCKS


def test_the_library_example_runs_and_learns(capsys):
    example = EXAMPLE
    exec(compile(example, "README.md", "exec"), {})
    record = eval(capsys.readouterr().out)
    expected = float(re.findall(r"'test_accuracy': about ([\d.]+)", example)[0])
    assert record["test_accuracy"] == pytest.approx(expected, abs=0.02)


def test_the_examples_of_the_other_systems_run(capsys):
    exec(compile(RSA, "README.md", "exec"), names := {})
    linear = np.asarray(names["problem"].data[1]).reshape(12, 20, 5)[2:].mean(axis=1)
    assert np.abs(names["run"].server.params - linear.mean(axis=0)).max() < 0.2
    exec(compile(RESILIENCE, "README.md", "exec"), {})
    said = re.findall(r"sin_alpha=(-?[\d.]+)", capsys.readouterr().out)
    expected = float(re.findall(r"sin_alpha: about ([\d.]+)", RESILIENCE)[0])
    assert float(said[0]) == pytest.approx(expected, abs=0.03)


def test_options_of_methods_are_named_and_nothing_is_left_to_write():
    told = {option for name in methods.METHODS for option in methods.options_of(name)}
    assert [option for option in sorted(told) if f"`{option}`" not in README] == [
        "arrival_rates",
        "byzantine",
        "message",
        "rate_cap",
        "trusted",
    ]
    assert not re.findall(r"\b[A-Z]+_(?:TEXT|STEPS)\b|TODO", README)


def test_an_aggregator_is_one_function_and_one_line(monkeypatch):
    monkeypatch.setattr(registry, "AGGREGATORS", dict(aggregators.AGGREGATORS))
    exec(compile(NEW_RULE, "README.md", "exec"), {})
    x = jnp.asarray([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [jnp.nan, 0.0]])
    rule = aggregators.make("shortest:count=2")
    np.testing.assert_allclose(rule(x), [0, 1.5])
    np.testing.assert_allclose(
        aggregators.make("clipping:c=1+shortest", count=1)(x), [0.6, 0.8]
    )
    problem = helpers.quadratic()
    build = SystemSpec("basgd", "constant", (), OracleConfig(batch_size=8), OPTIONS)
    system = build(problem, {"step_size": 0.1})
    order = arrivals.uniform(jax.random.key(0), helpers.M, 500)
    measure = helpers.distance(problem)
    _, records = simulation.run(problem, system, order, byzantine=1, measure=measure)
    assert records[-1]["distance"] < 0.5 * float(measure(problem.x0)["distance"])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_loops_of_other_libraries_run(library, capsys):
    pytest.importorskip(library)
    example = INTEROP.replace("import numpy as xp", f"import {library} as xp")
    exec(compile(example, "README.md", "exec"), names := {})
    assert type(names["update"]).__module__.startswith(library)
    left = capsys.readouterr().out.strip()
    assert "below 0.1" in INTEROP
    assert float(left.removeprefix("tensor(").removesuffix(")")) < 0.1


def test_the_loop_of_optax_runs(capsys):
    exec(compile(OPTAX, "README.md", "exec"), {})
    assert "below 0.1" in OPTAX and float(capsys.readouterr().out) < 0.1


OPTIONS = (("aggregator", "shortest:count=2"), ("buffers", 5))


@pytest.mark.parametrize(
    "names",
    [
        aggregators.AGGREGATORS,
        preaggregators.PREAGGREGATORS,
        attacks.ATTACKS,
        methods.METHODS,
        datasets.DATASETS,
        partitions.PARTITIONS,
        delays.DELAYS,
        timing.TIMING_ATTACKS,
    ],
)
def test_tables_list_every_name(names):
    assert [name for name in names if f"`{name}`" not in README] == []


def test_links_and_commands_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert target in anchors or (ROOT / target).exists(), target
    for module in set(re.findall(r"python -m ((?:experiments|benchmarks)\.[a-z]\w+)", README)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_the_version_is_said_once_and_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == farsign_jax.__version__
