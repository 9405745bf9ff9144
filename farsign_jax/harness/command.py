"""The command line of the experiments: absl flags, one-line errors, where results go."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags

from farsign_jax.cli import help
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import multi_host, panel, plan, tensorboard
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.flags import (
    BENCHMARKS,
    FLAGS,
    HOSTS,
    SHARED,
    all_but,
    configure,
    refuse_others,
    split,
)
from farsign_jax.io import cache, files, provenance, run_folder
from farsign_jax.validation import DataError, InvalidConfig, require

__all__ = [
    "BENCHMARKS",
    "FLAGS",
    "all_but",
    "configure",
    "folder_for",
    "main",
    "perform",
    "refuse_others",
    "run_panel",
    "split",
    "sweep_options",
]


def folder_for(experiment: str, config: PanelConfig, **more: Any) -> run_folder.RunFolder:
    """--out, or a folder under results/ named by the configuration, and by `more` of it."""
    described = {"experiment": experiment} | provenance.plain(config) | more
    name = f"{experiment}-{provenance.fingerprint(described)[:8]}"
    return run_folder.open_folder(FLAGS.out or pathlib.Path("results") / name, described)


def sweep_options() -> dict[str, Any]:
    return {
        "checkpoint_every": FLAGS.checkpoint_every,
        "max_parallel_runs": FLAGS.max_parallel_runs,
    }


def perform(
    panels: Sequence[panel.Panel],
    folder: run_folder.RunFolder,
    beside: Sequence[plan.Beside] = (),
) -> list[dict[str, Any]]:
    """Runs panels to their rows; with --dry_run, only tells of them, and ends the command."""
    if FLAGS.dry_run:
        planned = (each.planned(folder, FLAGS.max_parallel_runs) for each in panels)
        plan.tell(itertools.chain.from_iterable(planned), folder, beside)
        sys.exit(0)
    return panel.run(panels, folder, **sweep_options())


def run_panel(
    experiment: str,
    base: PanelConfig,
    beside: Callable[[PanelConfig], Sequence[plan.Beside]] = lambda _: (),
) -> tuple[PanelConfig, run_folder.RunFolder, list, list]:
    """Runs what the flags ask for: the configuration, its folder, the rows, their summary.

    `beside`: what --dry_run says of what the command does with them.
    """
    config = configure(base)
    folder = folder_for(experiment, config)
    panels = [panel.ready(config, FLAGS.data_dir)]
    rows = perform(panels, folder, beside(config) if FLAGS.dry_run else ())
    multi_host.part()
    summary = summary_lib.summarise(rows)
    folder.write_rows(rows, summary)
    return config, folder, rows, summary


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
        _fail(help.plain(error))


def _fail(error: Any) -> NoReturn:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    multi_host.leave(2)


def main(
    experiment: Callable[..., Any],
    many: bool = False,
    *,
    base: PanelConfig | None = None,
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
    if kind := help.asked(sys.argv[1:]):
        defaults = {} if base is None else dataclasses.asdict(base)
        doc = sys.modules[experiment.__module__].__doc__ or ""
        groups = {head: names for head, names in known.items() if names}
        print(help.text(kind, doc, FLAGS, groups, defaults))
        sys.exit(0)

    def guarded(argv):
        cache.keep_programs()
        try:
            if reads is not None:
                refuse_others(*reads)
            multi_host.check(many)
            rule = "--dry_run is for one process: leave --processes out"
            require(FLAGS.processes == 1 or not FLAGS.dry_run, rule)
            if FLAGS.out is not None:
                files.check_writable(FLAGS.out)
            multi_host.join()
            if many:
                one_device_per_core()
            if FLAGS.tensorboard:
                tensorboard.check()
            where = experiment(*argv[1:])
            if where is not None and FLAGS.tensorboard:
                tensorboard.write(where)
            if where is not None:
                run_folder.describe(where)
        except (InvalidConfig, DataError) as error:
            _fail(error)
        except BrokenPipeError:  # nobody reads on, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            multi_host.leave(1)
        except OSError as error:
            if error.errno not in files.DENIED:
                raise
            _fail(f"{error.filename or 'a file'}: {error.strerror}")
        except KeyboardInterrupt:
            print("\ninterrupted: the same command continues from here", file=sys.stderr)
            multi_host.leave(130)
        except Exception:
            if FLAGS.processes == 1:
                raise
            traceback.print_exc()
            multi_host.leave(1)

    app.run(guarded, flags_parser=functools.partial(_parse, words=words))
