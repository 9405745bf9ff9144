"""RunConfig: one run from Python, the same as that of the command lines."""

import dataclasses
import inspect
import json

import flax.linen as nn
import numpy as np
import pytest
from absl import flags

import farsign_jax
from farsign_jax import METHODS, PanelConfig, RunConfig, attacks
from farsign_jax.cli import settings
from farsign_jax.config.settings import RunSettings, from_dict
from farsign_jax.config.sweep_specs import prepare, sweep_specs
from farsign_jax.harness import panel
from farsign_jax.runtime import run_config as served
from farsign_jax.validation import InvalidConfig

SMALL = {"model": "softmax_regression", "workers": 5, "byzantine": 1, "batch_size": 4}
SMALL |= {"events": 60, "eval_every": 20, "directions": 5}


@pytest.fixture(scope="module")
def result():
    return RunConfig(attack="sign_flip:scale=10", seed=3, **SMALL).run()


@pytest.mark.slow
def test_a_run_is_that_of_a_panel_to_the_bit(result):
    config = result.config.panel()
    more = dataclasses.replace(config, seeds=(3, 4))
    rows = [row for row in panel.run([panel.ready(more, None)]) if row["seed"] == 3]
    assert [row["event"] for row in rows] == [20, 40, 60]
    for name, column in result.history.items():
        if name != "seconds":
            assert [row[name] for row in rows] == column.tolist(), name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["far_sign", "sgd"])  # the second one is in lock-step
def test_many_seeds_are_each_seed_alone_to_the_bit(method):
    config = RunConfig(method=method, attack="alie", **SMALL)
    results = config.run_seeds([4, 1])
    assert [each.config.seed for each in results] == [4, 1]
    for each in results:
        alone = each.config.run()
        np.testing.assert_array_equal(each.params, alone.params)
        for name in set(alone.history) - {"seconds"}:
            np.testing.assert_array_equal(each.history[name], alone.history[name])
    assert [each.config.seed for each in config.run_seeds(2)] == [0, 1]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (0, "needs a whole number seeds >= 1: got 0"),
        ([], "seeds names none"),
        ([1, 1], "names one twice"),
        ([-1], "seeds are 0..2147483647: got -1"),
        ("5", "a count or a list of seeds: got '5'"),
    ],
)
def test_seeds_that_cannot_run_are_refused(seeds, message):
    with pytest.raises(InvalidConfig, match=message):
        RunConfig(**SMALL).run_seeds(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["basgd:buffers=5", "sgd", "rsa:penalty=0.1"])
def test_methods_in_lockstep_are_those_of_a_panel(method):
    config = RunConfig(method=method, attack="alie", **SMALL)
    history = config.run().history
    rows = panel.run([panel.ready(config.panel(), None)])
    assert [row["test_accuracy"] for row in rows] == history["test_accuracy"].tolist()
    assert [row["evaluations"] for row in rows] == history["evaluations"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["async_sgd", "sgd"])
def test_the_success_of_a_backdoor_is_recorded(method):
    config = RunConfig(method=method, attack="backdoor:target=3", **SMALL)
    success = config.run().history["backdoor_success"]
    assert ((success >= 0) & (success <= 1)).all()
    both = dataclasses.replace(config.panel(), attacks=("none", config.attack))
    rows = panel.run([panel.ready(both, None)])
    assert ["backdoor_success" in row for row in rows] == [
        row["attack"] != "none" for row in rows
    ]
    assert [row["backdoor_success"] for row in rows if row["attack"] != "none"] == [*success]
    _, measure = config.problem()
    assert "backdoor_success" in measure(np.zeros(7850, np.float32))


def test_a_result_has_parameters_accuracy_and_a_table(result):
    assert result.params.shape == (7850,) and np.isfinite(result.params).all()
    assert result.accuracy == result.history["test_accuracy"][-1]
    assert result.table(rows=2).count("\n") == 2 + 2
    assert "| test_accuracy |" in result.table()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.params = None


def test_one_s_own_method_attack_and_model(monkeypatch):
    @nn.compact
    def call(self, inputs):
        return nn.Dense(10)(inputs.reshape(inputs.shape[0], -1))

    linear = type("Linear", (nn.Module,), {"__call__": call, "__annotations__": {}})
    monkeypatch.setitem(METHODS, "mine", METHODS["async_sgd"])
    monkeypatch.setitem(attacks.ATTACKS, "opposite", lambda: attacks.sign_flip(2.0))
    own = RunConfig(method="mine", attack="opposite", **SMALL | {"model": linear()})
    usual = RunConfig(method="async_sgd", attack="sign_flip:scale=2", **SMALL)
    assert own.run().params.shape == usual.run().params.shape
    named = dataclasses.replace(own, model="softmax_regression").run()
    np.testing.assert_array_equal(named.params, usual.run().params)
    with pytest.raises(InvalidConfig, match="only a named model is JSON"):
        own.to_json()


def test_a_bare_name_has_the_numbers_of_table_3():
    config = RunConfig(attack="alie", aggregator="Krum", partition="dirichlet:heterogeneity=2")
    assert (config.attack, config.aggregator) == ("alie:z=1.5,space=measured", "krum:f=4")
    assert (config.partition, config.heterogeneity) == ("dirichlet", 2.0)
    assert RunConfig(attack="alie:").attack == "alie:"


def test_json_holds_all_of_it():
    config = RunConfig(method="far_sign:soft=0.5", step_size=0.02, seed=7, **SMALL)
    assert RunConfig.from_json(config.to_json()) == config
    assert RunConfig.from_json("{}") == RunConfig()
    record = json.loads(json.dumps(config.panel().to_dict()))
    assert from_dict(PanelConfig, record) == config.panel()
    for text, message in (
        ("[]", "a run configuration is a JSON object"),
        ("{", "a run configuration is a JSON object"),
        ('{"worker": 3}', "unknown setting 'worker': did you mean 'workers'"),
        ('{"workers": "many"}', "workers is an integer: got 'many'"),
        ('{"workers": 2.5}', "workers is an integer: got 2.5"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            RunConfig.from_json(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "far_sing"}, "unknown method 'far_sing': did you mean 'far_sign'"),
        ({"method": "far_sign:soft=x"}, "far_sign needs a finite number for soft: got 'x'"),
        ({"method": "basgd:buffers=3"}, "basgd needs buffers >= 2q [+] 1: got buffers=3, q=5"),
        ({"method": "sgd", "aggregator": "krum:f=20"}, "krum needs n >= 2f"),
        ({"attack": "sign_flop"}, "unknown attack 'sign_flop'"),
        ({"attack": "alie:z=inf"}, "alie needs a finite number for z: got 'inf'"),
        ({"workers": "x"}, "workers is an integer: got 'x'"),
        ({"workers": True}, "workers is an integer: got True"),
        ({"attack": 3}, "attack is a name: got 3"),
        ({"byzantine": 25}, "need 0 <= byzantine < workers"),
        ({"seed": -1}, "seeds are 0..2147483647: got -1"),
        ({"events": 0}, "need 0 < events < 2147483648: got 0"),
        ({"delta": float("inf")}, "need 0 < delta"),
        ({"model": "mlp:hidden=0"}, "widths of hidden layers are positive"),
        ({"partition": "iid:alpha=1"}, "unknown option of iid 'alpha'"),
        ({"arrivals": "exponential:fast=2"}, "fast=2 needs spread"),
    ],
)
def test_bad_values_fail_at_construction_in_one_line(values, message):
    with pytest.raises(InvalidConfig, match=message) as error:
        RunConfig(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [RunConfig, PanelConfig])
def test_flags_are_the_fields(kind):
    values = flags.FlagValues()
    settings.define(values, kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert set(values) == set(fields)
    for name, field in fields.items():
        assert values[name].help.startswith(field.metadata["help"])
        first = field.metadata["help"].partition(". ")[0]
        assert first[0].isupper() and len(first) < 68, name
        assert field.metadata["help"].endswith(".")
    values(["test", "--workers=7", "--step_size=0.5", "--model=cnn"])
    assert settings.given(values, kind) == {"workers": 7, "step_size": 0.5, "model": "cnn"}
    config = settings.configured(kind(byzantine=2), settings.given(values, kind))
    assert (config.workers, config.step_size, config.byzantine) == (7, 0.5, 2)


def test_all_configurations_have_the_same_settings():
    shared = {field.name for field in dataclasses.fields(RunSettings)}
    for kind, own in (
        (RunConfig, {"method", "aggregator", "attack", "seed"}),
        (PanelConfig, {"methods", "aggregators", "attacks", "seeds"}),
    ):
        assert {field.name for field in dataclasses.fields(kind)} == shared | own
    assert set(served.SERVED) <= set(inspect.signature(RunConfig).parameters)
    assert farsign_jax.RunConfig is RunConfig


def test_a_step_size_reaches_every_method_of_a_panel():
    methods = ("far_sign", "far_sign:step_size=0.5", "kardam")
    config = PanelConfig(methods=methods, step_size=0.2)
    found = {}
    for spec in sweep_specs(config):
        points = zip(spec.methods, spec.hyper["step_size"][0].tolist(), strict=True)
        found |= {method: round(step, 6) for method, step in points}
    assert found == {"far_sign": 0.2, "far_sign:step_size=0.5": 0.5, "kardam": 0.2}


def test_the_cost_of_an_answer_is_counted_once(monkeypatch):
    config = RunConfig(**SMALL).panel()
    (spec,), data = sweep_specs(config), prepare(config)
    cost = spec.cost(data)
    monkeypatch.setattr(type(spec.builds[0]), "__call__", None)
    assert spec.cost(data) == cost == (10, 160)
