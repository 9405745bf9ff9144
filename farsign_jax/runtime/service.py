"""A run that is being served, whatever carries its messages: flags, folder, what is said of it.

config.json, arrivals.log, checkpoint.npz, strikes.json     what it goes on from (`store`)
results.csv, results.json                                   what was measured of x
"""

import asyncio
import contextlib
import json
import pathlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np
from absl import flags

from farsign_jax import aggregators
from farsign_jax.cli import commands
from farsign_jax.io import run_folder
from farsign_jax.methods import METHODS, hyper_of
from farsign_jax.runtime import metrics
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.setting import Setting
from farsign_jax.runtime.store import Store
from farsign_jax.validation import require

_WAITING = [name for name, method in METHODS.items() if not method.works_in_rounds]


class Driver(metrics.Watched, Protocol):
    """Carries messages between a core and its workers.

    Attributes:
        missing: how many more workers must answer before anybody is heard.
    """

    @property
    def missing(self) -> int: ...

    async def run(self) -> None:
        """Until the run is over."""
        ...

    async def stop(self) -> None:
        """Ends all conversations; what was accepted until now is what the run is."""
        ...


def define(values: flags.FlagValues) -> None:
    """The flags of a run, whoever serves it."""
    _define = commands.definer(values)
    _define("string", "out", None, "Folder of the run; the same command goes on there.")
    _define(
        "integer",
        "events",
        0,
        "Answers after which it ends; 0: when it is stopped.",
        lower_bound=0,
    )
    _define(
        "string",
        "method",
        "far_sign",
        f"One of {', '.join(_WAITING)}; options as in "
        "far_sign:arrival_rates=estimate,step_size=0.02.",
    )
    _define("integer", "workers", 8, "m.")
    _define("integer", "seed", 0, "Of everything random.")
    _define("string", "dataset", "mnist_subset", "As in the experiments; workers load it, too.")
    _define("string", "data_dir", None, "Where it lies on this machine.")
    _define("string", "model", "mlp", "As in the experiments.")
    _define("string", "partition", "iid", "Who holds which examples, as in the experiments.")
    _define("float", "heterogeneity", None, "Of the partition.")
    _define("integer", "batch_size", 64, "Examples per mini-batch.")
    _define("integer", "directions", 100, "k, directions per question.")
    _define("float", "delta", 1e-3, "Perturbation of two-point differences.")
    _define("float", "decay", 0.9, "Factor on step sizes every --decay_every answers.")
    _define("integer", "decay_every", 1000, "Answers between two decays.")
    _define(
        "integer", "strikes", 4, "So many messages that are no answers, and a worker is out."
    )
    _define(
        "integer", "staleness", None, "Older answers are asked for again. Default: none are."
    )
    _define(
        "integer",
        "history",
        16384,
        "Updates that a worker may be behind and still be told what changed, not all of x.",
    )
    _define("float", "checkpoint_every", 30.0, "Seconds between checkpoints.")
    _define("float", "eval_every", 5.0, "Seconds between two measurements of the test set.")
    _define("string", "metrics", None, "PORT, here, or HOST:PORT of Prometheus text.")


def setting_of(values: Any) -> Setting:
    """What the flags say of the run.

    Raises:
        InvalidConfig: where it cannot be.
    """
    name, _, rest = values.method.partition(":")
    told = aggregators.options_of(rest, values.method)
    known = hyper_of(name, "paper")
    hyper = known | {n: v for n, v in told.items() if n in known}
    for option, value in hyper.items():
        good = isinstance(value, int | float) and not isinstance(value, bool)
        require(good, f"{name} needs a number for {option}: got {value!r}")
    names = ("workers", "seed", "dataset", "model", "partition", "heterogeneity", "batch_size")
    names += ("directions", "delta", "decay", "decay_every")
    return Setting(
        method=name,
        options=tuple(sorted((n, v) for n, v in told.items() if n not in known)),
        hyper=tuple(sorted((n, float(v)) for n, v in hyper.items())),
        **{n: getattr(values, n) for n in names},
    )


def check_seconds(values: Any, *names: str) -> None:
    """Raises `InvalidConfig` where one of these flags is no time."""
    for name in names:
        value = getattr(values, name)
        require(0 < value < float("inf"), f"need --{name} > 0 seconds: got {value}")


class Serving:
    """Everything that is kept an eye on while a run is served.

    Args:
        values: the flags of `define`.
        limits: of the core.

    Raises:
        InvalidConfig: where flags, data or folder do not fit.
    """

    def __init__(self, values: Any, limits: Limits):
        check_seconds(values, "checkpoint_every", "eval_every")
        self._page = None
        if values.metrics is not None:
            told = values.metrics
            told = told if ":" in told else f"127.0.0.1:{told}"
            self._page = commands.address("--metrics", told)
        self.setting = setting = setting_of(values)
        out = values.out or f"results/serve-{setting.fingerprint[:8]}"
        self.folder = run_folder.open_folder(out, json.loads(setting.to_json()))
        self.problem, self.measure = setting.problem(values.data_dir)
        self.system = setting.system(self.problem)
        machine = setting.machine(self.problem)
        self.folder.claim()
        known = self.folder.path, setting.fingerprint, machine.shape, setting.workers
        self.store = Store(*known)
        if self.store.cut:
            print(f"cut {self.store.cut} bytes of a torn record off the log", file=sys.stderr)
        self.core = ServerCore(
            machine,
            limits,
            by_seed=setting.by_seed,
            log=self.store.append,
            struck=self.store.save_strikes,
            strikes=self.store.strikes,
            last=values.events or None,
        )
        self.heard_again = self.store.resume(self.core)
        self.values, self.rows = values, _rows(self.folder.path)
        self.measured: dict[str, float] = {}

    async def run(self, driver: Driver, start: Callable[[], Awaitable[str]]) -> None:
        """Until --events have been heard, or a signal says so.

        `start` lets workers in, and says where.
        """
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        where, page = await start(), None
        if self._page:
            page = await metrics.listen(driver, self.measured, *self._page)
        events = self.core.events
        how = f", goes on after {events}, {self.heard_again} from the log" if events else ""
        print(f"serving {where}{how}", flush=True)
        self._now = driver.now
        ends = (driver.run(), stop.wait(), self._look(driver), self._save())
        tasks = [asyncio.create_task(each) for each in ends]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # it failed
        finally:
            for task in tasks:
                task.cancel()
            await driver.stop()
            if page is not None:
                page.close()
            self.store.save(self.core)
            self.store.close()
        await self._record()
        self.folder.write_rows(self.rows)
        print(f"{self.core.events} answers heard; the run is in {self.folder.path}", flush=True)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(self.values.checkpoint_every)
            self.store.save(self.core)

    async def _look(self, driver: Driver) -> None:
        before, at = self.core.events, time.monotonic()
        while True:
            await self._record()
            await asyncio.sleep(self.values.eval_every)
            events, now = self.core.events, time.monotonic()
            rate, before, at = (events - before) / (now - at), events, now
            self.measured["rate"] = rate
            print(self.line(rate, driver.missing), flush=True)

    async def _record(self) -> None:
        """Measures x as it is now, beside the conversation."""
        events, x = self.core.snapshot()
        seconds, x = self._now(), np.array(x)
        if self.rows and self.rows[-1]["event"] == events:
            return
        measured = await asyncio.to_thread(self.measure, x)
        told = {name: float(value) for name, value in measured.items()}
        self.measured |= told
        setting = self.setting
        row = {"method": setting.method, "partition": setting.partition, "arrivals": "real"}
        row |= {"seed": setting.seed, "event": events, "seconds": seconds}
        row["evaluations"] = events * self.system.worker.evaluations
        self.rows.append(row | told)

    def line(self, rate: float, missing: int) -> str:
        """How far it is."""
        core = self.core
        if missing:
            return f"waiting for a first answer of {missing} more workers"
        latest = [tally.latest for i, tally in enumerate(core.tallies) if i in core.sessions]
        stale = f"{max(latest, default=0)}"
        struck = {i: int(n) for i, n in enumerate(core.strikes) if n}
        row = self.rows[-1] if self.rows else {}
        accuracy = "not measured"
        if "test_accuracy" in row:
            accuracy = f"{100 * row['test_accuracy']:.1f} % at {row['event']}"
        return (
            f"{core.events} answers, {rate:.0f}/s, accuracy {accuracy}, "
            f"staleness {stale}, {len(core.sessions)} of {len(core.tallies)} workers, "
            f"strikes {struck or 'none'}"
        )


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """What was measured before the server was started again."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads((path / "results.json").read_text())["rows"]
    return []
