"""The settings of a command: absl flags, and what becomes of them in a `Config`."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from farsign_jax import aggregators
from farsign_jax.aggregators.registry import AGGREGATORS
from farsign_jax.arrivals.delays import DELAYS
from farsign_jax.attacks.timing import TIMING_ATTACKS
from farsign_jax.config import dictionaries
from farsign_jax.config.panel_config import (
    PAPER_AGGREGATORS,
    PAPER_ATTACKS,
    PRESETS,
    PanelConfig,
    check,
    parse_seeds,
)
from farsign_jax.data.datasets import DATASETS
from farsign_jax.data.partitions import PARTITIONS
from farsign_jax.methods import METHODS
from farsign_jax.models.networks import MODELS
from farsign_jax.specs import parse
from farsign_jax.validation import lookup, require

FLAGS = flags.FLAGS


flags.DEFINE_string("out", None, "Folder of the results. The same command continues there.")


flags.DEFINE_string(
    "data_dir", None, "where it lies. Prepared tensorflow-datasets, or IDX files."
)


flags.DEFINE_string("preset", None, "settings by name, as in smoke. Other flags override it.")


flags.DEFINE_integer("checkpoint_every", 1000, "events apart.", lower_bound=1)


flags.DEFINE_integer(
    "max_parallel_runs",
    None,
    "runs side by side on a device. Default: what fits.",
    lower_bound=1,
)


flags.DEFINE_bool("dry_run", False, "only say what would run, and how long.")


flags.DEFINE_bool("tensorboard", False, "write event files, too.")


# Flags that set the field of the same name in `Config`.
flags.DEFINE_multi_string(
    "methods", None, f"servers and what they ask for. Names: {', '.join(METHODS)}."
)


flags.DEFINE_multi_string(
    "aggregators",
    None,
    f"rules, if it takes one. Names: {', '.join(AGGREGATORS)}. A bare name has the "
    "numbers of Table 3; options as in krum:f=3, stages as in nnm:f=3+median.",
)


flags.DEFINE_integer("buffers", None, "how many buffers, if any.")


flags.DEFINE_multi_string(
    "attacks",
    None,
    "what liars say. A bare name has the magnitude of the paper's Table 3; options as in "
    "alie:z=0.5,ddof=1; `alie:` has the defaults of farsign_jax.attacks.",
)


flags.DEFINE_string("seeds", None, "how many, as in 5, or which, as in 0,3,7.")


flags.DEFINE_string("dataset", None, f"its name. One of {', '.join(DATASETS)}.")


flags.DEFINE_string("model", None, f"{', '.join(MODELS)}, or as in mlp:hidden=256x128.")


flags.DEFINE_string(
    "partition", None, f"who holds which examples. One of {', '.join(PARTITIONS)}."
)


flags.DEFINE_float(
    "heterogeneity", None, "how unevenly. Dirichlet concentration, or labels per worker."
)


flags.DEFINE_integer("workers", None, "m workers.")


flags.DEFINE_integer("byzantine", None, "q of them lie.")


flags.DEFINE_integer("batch_size", None, "b, examples of a mini-batch.")


flags.DEFINE_integer("directions", None, "k of a question.")


flags.DEFINE_float("delta", None, "perturbation.")


flags.DEFINE_float("step_size", None, "for all. Their own, if it is not given.")


flags.DEFINE_float(
    "decay", None, "times. All step sizes shrink by it; brsgd has a power instead."
)


flags.DEFINE_integer("decay_every", None, "every so many events.")


flags.DEFINE_integer("events", None, "T, answers heard in a run.")


flags.DEFINE_integer("eval_every", None, "events between records.")


flags.DEFINE_string(
    "delivery",
    None,
    "fresh, outstanding, or outstanding:L, L questions open. Rounds are always fresh.",
)


flags.DEFINE_string(
    "arrivals",
    None,
    f"who comes when, as in pareto:shape=1.5,spread=4. uniform, weighted, "
    f"{', '.join(DELAYS)} (spread: the fastest worker is so many times as fast as the "
    "slowest; fast: so many are, the first ones, and all others slow), or trace:path=FILE.",
)


flags.DEFINE_string(
    "timing_attack",
    None,
    f"what they do with time. none, {', '.join(TIMING_ATTACKS)}, as in flood:rate=10.",
)


flags.DEFINE_string(
    "byzantine_placement",
    None,
    "who lies. first, one_buffer (in as few buffers as possible) or rotating (others at every "
    "event).",
)


flags.DEFINE_string(
    "rounds",
    None,
    "whom sgd and the like wait for, as in fastest:wait=20. barrier, fastest:wait=20 or "
    "partial:participation=0.4.",
)


flags.DEFINE_float("validation", None, "share of the training set to measure on.")


# What a command may read of these, as --help shows it.
SHARED = {
    "what is compared": ("methods", "aggregators", "buffers", "attacks", "seeds", "preset"),
    "the problem": ("dataset", "data_dir", "model", "partition", "heterogeneity", "validation")
    + ("workers", "byzantine", "byzantine_placement", "timing_attack"),
    "answers and steps": ("batch_size", "directions", "delta", "step_size", "decay")
    + ("decay_every", "arrivals", "delivery", "rounds", "events", "eval_every"),
    "results": ("out", "checkpoint_every", "max_parallel_runs", "dry_run", "tensorboard"),
}


HOSTS = ("processes", "process", "coordinator")


def split(texts: Sequence[str], name: str = "") -> tuple[str, ...]:
    """`none,alie:z=1.5,ddof=1,sign_flip` as three names: option=value belongs to the last.

    With the `name` of their flag, a text may be ByzFL's dictionaries (`dictionaries`) instead.
    """
    found: list[str] = []
    for text in texts:
        if name and text.lstrip()[:1] in ("{", "["):
            found += dictionaries.listed(name, text)
            continue
        rule = f"names and dictionaries each have a --{name} of their own: got {text}"
        require(not name or "{" not in text, rule)
        text = re.sub(r"\s*([+:=])\s*", r"\1", text)  # a + b is one name
        names: list[str] = []
        for item in re.split(r"[,\s]+", text):
            if "=" in item and ":" not in item and names:
                names[-1] += f",{item}"
            elif item:
                names.append(item)
        found += names
    return tuple(found)


# A bare name means what the paper's Table 3 means by it.
USUAL = {"attacks": PAPER_ATTACKS, "aggregators": PAPER_AGGREGATORS, "methods": ()}


def configure(base: PanelConfig) -> PanelConfig:
    """`base`, then the preset, then every flag that was given."""
    if FLAGS.preset is not None:
        base = dataclasses.replace(base, **lookup("preset", FLAGS.preset, PRESETS).settings)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(PanelConfig):
        value = getattr(FLAGS, field.name, None) if field.name != "preset" else None
        if value is None:
            continue
        if field.name == "seeds":
            value = parse_seeds(value)
        elif field.name in USUAL:
            usual = {text.partition(":")[0]: text for text in USUAL[field.name]}
            names = split(value, field.name)
            if field.name == "aggregators":  # Krum is krum
                names = [n if n[-1:] == ":" else aggregators.canonical(n) for n in names]
            value = tuple(usual.get(name, name) for name in names)
        elif field.name == "partition":
            value, options = parse(value)
            rule = "partitions take a heterogeneity, as in dirichlet:heterogeneity=0.3: "
            rule += f"got {FLAGS.partition!r}"
            for option, heterogeneity in options:
                require(
                    option == "heterogeneity" and isinstance(heterogeneity, int | float), rule
                )
                rule = f"--heterogeneity={FLAGS.heterogeneity} and "
                rule += f"--partition={FLAGS.partition} name one each"
                require(FLAGS.heterogeneity is None, rule)
                given["heterogeneity"] = float(heterogeneity)
        given[field.name] = value
    config = dataclasses.replace(base, **given)
    check(config)
    return config


def all_but(*names: str) -> tuple[str, ...]:
    """What there is in `SHARED`, less these."""
    return tuple(name for group in SHARED.values() for name in group if name not in names)


BENCHMARKS = all_but("checkpoint_every", "max_parallel_runs", "dry_run", "tensorboard")


def refuse_others(*known: str) -> None:
    """Raises `InvalidConfig` on a flag of this file that the command does not read."""
    for flag in FLAGS.flags_by_module_dict()[__name__]:
        given = flag.value is not None and not flag.using_default_value
        require(not given or flag.name in known, f"this command takes no --{flag.name}")
