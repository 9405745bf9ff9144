"""Compares any methods, attacks, aggregators and seeds, with any setting varied.

    python -m experiments.compare --methods far_sign,basgd --attacks none,alie --seeds 3
    python -m experiments.compare --vary partition=iid,label_skew --vary byzantine=0,5
    python -m experiments.compare --spec sweep.json --dataset mnist_subset

Here sweep.json contains settings under the names of the flags, and lists of values for those
that are varied; flags override it:

    {"methods": ["asyn_rsa_vr:penalty=0.01", "asyn_rsa_vr:penalty=0.1", "sgd"],
     "aggregators": ["median", "krum:f=5"], "attacks": ["none", "same_value:value=10000"],
     "partition": ["iid", "label_skew:heterogeneity=2"], "seeds": 2,
     "model": "softmax_regression"}

A name may be given several times with different options, as in `krum:f=5` or
`far_sign:step_size=0.02`. ByzFL's dictionaries are accepted in place of names, such as
{"name": "TrMean", "parameters": {"f": 3}}, in the file as well as in flags: --aggregators
'{"name": "TrMean", "parameters": {"f": 3}}'. The file may also contain a list of
pre-aggregators, which are applied before the aggregators of the file or of the flag.

Without flags, the command compares the asynchronous methods on the embedded digits, which takes
half a minute. Everything is checked before the first run.

Writes table.md and table.tex (the best and last accuracy of each run, mean and standard
deviation over seeds), results.csv, results.json, and curves for every setting under --out. The
same command continues there.
"""

import contextlib
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from absl import flags

from farsign_jax.cli import settings, spec_file
from farsign_jax.cli.settings import split
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.settings import convert, hints
from farsign_jax.harness import captions, multi_host, panel, plots
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.command import folder_for, main, perform
from farsign_jax.harness.flags import FLAGS
from farsign_jax.io import files, tables
from farsign_jax.methods.registry import METHODS
from farsign_jax.validation import InvalidConfig, lookup, require

flags.DEFINE_multi_string(
    "vary", None, "Setting and its values, such as byzantine=0,5. May be given several times."
)
flags.DEFINE_string("spec", None, "JSON file with settings and lists of values.")

CONFIG = PanelConfig(
    methods=("far_sign", "far_sign_first_order", "async_sgd", "kardam", "zeno_pp", "basgd"),
    aggregators=("median",),
    attacks=("none", "sign_flip:scale=10"),
    seeds=(0, 1),
    dataset="mnist_subset",
    events=2000,
    eval_every=100,
)

SETTINGS = hints(PanelConfig)
LISTS = ("methods", "aggregators", "attacks", "seeds")
VARIED = {name: None for name in SETTINGS if name not in (*LISTS, "preset")}


def _vary() -> dict[str, list[str]]:
    """--vary, by setting."""
    varied: dict[str, list[str]] = {}
    for text in FLAGS.vary or []:
        name, equals, values = text.partition("=")
        require(equals and values, f"--vary is setting=value,value: got {text!r}")
        owner = next((m for m, e in METHODS.items() if name in e.presets["paper"]), None)
        rule = f"{name} is a number of methods: --methods {owner}:{name}=0.1,..."
        require(name in SETTINGS or owner is None, rule)
        lookup("setting to vary", name, VARIED)
        require(getattr(FLAGS, name) is None, f"--{name} is given, and varied")
        require(name not in varied, f"--vary names {name!r} twice")
        varied[name] = list(split([values]))
    return varied


def asked() -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What flags and --spec fix, and what --vary and --spec vary, by setting.

    A flag counts for more than the file, whose pre-aggregators go before the rules of the flag
    too.
    """
    fixed: dict[str, Any] = settings.given(FLAGS, PanelConfig)
    varied: dict[str, list[Any]] = {}
    if FLAGS.spec:
        rules = split(fixed["aggregators"], "aggregators") if "aggregators" in fixed else None
        read = spec_file.read(FLAGS.spec, list(SETTINGS), CONFIG.aggregators, rules)
        for name, value in read.items():
            if name in fixed and name != "aggregators":
                continue
            if name not in LISTS and isinstance(value, list):
                lookup("setting to vary", name, VARIED)
                varied[name] = value
            else:
                fixed[name] = value
    for name, values in _vary().items():
        fixed.pop(name, None)
        varied[name] = values
    for name, values in varied.items():
        varied[name] = [convert(name, SETTINGS[name], value) for value in values]
        good = 0 < len(values) == len(set(varied[name]))
        require(good, f"{name} is varied over {values}: need different values")
    return fixed, varied


def grid(
    fixed: dict[str, Any], varied: dict[str, list[Any]]
) -> list[tuple[dict[str, Any], PanelConfig]]:
    """Every combination of what is varied, each as a configuration that can run."""
    found = []
    for values in itertools.product(*varied.values()):
        at = dict(zip(varied, values, strict=True))
        with _naming(at):
            found.append((at, settings.configured(CONFIG, fixed | at)))
    return found


@contextlib.contextmanager
def _naming(at: dict[str, Any]) -> Iterator[None]:
    """Says of what cannot run which combination it is."""
    try:
        yield
    except InvalidConfig as error:
        where = "".join(f"{name}={value}: " for name, value in at.items())
        raise InvalidConfig(f"{where}{error}") from None


def _of(made: panel.Panel, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[k] == v for k, v in made.labels.items())]


def compare() -> pathlib.Path:
    fixed, varied = asked()
    combined = grid(fixed, varied)
    folder = folder_for("compare", combined[0][1], varied=varied)
    panels = []
    for at, config in combined:
        name = re.sub(r"[:/]", "-", "-".join(f"{k}-{v}" for k, v in at.items()))
        name = name.replace("=", "")
        with _naming(at):
            panels.append(panel.ready(config, FLAGS.data_dir, name=name, labels=at))
    rows = perform(panels, folder)
    multi_host.part()
    columns = {"last": "last, %", "best": "best, %"}
    if backdoor := any("backdoor_success" in row for row in rows):
        columns["backdoor_success"] = "backdoor, %"
    header = [*varied, "method", "attack", *columns.values()]
    lines, summary = [], []
    for made in panels:
        mine = _of(made, rows)
        for e in summary_lib.summarise(mine):
            summary.append(made.labels | e)
            values = [str(value) for value in made.labels.values()]
            several = len(made.config.seeds) > 1
            found = [summary_lib.accuracy(e, c, several) if c in e else "" for c in columns]
            lines.append([*values, summary_lib.label(e), e["attack"], *found])
        curves = "-".join(filter(None, ("curves", made.name)))
        # Against answers, too, as a gradient counts as one evaluation but contains far more
        # information than a loss.
        plots.curves(mine, folder.path / f"{curves}.png", ("event", "evaluations"))
    table = tables.markdown_table(header, lines)
    folder.write_rows(rows, summary)
    first = combined[0][1]
    caption = captions.of_accuracies(first, backdoor=backdoor)
    table = f"{first.events} answers in each run\n\n{table}\n{caption}"
    files.write_text(folder.path / "table.md", table)
    files.write_text(folder.path / "table.tex", tables.latex_table(header, lines))
    print(f"\n{table}\nThe results are in {folder.path}.")
    return folder.path


if __name__ == "__main__":
    main(compare, many=True, base=CONFIG, own=("vary", "spec"))
