"""The command line of the experiments: one-line errors, folders of results, dry runs."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags

from farsign_jax.cli import help, imports
from farsign_jax.config.checks import seeds_text
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import multi_host, panel, plan, tensorboard
from farsign_jax.harness import summary as summary_lib
from farsign_jax.harness.flags import (
    FLAGS,
    MULTI_HOST,
    SHARED,
    configure,
    is_short,
    refuse_others,
)
from farsign_jax.harness.threads import cores
from farsign_jax.io import cache, endings, files, provenance, run_folder
from farsign_jax.validation import check_platform, require


def folder_for(experiment: str, config: PanelConfig, **more: Any) -> run_folder.RunFolder:
    """The folder of --out, or one under results/ named by the configuration and by `more`."""
    described = {"experiment": experiment} | config.to_dict() | more
    name = f"{experiment}-{provenance.fingerprint(described)[:8]}"
    return run_folder.open_folder(FLAGS.out or pathlib.Path("results") / name, described)


def sweep_options() -> dict[str, Any]:
    """The flags that `panel.run` takes as options."""
    return {
        "checkpoint_every": FLAGS.checkpoint_every,
        "max_parallel_runs": FLAGS.max_parallel_runs,
    }


def perform(
    panels: Sequence[panel.Panel],
    folder: run_folder.RunFolder,
    notes: Sequence[str] = (),
    **options: Any,
) -> list[dict[str, Any]]:
    """Runs panels and returns their rows; with --dry_run prints the plan and exits.

    Args:
        panels: ready to run.
        folder: of the results.
        notes: sentences for the plan: what the command does beside its sweeps.
        **options: of `panel.run`.
    """
    if FLAGS.dry_run:
        planned = (each.planned(folder, FLAGS.max_parallel_runs) for each in panels)
        plan.print_plan(itertools.chain.from_iterable(planned), folder, notes)
        sys.exit(0)
    options = {"threads": is_short()} | options
    return panel.run(panels, folder, **sweep_options(), **options)


def run_panel(
    experiment: str,
    base: PanelConfig,
    notes: Sequence[str] = (),
    smoke: Mapping[str, Any] | None = None,
) -> tuple[PanelConfig, run_folder.RunFolder, list, list]:
    """Runs what the flags ask for, where `smoke` is the command's own part of that preset.

    Returns:
        The configuration, its folder, the rows and their summary.
    """
    config = configure(base, smoke)
    folder = folder_for(experiment, config)
    panels = [panel.ready(config, FLAGS.data_dir)]
    rows = perform(panels, folder, notes)
    multi_host.part()
    summary = summary_lib.summarise(rows)
    folder.write_rows(rows, summary)
    return config, folder, rows, summary


def one_device_per_core() -> None:
    """Makes JAX see one device per core, among which runs are divided.

    A core is fastest on work that it does alone. There are at most 16 devices, because each
    has a copy of the data; XLA_FLAGS may ask for another number.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # called from Python, after JAX was used
            jax.config.update("jax_num_cpu_devices", min(cores(), 16))


def _parse(argv: list[str], positional: bool = False) -> list[str]:
    try:
        rest = FLAGS(argv)
        if len(rest) > 1 and not positional:
            raise flags.Error(f"unexpected argument {rest[1]!r}: options start with --")
        return rest
    except flags.Error as error:
        endings.fail(help.plain(error), multi_host.leave)


def main(
    experiment: Callable[..., Any],
    many: bool = False,
    *,
    base: PanelConfig | None = None,
    own: Sequence[str] = (),
    reads: Sequence[str] | None = None,
    positional: bool = False,
    threads: bool = False,
) -> None:
    """Runs a command, which ends as `endings.in_one_line` says.

    Args:
        experiment: the command; the docstring of its module is the head of --help (`cli.help`).
            It returns the folder that it wrote, or None.
        many: whether it can divide its runs among processes. It then calls `multi_host.part`
            after the last run.
        base: the configuration that its flags change.
        own: the flags that only this command has.
        reads: the flags of `SHARED` that it reads; others are refused. None: all.
        positional: whether its positional arguments are passed to `experiment`.
        threads: whether it makes its own use of the cores (`threads.in_threads`), instead of
            dividing the runs of each sweep among them. If it `is_short`, it does.
    """
    continues = "interrupted: the same command continues from here"
    with endings.in_one_line(multi_host.leave, continues):
        if kind := help.asked(sys.argv[1:]):
            groups = {"": list(own)} | {
                head: [n for n in names if reads is None or n in reads]
                for head, names in SHARED.items()
            }
            groups["results"] += [*(MULTI_HOST if many else ()), imports.FLAG]
            defaults = {} if base is None else dataclasses.asdict(base)
            if base is not None:
                defaults["seeds"] = seeds_text(base.seeds)
            doc = sys.modules[experiment.__module__].__doc__ or ""
            shown = {head: names for head, names in groups.items() if names}
            print(help.text(kind, doc, FLAGS, shown, defaults))
            sys.exit(0)
        run = functools.partial(_run, experiment, many, base is not None, threads, reads)
        app.run(run, flags_parser=functools.partial(_parse, positional=positional))


def _run(
    experiment: Callable[..., Any],
    many: bool,
    sweeps: bool,
    threads: bool,
    reads: Sequence[str] | None,
    argv: list[str],
) -> None:
    """Checks the flags of all commands, runs one, and describes the folder that it wrote."""
    cache.keep_programs()
    imports.load(imports.asked(FLAGS))
    if reads is not None:
        refuse_others(*reads)
    multi_host.check(many)
    rule = "--dry_run is for one process: leave --processes out"
    require(FLAGS.processes == 1 or not FLAGS.dry_run, rule)
    if FLAGS.out is not None:
        files.check_writable(FLAGS.out)
    multi_host.join()
    if threads or is_short():  # on a CPU, each runs its own programs
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    elif sweeps:
        one_device_per_core()
    check_platform()
    if FLAGS.tensorboard:
        tensorboard.check()
    folder = experiment(*argv[1:])
    if folder is not None and FLAGS.tensorboard:
        tensorboard.write(folder)
    if folder is not None:
        run_folder.describe(folder)
