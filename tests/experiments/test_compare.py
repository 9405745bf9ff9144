"""A user's own sweep: flags, a file, what is varied; and methods that run side by side."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import compare
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import panel
from farsign_jax.harness.flags import FLAGS
from farsign_jax.validation import InvalidConfig
from tests import helpers
from tests.experiments import test_experiments as commands

SMALL = {"dataset": "mnist_subset", "events": 50, "eval_every": 25, "workers": 5}
SMALL |= {"byzantine": 1, "batch_size": 4, "model": "softmax_regression"}


def grid(*flags, spec=None, folder=None):
    """What the command would run."""
    if spec is not None:
        (folder / "spec.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))
        flags = (*flags, f"--spec={folder / 'spec.json'}")
    with flagsaver.flagsaver():
        FLAGS(["compare", *flags])
        return compare.grid(*compare.asked())


def test_flags_and_the_file_say_the_same(tmp_path):
    flags = ["--methods=far_sign,sgd", "--aggregators=Krum,median", "--seeds=7,"]
    flags += ["--vary=partition=iid,label_skew:heterogeneity=2", "--vary=byzantine=0,5"]
    spec = {"methods": ["far_sign", "sgd"], "aggregators": ["Krum", "median"], "seeds": [7]}
    spec |= {"partition": ["iid", "label_skew:heterogeneity=2"], "byzantine": [0, 5]}
    found = grid(*flags)
    assert found == grid(spec=spec, folder=tmp_path)
    places = [(c.partition, c.heterogeneity, c.byzantine) for _, c in found]
    assert places == [("iid", None, 0), ("iid", None, 5), ("label_skew", 2, 0),
                      ("label_skew", 2, 5)]  # fmt: skip
    assert found[0][0] == {"partition": "iid", "byzantine": 0}
    assert found[0][1].aggregators == ("krum:f=4", "median")
    assert found[0][1].seeds == (7,)
    # A flag counts for more than the file, and varies it no longer.
    ((at, config),) = grid("--partition=iid", "--byzantine=2", spec=spec, folder=tmp_path)
    assert (at, config.partition, config.byzantine) == ({}, "iid", 2)
    assert grid("--seeds=3", spec={"seeds": 2}, folder=tmp_path)[0][1].seeds == (0, 1, 2)
    assert grid(spec={"preset": "tuned"}, folder=tmp_path)[0][1].preset == "tuned"


@pytest.mark.parametrize(
    ("flags", "spec", "message"),
    [
        (["--vary=byzantine"], None, "--vary is setting=value,value: got 'byzantine'"),
        (["--vary=byzantin=1,2"], None, "unknown setting to vary 'byzantin': did you mean"),
        (["--vary=seeds=1,2"], None, "unknown setting to vary 'seeds'"),
        (["--vary=byzantine=1,x"], None, "byzantine is an integer: got 'x'"),
        (["--vary=byzantine=1,1"], None, r"varied over \['1', '1'\]: need different values"),
        (["--vary=byzantine=1,2", "--byzantine=3"], None, "--byzantine is given, and varied"),
        (["--vary=byzantine=1,30"], None, "byzantine=30: need 0 <= byzantine < workers"),
        (["--vary=byzantine=1,9"], None, "byzantine=9: basgd needs buffers"),
        (["--partition=dirichlet:alpha=1"], None, "unknown option of dirichlet 'alpha'"),
        (
            ["--partition=dirichlet:heterogeneity=abc"],
            None,
            "number for heterogeneity",
        ),
        (["--partition=dirichlet:heterogeneity=1", "--heterogeneity=2"], None, "name one each"),
        (
            ["--methods=sgd", "--byzantine=2", "--rounds=fastest:wait=4"],
            None,
            "sgd with median needs q < m/2: got q=2, m=4",
        ),
        (["--methods=sgd", "--byzantine=13"], None, "sgd with median needs q < m/2: got q=13"),
        (["--methods=byrd_saga", "--byzantine=13"], None, "geometric_median needs q < m/2"),
        (["--methods=rsa:penalty=x"], None, "rsa needs a finite number for penalty: got 'x'"),
        (
            ["--methods=rsa:penaltie=1"],
            None,
            "option of rsa 'penaltie': did you mean 'penalty'",
        ),
        (["--rounds=partial:participation=0"], None, "0 < participation <= 1: got 0"),
        (
            [
                "--byzantine_placement=rotating",
                "--timing_attack=flood",
                "--arrivals=exponential",
            ],
            None,
            "a timing attack is by the same workers at all events",
        ),
        ([], {"method": ["sgd"]}, "unknown setting 'method': did you mean 'methods'"),
        ([], {"workers": "many"}, "workers is an integer: got 'many'"),
        ([], {"workers": 2.5}, "workers is an integer: got 2.5"),
        ([], {"workers": True}, "workers is an integer: got True"),
        ([], {"workers": None}, "workers is an integer: got None"),
        ([], {"workers": []}, "workers is varied over"),
        ([], {"methods": []}, "methods names none"),
        ([], {"preset": ["paper", "tuned"]}, "unknown setting to vary 'preset'"),
        ([], {"methods": [1]}, "methods is a list of names: got"),
        ([], {"methods": {"sgd": 1}}, "method is a text or a dictionary with name"),
        ([], {"seeds": ["0"]}, "seeds is a list of integers: got"),
        ([], {"seeds": [0, 0]}, "names one twice"),
        ([], [1, 2], "is not an object with settings"),
        ([], "{", "is not JSON: Expecting property name"),
        (["--spec=nowhere.json"], None, "--spec nowhere.json: No such file"),
        (
            ["--vary=heterogeneity=1,2", "--vary=heterogeneity=3,4"],
            None,
            "--vary names 'heterogeneity' twice",
        ),
        (["--vary=penalty=1,2"], None, "number of methods: --methods rsa:penalty=0.1"),
        (
            ["--methods=sgd", "--aggregators=krum:f=4", "--vary=workers=25,10"],
            None,
            "workers=10: krum needs n >= 2f . 3: got n=10, f=4",
        ),
        (["--methods=basgd", "--aggregators=bulyan:f=3"], None, "got n=11, f=3"),
    ],
)
def test_what_cannot_run_is_refused_by_name(flags, spec, message, tmp_path):
    with pytest.raises(InvalidConfig, match=message):
        grid(*flags, spec=spec, folder=tmp_path)


def test_values_with_options_are_told_apart():
    found = grid("--vary=arrivals=exponential,pareto:shape=1.5,spread=4")
    assert [c.arrivals for _, c in found] == ["exponential", "pareto:shape=1.5,spread=4"]


def test_numbers_of_the_second_method_are_checked_too():
    methods = ("rsa:penalty=0.1", "rsa:penalty=-1")
    given = PanelConfig(**SMALL | {"methods": methods, "attacks": ("none",), "seeds": (0,)})
    with pytest.raises(InvalidConfig, match="lambda >= 0: got -1"):
        panel.ready(given, None)


def test_tables_that_cannot_fit_are_refused():
    given = {"methods": ("asyn_rsa_vr",), "attacks": ("none",), "seeds": (0,)}
    ready = panel.ready(PanelConfig(**given, dataset="mnist_subset"), None)
    (job,) = ready.specs
    batch = job.run_batch(ready.data)
    rows = jnp.tile(batch.problem.rows, (1, 1, 1000))
    batch = dataclasses.replace(batch, problem=dataclasses.replace(batch.problem, rows=rows))
    with pytest.raises(InvalidConfig, match="GiB, the device has"):
        batch.check(job.program, "fresh")


def test_rounds_of_nobody_are_rounds():
    told = {"methods": ("rsa",), "attacks": ("none",), "seeds": (0,), "events": 5}
    given = PanelConfig(**SMALL | told, rounds="partial:participation=0.001")
    made = panel.ready(given, None)
    rounds = made.data.rounds
    assert rounds is not None and (rounds.schedules[:, :20] < 0).all()
    short = dataclasses.replace(rounds, schedules=rounds.schedules[:, :20])
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, rounds=short))
    assert panel.run([made])


@pytest.mark.slow
def test_compare_writes_every_run_and_continues(tmp_path):
    spec = SMALL | {"byzantine": [0, 1], "seeds": 2, "attacks": ["gaussian"]}
    spec |= {"methods": ["rsa:penalty=0.1", "brsgd", "asyn_rsa_vr:penalty=0.1"]}
    spec["methods"].append("rsa:penalty=0.5")
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [
        "experiments.compare",
        f"--spec={tmp_path / 'spec.json'}",
        "--byzantine_placement=rotating",
    ]
    command.append(f"--out={tmp_path / 'out'}")
    code, out, err = commands.run(*command)
    assert code == 0, err
    rows = commands.read(tmp_path / "out")
    assert len(rows) == 2 * 4 * 2 * 2  # settings, methods, seeds, records
    names = {row["method"] for row in rows}
    assert names == {"rsa:penalty=0.1", "rsa:penalty=0.5", "asyn_rsa_vr:penalty=0.1", "brsgd"}
    last = {
        (row["method"], row["byzantine"]): row["test_loss"]
        for row in rows
        if row["seed"] == "0"
    }
    assert len(set(last.values())) == 8  # every run is its own
    for name in ("table.md", "table.tex", "curves-byzantine-1.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert commands.run(*command)[:2] == (0, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["asyn_rsa_vr"]
    + [
        pytest.param(name, marks=helpers.LONG)
        for name in ("brsgd", "byzantine_sgd", "draco", "rsa", "byrd_saga", "fed_sgd", "rsgf")
    ],
)
def test_methods_in_rounds_run_side_by_side_in_a_panel(name):
    """Attacks and penalties of one seed in one program, as each alone."""
    methods = (name, f"{name}:step_size=0.3")
    given = PanelConfig(
        **SMALL | {"methods": methods, "attacks": ("none", "gaussian"), "seeds": (0,)},
        aggregators=("median",),
    )
    together = panel.ready(given, None)
    assert len(together.specs) == 1
    rows = panel.run([together])
    assert len(rows) == 2 * 2 * 2
    one = PanelConfig(
        **SMALL | {"methods": methods[1:], "attacks": ("gaussian",), "seeds": (0,)},
        aggregators=("median",),
    )
    alone = panel.run([panel.ready(one, None)])
    same = [r for r in rows if (r["method"], r["attack"]) == (methods[1], "gaussian")]
    for a, b in zip(same, alone, strict=True):
        assert {k for k in a if k != "seconds" and a[k] != b[k]} <= {"test_loss"}
        assert np.isclose(a["test_loss"], b["test_loss"], rtol=1e-5)


def test_a_varied_value_may_contain_blanks():
    found = grid("--vary=arrivals=trace:path=/tmp/a b + c.csv , uniform")
    assert [c.arrivals for _, c in found] == ["trace:path=/tmp/a b + c.csv", "uniform"]
