"""The registry: one file for each method, with all options described and presets complete."""

import importlib
import inspect
import re

import pytest

from farsign_jax.methods import METHODS, defaults_of


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_the_entry_of_the_file_of_its_name(name):
    module = importlib.import_module(f"farsign_jax.methods.{name}")
    assert module.METHOD is METHODS[name]
    assert module.METHOD.build is module.build


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_of_a_builder_describes_every_option(name):
    described = re.findall(r"^    (\w+): ", inspect.getdoc(METHODS[name].build) or "", re.M)
    assert sorted(described) == sorted(defaults_of(name))


@pytest.mark.parametrize("name", METHODS)
def test_all_presets_have_the_same_hyper_parameters(name):
    presets = METHODS[name].presets
    assert set(presets) == {"paper", "tuned"}
    assert set(presets["paper"]) == set(presets["tuned"])
