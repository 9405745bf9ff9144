"""The command line of the experiments: absl flags, one-line errors, where results go."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from absl import app, flags

from experiments import figures, hosts, panel
from experiments.config import (
    PAPER_AGGREGATORS,
    PAPER_ATTACKS,
    PRESETS,
    Config,
    check,
    parse,
    parse_seeds,
)
from farsign_jax import aggregators, results
from farsign_jax.aggregators import AGGREGATORS
from farsign_jax.base import InvalidConfig, lookup, require
from farsign_jax.datasets import DATASETS, DataError
from farsign_jax.methods import METHODS
from farsign_jax.models import MODELS
from farsign_jax.partitions import PARTITIONS
from farsign_jax.services import SERVICES, TIMINGS

FLAGS = flags.FLAGS

flags.DEFINE_string("out", None, "Folder of the results; the same command continues there.")
flags.DEFINE_string("data_dir", None, "Prepared tensorflow-datasets, or IDX files.")
flags.DEFINE_string("preset", None, f"One of {', '.join(PRESETS)}; flags override it.")
flags.DEFINE_integer("checkpoint_every", 1000, "Events between checkpoints.", lower_bound=1)
flags.DEFINE_integer(
    "max_lanes", None, "Runs side by side on a device (default: what fits).", lower_bound=1
)

# Flags that set the field of the same name in `Config`.
flags.DEFINE_multi_string("methods", None, f"Of {', '.join(METHODS)}.")
flags.DEFINE_multi_string(
    "aggregators",
    None,
    f"Of {', '.join(AGGREGATORS)}, for the methods that take one. A bare name has the numbers "
    "of Table 3; options as in krum:f=3, stages as in nnm:f=3+median.",
)
flags.DEFINE_integer("buffers", None, "B, of the methods that have buffers.")
flags.DEFINE_multi_string(
    "attacks",
    None,
    "Separated by commas. A bare name has the magnitude of the paper's Table 3; options as "
    "in alie:z=0.5,ddof=1; `alie:` has the defaults of farsign_jax.attacks",
)
flags.DEFINE_string("seeds", None, "How many (5), or which (0,3,7).")
flags.DEFINE_string("dataset", None, f"One of {', '.join(DATASETS)}.")
flags.DEFINE_string("model", None, f"One of {', '.join(MODELS)}; or mlp:hidden=256x128.")
flags.DEFINE_string("partition", None, f"One of {', '.join(PARTITIONS)}.")
flags.DEFINE_float("skew", None, "Dirichlet concentration, or labels per worker.")
flags.DEFINE_integer("workers", None, "m.")
flags.DEFINE_integer("byzantine", None, "q, how many of them lie.")
flags.DEFINE_integer("batch_size", None, "Examples per mini-batch.")
flags.DEFINE_integer("directions", None, "k, directions per question.")
flags.DEFINE_float("delta", None, "Perturbation of two-point differences.")
flags.DEFINE_float("step_size", None, "First step size, for all methods.")
flags.DEFINE_float(
    "decay",
    None,
    "Factor on step sizes every --decay_every events (brsgd has a power instead).",
)
flags.DEFINE_integer("decay_every", None, "Events between two decays.")
flags.DEFINE_integer("events", None, "T, answers heard in a run.")
flags.DEFINE_integer("eval_every", None, "Events between two records.")
flags.DEFINE_string(
    "delivery",
    None,
    "fresh, outstanding, or outstanding:L (L questions open); rounds are always fresh.",
)
flags.DEFINE_string(
    "arrivals",
    None,
    f"uniform, weighted, {', '.join(SERVICES)}, with options as in pareto:shape=1.5,spread=4 "
    "(spread: the fastest worker is so many times as fast as the slowest; fast: so many are, "
    "the first ones, and all others slow), or trace:path=FILE.",
)
flags.DEFINE_string(
    "timing", None, f"What liars do with time: none, {', '.join(TIMINGS)}, as in flood:rate=10."
)
flags.DEFINE_string(
    "liars",
    None,
    "first, one_buffer (in as few buffers as possible) or rotating (others at every event).",
)
flags.DEFINE_string(
    "rounds",
    None,
    "barrier, fastest:wait=20 or partial:participation=0.4, of sgd and the like.",
)
flags.DEFINE_float("validation", None, "Share of the training set to measure on instead.")


def split(texts: list[str]) -> tuple[str, ...]:
    """`none,alie:z=1.5,ddof=1,sign_flip` as three names: option=value belongs to the last."""
    found: list[str] = []
    text = re.sub(r"\s*([+:=])\s*", r"\1", ",".join(texts))  # a + b is one name
    for item in re.split(r"[,\s]+", text):
        if "=" in item and ":" not in item and found:
            found[-1] += f",{item}"
        elif item:
            found.append(item)
    return tuple(found)


# A bare name means what the paper's Table 3 means by it.
USUAL = {"attacks": PAPER_ATTACKS, "aggregators": PAPER_AGGREGATORS, "methods": ()}


def configure(base: Config) -> Config:
    """`base`, then the preset, then every flag that was given."""
    if FLAGS.preset is not None:
        base = dataclasses.replace(base, **lookup("preset", FLAGS.preset, PRESETS))
    given: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        value = getattr(FLAGS, field.name, None) if field.name != "preset" else None
        if value is None:
            continue
        if field.name == "seeds":
            value = parse_seeds(value)
        elif field.name in USUAL:
            usual = {text.partition(":")[0]: text for text in USUAL[field.name]}
            names = split(value)
            if field.name == "aggregators":  # Krum is krum
                names = [n if n[-1:] == ":" else aggregators.canonical(n) for n in names]
            value = tuple(usual.get(name, name) for name in names)
        elif field.name == "partition":
            value, options = parse(value)
            rule = f"partitions take a skew, as in dirichlet:skew=0.3: got {FLAGS.partition!r}"
            for option, skew in options:
                require(option == "skew" and isinstance(skew, int | float), rule)
                rule = f"--skew={FLAGS.skew} and --partition={FLAGS.partition} name one each"
                require(FLAGS.skew is None, rule)
                given["skew"] = float(skew)
        given[field.name] = value
    config = dataclasses.replace(base, **given)
    check(config)
    return config


def refuse_others(*known: str) -> None:
    """Raises `InvalidConfig` on a flag of this file that the command does not read."""
    for flag in FLAGS.flags_by_module_dict()[__name__]:
        given = flag.value is not None and not flag.using_default_value
        require(not given or flag.name in known, f"this command takes no --{flag.name}")


def folder_for(experiment: str, config: Config, **more: Any) -> results.Folder:
    """--out, or a folder under results/ named by the configuration, and by `more` of it."""
    described = {"experiment": experiment} | results.plain(config) | more
    name = f"{experiment}-{results.fingerprint(described)[:8]}"
    return results.Folder(FLAGS.out or pathlib.Path("results") / name, described)


def sweep_options() -> dict[str, Any]:
    return {"checkpoint_every": FLAGS.checkpoint_every, "max_lanes": FLAGS.max_lanes}


def run_panel(experiment: str, base: Config) -> tuple[Config, results.Folder, list, list]:
    """Runs what the flags ask for: the configuration, its folder, the rows, their summary."""
    config = configure(base)
    folder = folder_for(experiment, config)
    rows = panel.run([panel.ready(config, FLAGS.data_dir)], folder, **sweep_options())
    hosts.part()
    summary = figures.summarise(rows)
    folder.write_rows(rows, summary)
    return config, folder, rows, summary


def _cache_compilations() -> None:
    """Programs compiled once are read back by the next command."""
    home = os.environ.get("FARSIGN_CACHE") or "~/.cache/farsign_jax"
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(f"{home}/xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def one_device_per_core() -> None:
    """Runs are shared out among devices, and what a core does alone, it does best.

    Up to 16, as each has a copy of the data; as many as XLA_FLAGS says, if it does.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # called from Python, after JAX has begun
            jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 16))


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}: options start with --")
        return rest
    except flags.Error as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    hosts.leave(2)


def main(experiment: Callable[[], Any], many: bool = False) -> None:
    """Runs a command: bad input ends in one line and exit code 2, Ctrl-C in 130.

    `many`: the command can share its runs with other processes, and calls `hosts.part` after
    the last one.
    """
    for module, defined in FLAGS.flags_by_module_dict().items():  # for --help
        for flag in defined if module.startswith(("experiments.", "benchmarks.")) else ():
            FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def guarded(_):
        _cache_compilations()
        logging.getLogger("jax").setLevel(logging.WARNING)  # it reports missing TPUs
        try:
            hosts.check(many)
            hosts.join()
            if many:
                one_device_per_core()
            experiment()
        except (InvalidConfig, DataError) as error:
            _fail(error)
        except KeyboardInterrupt:
            print("\ninterrupted: the same command continues from here", file=sys.stderr)
            hosts.leave(130)
        except Exception:
            if FLAGS.processes == 1:
                raise
            traceback.print_exc()
            hosts.leave(1)

    if any(argument.lstrip("-").startswith("help") for argument in sys.argv[1:2]):
        with contextlib.suppress(SystemExit):  # absl leaves with 1
            app.run(guarded, flags_parser=_parse)
        sys.exit(0)
    app.run(guarded, flags_parser=_parse)
