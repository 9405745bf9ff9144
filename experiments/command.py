"""The command line of the experiments: absl flags, one-line errors, where results go."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags

from experiments import event_files, figures, hosts, panel, plan
from experiments.config import (
    PAPER_AGGREGATORS,
    PAPER_ATTACKS,
    PRESETS,
    Config,
    check,
    parse,
    parse_seeds,
)
from farsign_jax import aggregators, results, usage
from farsign_jax.aggregators import AGGREGATORS
from farsign_jax.base import InvalidConfig, lookup, require
from farsign_jax.datasets import DATASETS, DataError
from farsign_jax.methods import METHODS
from farsign_jax.models import MODELS
from farsign_jax.partitions import PARTITIONS
from farsign_jax.services import SERVICES, TIMINGS

FLAGS = flags.FLAGS

flags.DEFINE_string("out", None, "Folder of the results. The same command continues there.")
flags.DEFINE_string(
    "data_dir", None, "where it lies. Prepared tensorflow-datasets, or IDX files."
)
flags.DEFINE_string("preset", None, "settings by name, as in smoke. Other flags override it.")
flags.DEFINE_integer("checkpoint_every", 1000, "events apart.", lower_bound=1)
flags.DEFINE_integer(
    "max_lanes", None, "runs side by side on a device. Default: what fits.", lower_bound=1
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
flags.DEFINE_float("skew", None, "how unevenly. Dirichlet concentration, or labels per worker.")
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
    f"{', '.join(SERVICES)} (spread: the fastest worker is so many times as fast as the "
    "slowest; fast: so many are, the first ones, and all others slow), or trace:path=FILE.",
)
flags.DEFINE_string(
    "timing", None, f"what they do with time. none, {', '.join(TIMINGS)}, as in flood:rate=10."
)
flags.DEFINE_string(
    "liars",
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
    "the problem": ("dataset", "data_dir", "model", "partition", "skew", "validation")
    + ("workers", "byzantine", "liars", "timing"),
    "answers and steps": ("batch_size", "directions", "delta", "step_size", "decay")
    + ("decay_every", "arrivals", "delivery", "rounds", "events", "eval_every"),
    "results": ("out", "checkpoint_every", "max_lanes", "dry_run", "tensorboard"),
}
HOSTS = ("processes", "process", "coordinator")


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
        base = dataclasses.replace(base, **lookup("preset", FLAGS.preset, PRESETS).settings)
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


def all_but(*names: str) -> tuple[str, ...]:
    """What there is in `SHARED`, less these."""
    return tuple(name for group in SHARED.values() for name in group if name not in names)


BENCHMARKS = all_but("checkpoint_every", "max_lanes", "dry_run", "tensorboard")


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


def perform(
    panels: Sequence[panel.Panel], folder: results.Folder, beside: Sequence[plan.Beside] = ()
) -> list[dict[str, Any]]:
    """Runs panels to their rows; with --dry_run, only tells of them, and ends the command."""
    if FLAGS.dry_run:
        planned = (each.planned(folder, FLAGS.max_lanes) for each in panels)
        plan.tell(itertools.chain.from_iterable(planned), folder, beside)
        sys.exit(0)
    return panel.run(panels, folder, **sweep_options())


def run_panel(
    experiment: str,
    base: Config,
    beside: Callable[[Config], Sequence[plan.Beside]] = lambda _: (),
) -> tuple[Config, results.Folder, list, list]:
    """Runs what the flags ask for: the configuration, its folder, the rows, their summary.

    `beside`: what --dry_run says of what the command does with them.
    """
    config = configure(base)
    folder = folder_for(experiment, config)
    panels = [panel.ready(config, FLAGS.data_dir)]
    rows = perform(panels, folder, beside(config) if FLAGS.dry_run else ())
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


def _parse(argv: list[str], words: bool = False) -> list[str]:
    try:
        rest = FLAGS(argv)
        if len(rest) > 1 and not words:
            raise flags.Error(f"unexpected argument {rest[1]!r}: options start with --")
        return rest
    except flags.Error as error:
        _fail(error)


def _fail(error: Any) -> NoReturn:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    hosts.leave(2)


def main(
    experiment: Callable[..., Any],
    many: bool = False,
    *,
    base: Config | None = None,
    own: Sequence[str] = (),
    reads: Sequence[str] | None = None,
    words: bool = False,
) -> None:
    """Runs a command: bad input ends in one line and exit code 2, Ctrl-C in 130.

    Args:
        experiment: the command; its module's docstring is the head of --help (`usage`). Returns
            the folder that it wrote, if it did.
        many: can it share its runs with other processes? It then calls `hosts.part` after the
            last one.
        base: the configuration that its flags change.
        own: flags that only this command has.
        reads: those of `SHARED` that it reads; others are refused. None: all.
        words: is it called with the words that are no flags?
    """
    known = {
        head: [n for n in each if reads is None or n in reads] for head, each in SHARED.items()
    }
    known = {"": list(own)} | known
    known["results"] += HOSTS if many else ()
    if kind := usage.asked(sys.argv[1:]):
        defaults = {} if base is None else dataclasses.asdict(base)
        doc = sys.modules[experiment.__module__].__doc__ or ""
        groups = {head: names for head, names in known.items() if names}
        print(usage.text(kind, doc, FLAGS, groups, defaults))
        sys.exit(0)

    def guarded(argv):
        _cache_compilations()
        logging.getLogger("jax").setLevel(logging.WARNING)  # it reports missing TPUs
        try:
            if reads is not None:
                refuse_others(*reads)
            hosts.check(many)
            rule = "--dry_run is for one process: leave --processes out"
            require(FLAGS.processes == 1 or not FLAGS.dry_run, rule)
            if FLAGS.out is not None:
                results.check_writable(FLAGS.out)
            hosts.join()
            if many:
                one_device_per_core()
            if FLAGS.tensorboard:
                event_files.check()
            where = experiment(*argv[1:])
            if where is not None and FLAGS.tensorboard:
                event_files.write(where)
            if where is not None:
                results.describe(where)
        except (InvalidConfig, DataError) as error:
            _fail(error)
        except BrokenPipeError:  # nobody reads on, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            hosts.leave(1)
        except OSError as error:
            if error.errno not in results.DENIED:
                raise
            _fail(f"{error.filename or 'a file'}: {error.strerror}")
        except KeyboardInterrupt:
            print("\ninterrupted: the same command continues from here", file=sys.stderr)
            hosts.leave(130)
        except Exception:
            if FLAGS.processes == 1:
                raise
            traceback.print_exc()
            hosts.leave(1)

    app.run(guarded, flags_parser=functools.partial(_parse, words=words))
