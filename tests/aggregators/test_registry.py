"""Descriptions of rules: names, options and pipelines."""

import re

import pytest

from farsign_jax import aggregators
from farsign_jax.aggregators.registry import make, parse
from farsign_jax.validation import InvalidConfig
from tests.aggregators.reference import sample
from tests.helpers import assert_same


def test_equivalent_descriptions():
    x = sample()
    want = make("clipping:c=2+nnm:f=3+trimmed_mean:f=3")(x)
    stages = [
        {"name": "Clipping", "parameters": {"c": 2}},
        {"name": "NNM", "parameters": {"f": 3}},
        {"name": "TrMean", "parameters": {"f": 3}},
    ]
    # Options of a stage take precedence over those of all stages.
    for spec, options in (
        (stages, {}),
        (tuple(stages), {}),
        (["clipping", "nnm", "CWTM"], {"f": 3}),
        ("Clipping + NNM + TrMean", {"f": 3, "c": 2.0}),
        (
            "clipping:c=2e+0+nnm:f=3+trimmed_mean",
            {"f": 3, "c": 9},
        ),
        ([{"name": "clipping"}, "nnm+trimmed_mean:f=3"], {"f": 3}),
    ):
        assert_same(make(spec, **options)(x), want)
    assert make("nnm+krum", f=2).name == "nnm+krum"
    assert parse("NNM:f=2+CC:tau=1e+1,start=x") == (
        ("nnm", {"f": 2}),
        ("centered_clipping", {"tau": 10.0, "start": "x"}),
    )


def test_names_of_byzfl_and_of_papers():
    for name, want in aggregators.ALIASES.items():
        for spelling in (name, name.lower(), name.upper()):
            assert parse(spelling)[0][0] == want
    for name in ("Mean", "Median", "Krum", "Bulyan", "Meamed", "MDA", "RFA", "NNM", "ARC"):
        assert parse(name)[0][0] == name.lower()
    assert make("GeometricMedian").name == "rfa"  # ByzFL's
    assert make("geometric_median").name == "geometric_median"
    x = sample()
    parameters = {"nu": 0.1, "T": 3, "start": "zero"}
    got = make({"name": "GeometricMedian", "parameters": parameters})(x)
    assert_same(got, aggregators.rfa(0.1, 3, "zero")(x))
    # An alias changes the name, but not the convention.
    assert_same(make("Krum", f=2)(x), aggregators.krum(2)(x))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    (
        ("krun", {"f": 1}, "unknown aggregator 'krun': did you mean 'krum'?"),
        ("nmm+krum", {"f": 1}, "unknown aggregator 'nmm': did you mean 'nnm'?"),
        ("", {}, "unknown aggregator ''"),
        ("nnm", {"f": 1}, "nnm is a pre-aggregator: a rule must follow"),
        ("krum+nnm", {"f": 1}, "nnm is a pre-aggregator: a rule must follow"),
        ("krum+mean", {"f": 1}, "krum is a rule: only the last stage can be one"),
        ("krum", {}, "krum needs f"),
        ("nnm+mean", {}, "nnm needs f"),
        ("krum:q=1", {}, "krum has no option 'q': it has f, neighbours, power, strict"),
        ("mean", {"f": 1}, "mean has no option 'f': it has none"),
        ("nnm+mean", {"f": 1, "tau": 2}, "nnm+mean has no option 'tau'"),
        ("krum:f", {}, "options are written option=value: got 'f' in 'krum:f'"),
        ("krum:f=1,f=2", {}, "'f' is given twice in 'krum:f=1,f=2'"),
        ("rfa:T=3,iterations=4", {}, "rfa is given iterations twice"),
        ({"name": "krum", "f": 1}, {}, "an aggregator has a name and parameters: got f"),
        ({"parameters": {}}, {}, "an aggregator needs a name"),
        ([], {}, "an aggregator is a text, a dict"),
        (3, {}, "an aggregator is a text, a dict"),
        ({"name": "CenteredClipping", "parameters": {"m": 0}}, {}, "has no option 'm'"),
    ),
)
def test_invalid_descriptions_are_refused(spec, options, message):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        make(spec, **options)
