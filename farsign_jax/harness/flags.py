"""The flags of the experiments: one for each setting of a panel, and those of all commands."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import flags

from farsign_jax.cli import imports, settings
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.validation import require

FLAGS = flags.FLAGS
SETTINGS = settings.names_of(PanelConfig)

settings.define(FLAGS, PanelConfig)
flags.DEFINE_string(
    "data_dir",
    None,
    "The folder that holds it. Prepared tensorflow-datasets, or IDX files.",
)
flags.DEFINE_string("out", None, "The folder of the results. The same command continues there.")
flags.DEFINE_integer("checkpoint_every", 1000, "Events between checkpoints.", lower_bound=1)
flags.DEFINE_integer(
    "max_parallel_runs",
    None,
    "Runs per device. How many advance side by side at most; by default as many as fit.",
    lower_bound=1,
)
flags.DEFINE_bool("dry_run", False, "Print what would run, and stop.")
flags.DEFINE_bool("tensorboard", False, "Write TensorBoard files.")
imports.define(FLAGS)

# What a command may read of these, as --help shows it.
RESULTS = ("out", "checkpoint_every", "max_parallel_runs", "dry_run", "tensorboard")
SHARED = {head: tuple(names) for head, names in SETTINGS.items()} | {"results": RESULTS}
SHARED["the problem"] = ("dataset", "data_dir", *SHARED["the problem"][1:])

MULTI_HOST = ("processes", "process", "coordinator")


def configure(base: PanelConfig, smoke: Mapping[str, Any] | None = None) -> PanelConfig:
    """`base`, then the preset, then every flag that was given.

    Args:
        base: the configuration of the command.
        smoke: settings of preset "smoke" that are the command's own.

    Raises:
        InvalidConfig: on what cannot run.
    """
    config = settings.configured(base, settings.given(FLAGS, PanelConfig))
    if not is_short() or not smoke:
        return config
    own = {name: value for name, value in smoke.items() if not FLAGS[name].present}
    return dataclasses.replace(config, **own)


def is_short() -> bool:
    """Whether runs are so short that compiling their programs takes most of the time."""
    return FLAGS.preset == "smoke"


def all_but(*names: str) -> tuple[str, ...]:
    """All flags of `SHARED` but these."""
    return tuple(name for group in SHARED.values() for name in group if name not in names)


BENCHMARKS = all_but("checkpoint_every", "max_parallel_runs", "dry_run", "tensorboard")


def refuse_others(*known: str) -> None:
    """Raises `InvalidConfig` on a flag of this file that the command does not read."""
    for name in all_but(*known):
        flag = FLAGS[name]
        given = flag.value is not None and not flag.using_default_value
        require(not given, f"this command takes no --{name}")
