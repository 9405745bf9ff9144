"""Dictionaries of ByzFL: what they mean, and that they make the runs of the texts."""

import inspect
import json
import re

import numpy as np
import pytest

from farsign_jax import aggregators, attacks, interop
from farsign_jax.aggregators import preaggregators
from farsign_jax.interop import byzfl
from farsign_jax.validation import InvalidConfig
from tests.experiments.test_compare import grid


def named(name, **parameters):
    return {"name": name, "parameters": parameters} if parameters else {"name": name}


@pytest.mark.parametrize(
    ("kind", "entry", "text"),
    [
        ("aggregator", named("TrMean", f=3), "trimmed_mean:f=3"),
        ("aggregator", named("Krum", f=3), "krum:f=3,neighbours=n-f-1"),
        ("aggregator", named("krum", f=3), "krum:f=3"),
        ("aggregator", named("MultiKrum", f=1), "multi_krum:f=1,m=n-f,neighbours=n-f-1"),
        ("aggregator", named("GeometricMedian", T=8), "rfa:iterations=8,nu=0.1,start=zero"),
        ("aggregator", named("Median"), "median"),
        ("aggregator", {"name": "Average", "parameters": {}}, "mean"),
        ("aggregator", named("CenteredClipping", m=None, L=2), None),
        ("aggregator", [named("NNM", f=2), "median"], "nnm:f=2+median"),
        ("aggregator", [named("Bucketing", s=2), named("ARC", f=1), named("MDA", f=1)], None),
        ("aggregator", [named("Clipping"), named("Meamed", f=1)], "clipping:c=2.0+meamed:f=1"),
        ("attack", named("SignFlipping"), "sign_flip:source=honest_mean"),
        ("attack", named("InnerProductManipulation", tau=3.0), "ipm:epsilon=3.0"),
        ("attack", named("ALittleIsEnough", tau=0.5), "alie:z=0.5,sign=1,ddof=1"),
        ("attack", named("Mimic", epsilon=2), "mimic:target=2,among=honest"),
        ("attack", named("Gaussian", mu=0.0, sigma=3.0), "gaussian:std=3.0"),
        ("attack", named("Inf"), "nonfinite:kind=inf"),
        ("attack", named("LabelFlipping"), "label_flip"),
        ("attack", named("NoAttack"), "none"),
        ("attack", named("alie", z=1.5, ddof=1), "alie:z=1.5,ddof=1"),
        ("model", named("mlp", hidden=[256, 128]), "mlp:hidden=256x128"),
        ("partition", named("dirichlet", heterogeneity=0.3), "dirichlet:heterogeneity=0.3"),
        ("method", named("far_sign", step_size=1e-5), "far_sign:step_size=1e-05"),
        ("rounds", "barrier", "barrier"),
    ],
)
def test_each_is_a_text_that_can_be_made(kind, entry, text):
    made = byzfl.text(kind, entry)
    assert text in (made, None)
    if kind == "aggregator":
        aggregators.make(made)
    elif kind == "attack":
        attacks.make(*attacks.parse(made)[:1], **attacks.parse(made)[1])


def test_every_class_of_byzfl_is_known_by_its_parameters():
    for peers, ours in (
        (byzfl.AGGREGATORS, aggregators.AGGREGATORS | preaggregators.PREAGGREGATORS),
        (byzfl.ATTACKS, attacks.ATTACKS),
    ):
        for peer in peers.values():
            options = set(inspect.signature(ours[peer.name]).parameters)
            assert {*peer.takes.values(), *peer.defaults} <= options
        assert not set(peers) & set(byzfl.REFUSED)


# What ByzFL 0.0.11 makes of these three rows, by its documentation.
ROWS = np.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])


@pytest.mark.parametrize(
    ("entry", "want"),
    [
        (named("SignFlipping"), [-4, -5, -6]),
        (named("InnerProductManipulation"), [-8, -10, -12]),
        (named("ALittleIsEnough"), [8.5, 9.5, 10.5]),
        (named("Mimic"), [1, 2, 3]),
        (named("Mimic", epsilon=2), [7, 8, 9]),
        (named("Inf"), [np.inf] * 3),
    ],
)
def test_attacks_send_what_those_of_byzfl_send(entry, want):
    own = np.full((1, 3), 50.0)
    for liar in (0, 1, 3):  # who lies does not matter
        messages = np.insert(ROWS, liar, own, axis=0)
        mask = np.arange(4) == liar
        heard = interop.Attack(byzfl.text("attack", entry), mask)(messages)
        np.testing.assert_allclose(heard[liar], want, rtol=1e-12)


@pytest.mark.parametrize(
    ("entry", "want"),
    [
        (named("Average"), [4, 5, 6]),
        (named("TrMean", f=1), [4, 5, 6]),
        (named("GeometricMedian"), [3.78788764, 4.78788764, 5.78788764]),
        (named("CenteredClipping"), [4, 5, 6]),
        (named("MDA", f=1), [2.5, 3.5, 4.5]),
        (named("Meamed", f=1), [2.5, 3.5, 4.5]),
    ],
)
def test_rules_make_what_those_of_byzfl_make(entry, want):
    got = interop.aggregate(byzfl.text("aggregator", entry), ROWS)
    np.testing.assert_allclose(got, want, rtol=1e-7)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (named("Krum", f=1), "n >= 2f . 3: got n=3, f=1"),
        (named("MultiKrum", f=1), "n >= 2f . 3: got n=3, f=1"),
        (named("GeometricMedian", T=0), "0"),
        (named("CenteredClipping", L=0), "0"),
        (named("Krum"), "Krum needs f"),
    ],
)
def test_what_byzfl_would_compute_and_is_refused_here(entry, message):
    with pytest.raises(InvalidConfig, match=message):
        interop.aggregate(byzfl.text("aggregator", entry), ROWS)


def test_rows_that_are_not_finite_are_left_out():
    rows = np.vstack([ROWS, np.full((1, 3), np.inf)])
    got = interop.aggregate(byzfl.text("aggregator", named("Average")), rows)
    np.testing.assert_allclose(got, ROWS.mean(0))


def test_dictionaries_and_texts_are_the_same_runs(tmp_path):
    texts = {
        "methods": ["basgd:buffers=9", "far_sign"],
        "aggregators": ["nnm:f=2+trimmed_mean:f=3", "nnm:f=2+median"],
        "attacks": ["none", "alie:z=1.5,sign=1,ddof=1", "mimic:target=2,among=honest"],
        "partition": ["iid", "dirichlet:heterogeneity=0.3"],
        "model": "mlp:hidden=16x8",
        "byzantine": 3,
    }
    entries = texts | {
        "methods": [named("basgd", buffers=9), named("far_sign")],
        "aggregators": [named("TrMean", f=3), "median"],
        "pre_aggregators": [named("NNM", f=2)],
        "attacks": ["none", named("ALittleIsEnough"), named("Mimic", epsilon=2)],
        "partition": ["iid", named("dirichlet", heterogeneity=0.3)],
        "model": named("mlp", hidden=[16, 8]),
    }
    want = grid(spec=texts, folder=tmp_path)
    assert grid(spec=entries, folder=tmp_path) == want
    nested = entries | {"pre_aggregators": []}
    nested["aggregators"] = [[named("NNM", f=2), named("TrMean", f=3)], "nnm:f=2+median"]
    assert grid(spec=nested, folder=tmp_path) == want
    # Several chains, each before every rule; the usual rule; a flag counts for more.
    chains = {"methods": ["sgd"], "pre_aggregators": [[named("NNM", f=2)], []]}
    ((_, config),) = grid(spec=chains, folder=tmp_path)
    assert config.aggregators == ("nnm:f=2+median", "median")
    told = grid("--aggregators=mean,krum:f=3", spec=chains, folder=tmp_path)
    assert told[0][1].aggregators == ("nnm:f=2+mean", "nnm:f=2+krum:f=3", "mean", "krum:f=3")
    file = {"methods": ["sgd"], "aggregators": [named("TrMean", f=3)]}
    ((_, config),) = grid("--aggregators=mean", spec=file, folder=tmp_path)
    assert config.aggregators == ("mean",)
    # ByzFL's own keys, of one entry.
    one = {"methods": ["sgd"], "aggregator": named("TrMean", f=3), "attack": named("Inf")}
    ((_, config),) = grid(spec=one | {"pre_aggregators": [named("NNM", f=2)]}, folder=tmp_path)
    assert config.aggregators == ("nnm:f=2+trimmed_mean:f=3",)
    assert config.attacks == ("nonfinite:kind=inf",)
    # A dictionary without parameters is the bare name, with the numbers of Table 3.
    bare = {"methods": ["sgd"], "aggregators": [named("krum")], "attacks": named("alie")}
    ((_, config),) = grid(spec=bare, folder=tmp_path)
    assert (config.aggregators, config.attacks) == (
        ("krum:f=4",),
        ("alie:z=1.5,space=measured",),
    )


def test_flags_take_dictionaries_too(tmp_path):
    trimmed, little = named("TrMean", f=3), named("ALittleIsEnough", tau=0.5)
    for rules in (trimmed, [trimmed]):
        told = ["--methods=sgd", f"--aggregators={json.dumps(rules)}", "--aggregators=krum:f=2"]
        told.append(f"--attacks={json.dumps(little)}, {json.dumps(named('NoAttack'))}")
        ((_, config),) = grid(*told)
        assert config.aggregators == ("trimmed_mean:f=3", "krum:f=2")
        assert config.attacks == ("alie:z=0.5,sign=1,ddof=1", "none")
    chain = json.dumps([[named("NNM", f=2), trimmed]])
    ((_, config),) = grid("--methods=sgd", f"--aggregators={chain}")
    assert config.aggregators == ("nnm:f=2+trimmed_mean:f=3",)
    for text, message in (
        ('{"name": "TrMean"', '--aggregators {"name": "TrMean" is not JSON (names have'),
        ('median, {"name": "NNM"}', "dictionaries each have a --aggregators of their own"),
        ('{"name": "Median"}, mean', "is not JSON (names have a --aggregators of their own)"),
        ('{"name": "TrMean"}', 'aggregators[0] {"name": "TrMean"}: TrMean needs f'),
        ("[3]", "--aggregators has names and dictionaries: got 3"),
    ):
        with pytest.raises(InvalidConfig, match=re.escape(message)):
            grid("--methods=sgd", f"--aggregators={text}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"aggregators": ["mean", named("TrMean", g=3)]},
            'aggregators[1] {"name": "TrMean", "parameters": {"g": 3}}: TrMean has no \'g\'',
        ),
        ({"aggregators": [named("TrMean")]}, "TrMean needs f (ByzFL's run_benchmark adds it"),
        ({"aggregators": [named("trimed_mean", f=1)]}, "did you mean 'trimmed_mean'"),
        ({"aggregators": named("krum", q=1)}, 'aggregators {"name": "krum"'),
        ({"aggregators": [named("NNM", f=1)]}, "nnm is a pre-aggregator: a rule must follow"),
        ({"aggregators": [named("SMEA", f=1)]}, "ByzFL's SMEA is not available here: its"),
        (
            {"aggregators": [named("CenteredClipping", m=1)]},
            "available with m=None only: got 1",
        ),
        ({"aggregators": [named("TrMean", f=[1, 2])]}, "trimmed_mean needs a whole number f"),
        ({"attacks": [named("Optimal_ALittleIsEnough")]}, "give a tau to ALittleIsEnough"),
        (
            {"attacks": [named("Gaussian", mu=1.0)]},
            "Gaussian is available with mu=0.0 only: got 1.0",
        ),
        ({"attacks": [named("alie", tau=1.5)]}, "unknown option of alie 'tau'"),
        ({"attacks": [named("Mimic", epsilon=20)]}, "needs target < honest workers: got 20"),
        ({"attacks": [{"parameters": {}}]}, "attack is a text or a dictionary with name"),
        ({"attacks": [named("alie") | {"f": 1}]}, "attack has a name and parameters: got f"),
        (
            {"attacks": [named("alie", z=None)]},
            "parameters are names and finite numbers",
        ),
        ({"attacks": [named("alie", z="1,sign=1")]}, "parameters are names and finite numbers"),
        ({"methods": [named("far_sign", soft="x")]}, 'methods[0] {"name": "far_sign"'),
        ({"methods": [named("far_sing")]}, "did you mean 'far_sign'"),
        ({"model": named("mlp", hidden=[0])}, 'model {"name": "mlp"'),
        ({"partition": named("dirichlet", alpha=1)}, "unknown option of dirichlet 'alpha'"),
        ({"pre_aggregators": named("NNM", f=1)}, "pre_aggregators is a list of dictionaries"),
        ({"pre_aggregators": [named("Krum", f=1)]}, "pre_aggregators[0]"),
        ({"attack": "none", "attacks": ["none"]}, "attack and attacks are given: need one of"),
        (
            {"aggregator": [named("Median")]},
            "aggregator is one dictionary or text, aggregators",
        ),
        ({"aggregator": named("TrMean", g=3)}, 'aggregator {"name": "TrMean"'),
        ({"pre_aggregator": []}, "did you mean 'pre_aggregators'"),
        ({"workers": named("mlp")}, "workers is an integer: got 'mlp'"),
    ],
)
def test_what_cannot_be_read_is_named(spec, message, tmp_path):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        grid(spec=spec, folder=tmp_path)
