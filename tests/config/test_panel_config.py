"""PanelConfig: flags and presets, what is refused, and the data and schedules of its runs."""

import dataclasses

import numpy as np
import pytest
from absl.testing import flagsaver

from farsign_jax import attacks
from farsign_jax.cli import settings
from farsign_jax.config import panel_config, schedules
from farsign_jax.config.checks import parse_seeds
from farsign_jax.config.sweep_specs import prepare
from farsign_jax.harness import flags as flags_lib
from farsign_jax.harness import panel
from farsign_jax.validation import InvalidConfig


def test_the_preset_of_the_paper_replaces_that_of_an_experiment():
    base = panel_config.PanelConfig(preset="tuned")
    assert settings.configured(base, {"preset": "paper"}).preset == "paper"
    assert settings.configured(base, {"preset": "smoke"}).preset == "tuned"


@flagsaver.flagsaver
def test_flags_override_the_preset_and_the_preset_the_experiment():
    base = panel_config.PanelConfig(events=77)
    if not flags_lib.FLAGS.is_parsed():
        flags_lib.FLAGS(["test"])
    flags_lib.FLAGS.preset = "smoke"
    flags_lib.FLAGS.seeds = "3,5"
    flags_lib.FLAGS.attacks = ["none,alie", "sign_flip:scale=3,source=honest_mean"]
    flags_lib.FLAGS.aggregators = ["median,Krum,RFA:nu=0.1,iterations=8,NNM:f=2 + krum:f=2,RFA"]
    given = flags_lib.configure(base)
    rules = ("median", "krum:f=4", "rfa:nu=0.1,iterations=8", "nnm:f=2+krum:f=2")
    rules += ("rfa:iterations=32",)
    assert given.aggregators == rules
    assert given.events == 300 and given.seeds == (3, 5) and given.directions == 50
    assert given.attacks == (
        "none",
        "alie:z=1.5,space=measured",
        "sign_flip:scale=3,source=honest_mean",
    )
    flip = ("sign_flip", {"scale": 3, "source": "honest_mean"})
    assert attacks.parse(given.attacks[2]) == flip
    assert attacks.parse("nonfinite:kind=nan") == ("nonfinite", {"kind": "nan"})
    assert attacks.parse("alie:") == ("alie", {})


def test_prepare_gives_each_seed_its_own_split_and_all_methods_the_same(tmp_path):
    given = panel_config.PanelConfig(
        dataset="mnist_subset", seeds=(0, 1), events=30, validation=0.05
    )
    given = dataclasses.replace(given, partition="dirichlet", heterogeneity=5.0)
    a, b = (prepare(given).one_by_one for _ in range(2))
    np.testing.assert_array_equal(a.problem.rows, b.problem.rows)
    np.testing.assert_array_equal(a.schedules, b.schedules)
    assert (a.schedules[0] != a.schedules[1]).any()
    assert (np.asarray(a.problem.x0[0]) != np.asarray(a.problem.x0[1])).any()
    assert a.problem.data[0].shape[0] == 9500
    np.testing.assert_array_equal(a.problem.sizes.sum(axis=1), [9500, 9500])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), ("4,2", (4, 2)), ("7,", (7,)), (",", None), ("0", None)],
)
def test_seeds(text, seeds):
    if seeds is None:
        with pytest.raises(InvalidConfig):
            parse_seeds(text)
    else:
        assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrivals": "paretto"}, "unknown arrivals 'paretto': did you mean 'pareto'"),
        ({"arrivals": "pareto:shape=-1"}, "pareto needs a finite shape > 0: got -1"),
        ({"arrivals": "pareto:shpae=1"}, "option of pareto 'shpae': did you mean 'shape'"),
        ({"arrivals": "exponential:spread=0.5"}, "finite spread >= 1: got 0.5"),
        ({"arrivals": "uniform:spread=4"}, "uniform takes no options: got 'spread'"),
        ({"arrivals": "trace"}, "trace needs a file"),
        (
            {"arrivals": "trace:path=x", "methods": ("sgd",)},
            "not a trace",
        ),
        ({"timing_attack": "flood"}, "'uniform' have no clock, which timing_attack needs"),
        ({"arrivals": "exponential", "timing_attack": "flod"}, "did you mean 'flood'"),
        ({"arrivals": "exponential", "timing_attack": "flood:rate=0"}, "rate > 0: got 0"),
        ({"rounds": "fastest"}, "rounds 'fastest' needs wait: got 'fastest'"),
        ({"rounds": "slowest"}, "unknown rounds 'slowest'"),
        ({"rounds": "fastest:wait=26"}, "1 <= wait <= workers: got 26, workers=25"),
        ({"rounds": "fastest:wait=2.5"}, "fastest needs a whole number for wait: got 2.5"),
        ({"rounds": "partial:participation=0"}, "0 < participation <= 1: got 0"),
        ({"arrivals": "weighted:spread=abc"}, "finite number for spread: got 'abc'"),
        ({"byzantine_placement": "all"}, "unknown byzantine_placement 'all'"),
        ({"delivery": "outstanding:0"}, "0 < L < 65536: got 'outstanding:0'"),
        ({"delivery": "outstanding:99999999999999"}, "0 < L < 65536: got"),
        ({"workers": 0}, "workers > 0: got 0"),
        ({"timing_attack": "none:rate=3"}, "timing_attack none takes no options: got"),
        ({"arrivals": "exponential:fast=5"}, "fast=5 needs spread"),
        ({"arrivals": "bimodal:share=a"}, "bimodal needs a finite number for share: got 'a'"),
        (
            {"methods": ("far_sign:rate_cap=x",)},
            "far_sign needs a finite number for rate_cap: got 'x'",
        ),
        ({"methods": ("far_sign:cap_rank=1.5",)}, "a whole number for cap_rank: got 1.5"),
        ({"methods": ("zeno_pp:trusted=1e9",)}, "zeno_pp needs a whole number for trusted"),
        (
            {"methods": ("basgd:buffers=13",), "byzantine_placement": "one_buffer"},
            "buffers=11: got 'basgd:buffers=13'",
        ),
    ],
)
def test_what_cannot_happen_in_time_is_refused_at_once(changes, message):
    given = dataclasses.replace(panel_config.PanelConfig(), **changes)
    with pytest.raises(InvalidConfig, match=message):
        panel_config.check(given)


def test_known_rates_need_some():
    still = panel_config.PanelConfig(arrivals="deterministic:time=0")
    with pytest.raises(InvalidConfig, match="'deterministic:time=0' have no rate"):
        schedules.claimed_rates(still)


def test_byzantine_workers_of_one_buffer_sit_together():
    # 25 workers, 5 of them Byzantine, 11 buffers.
    given = panel_config.PanelConfig(byzantine_placement="one_buffer")
    assert np.flatnonzero(given.byzantine_mask()).tolist() == [0, 1, 11, 12, 22]


@pytest.mark.slow
def test_rounds_hear_as_many_answers_and_wait_for_them():
    given = panel_config.PanelConfig(
        methods=("sgd", "async_sgd", "far_sign:arrival_rates=known"),
        aggregators=("median",),
        attacks=("sign_flip",),
        dataset="mnist_subset",
        seeds=(0,),
        events=100,
        eval_every=50,
        directions=5,
        delivery="outstanding:2",
        arrivals="exponential:spread=4",
        timing_attack="flood:rate=3",
        rounds="fastest:wait=10",
        byzantine=4,
    )
    rows = panel.run([panel.ready(given, None)])
    waits, one_by_one, weighted = (rows[i : i + 2] for i in (0, 2, 4))
    assert [row["event"] for row in waits] == [5, 10]
    assert [row["evaluations"] for row in waits] == [50, 100]
    assert [row["evaluations"] for row in one_by_one] == [50, 100]
    assert waits[-1]["virtual_seconds"] > one_by_one[-1]["virtual_seconds"]
    assert {row["arrivals"] for row in rows} == {"exponential:spread=4"}
    assert waits[-1]["staleness"] == 0 < one_by_one[-1]["staleness"]
    assert weighted[-1]["virtual_seconds"] == one_by_one[-1]["virtual_seconds"]
    rates = np.asarray(schedules.claimed_rates(given))  # what they claim: nobody floods
    assert rates.max() / rates.min() == pytest.approx(4)
    real = [1 / model.typical for model in schedules.delay_models(given)]
    np.testing.assert_allclose(real / rates, np.where(given.byzantine_mask(), 3, 1))


@pytest.mark.slow
def test_rows_of_a_panel_in_lockstep_are_each_run_s_own():
    given = panel_config.PanelConfig(
        methods=("basgd", "cyber0:message=scalar"),
        aggregators=("median", "mean"),
        attacks=("none", "nonfinite:kind=nan", "alie"),
        dataset="mnist_subset",
        seeds=(0,),
        events=40,
        eval_every=40,
        directions=5,
    )
    rows = panel.run([panel.ready(given, None)])
    assert [row["nonfinite"] > 0 for row in rows] == [False, True, False] * 4
    assert all(np.isfinite(row["test_loss"]) for row in rows)
    assert rows[0]["bits_up"] == 40 * 32 * 25450 and rows[-1]["bits_up"] == 40 * 32 * 5
    assert rows[0]["evaluations"] == 40 and rows[-1]["evaluations"] == 40 * 10


def test_an_option_of_a_method_in_a_list_may_be_a_name_with_options():
    vote = "far_sign:scheme=forward,vote=nnm:f=1+median"
    assert settings.split([f"far_sign,{vote},sgd,alie:z=1.5,ddof=1"], "methods") == (
        "far_sign",
        vote,
        "sgd",
        "alie:z=1.5,ddof=1",
    )
