"""The command line that the page gives for a folder makes the same folder."""

import json
import shlex

import pytest
from absl.testing import flagsaver

from experiments import asynchrony, compare, report, table3
from farsign_jax.harness.command import folder_for
from farsign_jax.harness.flags import FLAGS, configure
from farsign_jax.harness.report import reproduce


def command(config):
    return reproduce.command(config, report.recipe_of)


@pytest.mark.parametrize(
    ("experiment", "flags"),
    [
        (compare, []),
        (compare, ["--seeds=7,", "--attacks=alie:,sign_flip", "--aggregators=median,krum:f=3"]),
        (compare, ["--vary=partition=iid,label_skew:heterogeneity=2", "--vary=byzantine=0,5"]),
        (
            compare,
            ["--methods=far_sign:step_size=0.1,sgd", "--partition=dirichlet:heterogeneity=0.3"],
        ),
        (table3, ["--preset=smoke", "--directions=7"]),
        (table3, ["--preset=tuned", "--arrivals=bimodal:slow=3,share=0.1", "--seeds=3"]),
        (asynchrony, ["--panels=a,c", "--events=100"]),
        (compare, ["--vary=arrivals=trace:path=/tmp/it's a #1 & b.csv,uniform"]),
    ],
)
def test_the_command_makes_the_same_folder(experiment, flags):
    name = experiment.__name__.rpartition(".")[2]

    def config(*argv):
        with flagsaver.flagsaver():
            FLAGS([name, *argv])
            if experiment is not compare:
                more = {"panels": FLAGS.panels} if experiment is asynchrony else {}
                return folder_for(name, configure(experiment.CONFIG), **more).config
            fixed, varied = compare.asked()
            return folder_for(name, compare.grid(fixed, varied)[0][1], varied=varied).config

    made = json.loads(json.dumps(config(*flags)))
    words = shlex.split(command(made))
    assert words[:3] == ["python", "-m", f"experiments.{name}"]
    assert json.loads(json.dumps(config(*words[3:]))) == made
    assert len(words) <= 5 + 2 * len(flags)  # no flag with its default


def test_commands_of_other_folders():
    cluster = {"experiment": "cluster", "workers": 8, "attacks": ["none", "alie:z=1,ddof=1"]}
    found = command(cluster | {"behaviours": [], "seed": 3})
    assert found == ("python -m experiments.cluster --workers 8 --attacks none,alie:z=1,ddof=1 "
                     "--behaviours none --seeds 3,")  # fmt: skip
    rates = {"experiment": "rates", "preset": "full", "claims": ["rates"], "seeds": 24}
    assert command(rates) == "python -m experiments.rates --claims rates"
    assert command({"workers": 8}) is None
    assert command({"experiment": "os"}) is None
