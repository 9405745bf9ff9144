"""What every server does besides the conversation: flags, files, measurements and progress.

The folder of a run contains `config.json`, `arrivals.log`, `checkpoint.npz` and `strikes.json`
(see `store`), from which a server resumes, and `results.csv` and `results.json` with what was
measured of x.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np
from absl import flags

from farsign_jax.cli import commands, imports, settings
from farsign_jax.config.run_config import RunConfig
from farsign_jax.io import run_folder
from farsign_jax.runtime import metrics, run_config
from farsign_jax.runtime.core import ServerCore
from farsign_jax.runtime.journal import Arrival, NotRecorded
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.notices import Notice
from farsign_jax.runtime.rows import ServedRows
from farsign_jax.runtime.store import Store
from farsign_jax.validation import require


class Driver(metrics.MonitoredServer, Protocol):
    """Carries the messages between a core and its workers.

    Attributes:
        missing: number of workers that must still answer before any answer is processed.
    """

    @property
    def missing(self) -> int: ...

    async def run(self) -> None:
        """Returns when the run is over."""
        ...

    async def stop(self) -> None:
        """Closes all sessions; the answers accepted so far are the result of the run."""
        ...


def define(values: flags.FlagValues) -> None:
    """Defines the flags of a run that are common to all servers."""
    _define = commands.definer(values)
    _define(
        "string",
        "out",
        None,
        "Folder of the run. The same command with the same folder resumes the run.",
    )
    _define(
        "integer",
        "events",
        0,
        "Answers until the run ends. With 0, it runs until it is stopped.",
        lower_bound=0,
    )
    settings.define(values, RunConfig, run_config.SERVED, run_config.BASE)
    imports.define(values)
    _define("string", "data_dir", None, "The folder that holds it.")
    _define(
        "integer",
        "strikes",
        4,
        "Number of invalid messages after which a worker is excluded.",
    )
    _define(
        "integer",
        "staleness",
        None,
        "Largest staleness of an accepted answer, in updates. The question of an older answer "
        "is asked again. By default, every answer is accepted.",
    )
    _define(
        "integer",
        "history",
        16384,
        "Updates whose changes of x are remembered. A worker that is further behind receives "
        "all of x.",
    )
    _define("float", "checkpoint_every", 30.0, "Seconds between two checkpoints.")
    _define("float", "eval_every", 5.0, "Seconds between evaluations on the test set.")
    _define(
        "string",
        "metrics",
        None,
        "PORT or HOST:PORT at which Prometheus metrics are served. The default host is "
        "127.0.0.1.",
    )


def config_of(values: flags.FlagValues) -> RunConfig:
    """Returns the configuration that the flags describe.

    Raises:
        InvalidConfig: if it cannot run, or cannot be served.
    """
    given = {name: getattr(values, name) for name in run_config.SERVED}
    given = {name: value for name, value in given.items() if value is not None}
    config = settings.configured(run_config.BASE, given)
    run_config.check(config)
    return config


def check_seconds(values: Any, *names: str) -> None:
    """Raises `InvalidConfig` unless these flags are positive numbers of seconds."""
    for name in names:
        value = getattr(values, name)
        require(0 < value < float("inf"), f"need --{name} > 0 seconds: got {value}")


class ServedRun:
    """A run that is being served: its core, its files and its measurements.

    Args:
        values: the flags of `define`.
        limits: limits on each worker.

    Attributes:
        measured: the most recent measurements, by name.

    Raises:
        InvalidConfig: if the flags, the data or the folder are invalid.
    """

    def __init__(self, values: Any, limits: Limits):
        check_seconds(values, "checkpoint_every", "eval_every")
        self._metrics_address = None
        if values.metrics is not None:
            text = values.metrics if ":" in values.metrics else f"127.0.0.1:{values.metrics}"
            self._metrics_address = commands.address("--metrics", text)
        self.config = config = config_of(values)
        self.fingerprint = run_config.fingerprint(config)
        out = values.out or f"results/serve-{self.fingerprint[:8]}"
        self.folder = run_folder.open_folder(out, run_config.to_dict(config))
        self.measure: Any  # takes a NumPy array here, which stays off the device
        self.problem, self.measure = config.problem(values.data_dir)
        self.system = config.system(self.problem)
        machine = run_config.machine(config, self.problem)
        self.folder.claim()
        known = self.folder.path, self.fingerprint, machine.shape, config.workers
        self.store = Store(*known)
        if set_aside := self.store.set_aside:
            text = f"moved an incomplete last record of the journal to {set_aside}"
            print(text, file=sys.stderr)
        self.core = ServerCore(
            machine,
            limits,
            by_seed=run_config.draws_by_seed(config),
            log=self._record,
            on_strike=self._save_strikes,
            strikes=self.store.strikes,
            last=values.events or None,
        )
        self.resumed = self.store.resume(self.core)
        self.values, self.rows = values, ServedRows(self.folder.path)
        self.measured: dict[str, float] = {}
        self._notices = {
            "answers": Notice("answers", "workers wait"),
            "checkpoints": Notice("checkpoints", "the next one is tried in time"),
            "strikes": Notice("strikes", "they are kept in memory"),
            "measurements": Notice("measurements", "they are left out of results.csv"),
        }

    def _record(self, arrival: Arrival) -> None:
        with self._notices["answers"].watching(NotRecorded):
            self.store.append(arrival)

    def _save_strikes(self, strikes: np.ndarray) -> None:
        with self._notices["strikes"].tolerating():
            self.store.save_strikes(strikes)

    async def run(self, driver: Driver, start: Callable[[], Awaitable[str]]) -> None:
        """Serves the run until --events answers have been applied, or until a signal.

        Args:
            driver: carries the messages.
            start: admits workers from now on and returns where they can join.
        """
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        where, page = await start(), None
        if self._metrics_address:
            page = await metrics.listen(driver, self.measured, *self._metrics_address)
        events = self.core.events
        resumed = f", resumes after {events} answers, {self.resumed} of them from the journal"
        print(f"serving {where}{resumed if events else ''}", flush=True)
        self._now = driver.now
        ends = (driver.run(), stop.wait(), self._report(driver), self._save())
        tasks = [asyncio.create_task(each) for each in ends]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # raises if the task has failed
        finally:
            for task in tasks:
                task.cancel()
            await driver.stop()
            if page is not None:
                page.close()
            try:
                self.store.save(self.core)
            finally:
                self.store.close()
        await self._evaluate()
        self.folder.write_rows(self.rows.rows)
        text = f"{self.core.events} answers were applied; the run is in {self.folder.path}"
        print(text, flush=True)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(self.values.checkpoint_every)
            with self._notices["checkpoints"].tolerating():
                self.store.save(self.core)

    async def _report(self, driver: Driver) -> None:
        """Evaluates x and prints the progress, every --eval_every seconds."""
        before, then = self.core.events, time.monotonic()
        while True:
            await self._evaluate()
            await asyncio.sleep(self.values.eval_every)
            events, now = self.core.events, time.monotonic()
            rate, before, then = (events - before) / (now - then), events, now
            self.measured["answers_per_second"] = rate
            print(self.progress(rate, driver.missing), flush=True)

    async def _evaluate(self) -> None:
        """Measures the current x, in a thread beside the conversation, and appends a row."""
        events, x = self.core.snapshot()
        seconds, x = self._now(), np.array(x)
        rows = self.rows.rows
        if rows and rows[-1]["event"] == events:
            return
        measured = await asyncio.to_thread(self.measure, x)
        measured = {name: float(value) for name, value in measured.items()}
        self.measured |= measured
        config = self.config
        row = {"method": config.method, "partition": config.partition, "arrivals": "real"}
        row |= {"seed": config.seed, "event": events, "seconds": seconds}
        row["evaluations"] = events * self.system.worker.evaluations
        with self._notices["measurements"].tolerating():
            self.rows.append(row | measured)

    def progress(self, rate: float, missing: int) -> str:
        """Returns one line about the progress of the run.

        Args:
            rate: answers per second.
            missing: number of workers that must still answer before the run begins.
        """
        core = self.core
        if missing:
            return f"waiting for the first answers of {missing} more workers"
        latest = [w.latest for i, w in enumerate(core.statistics) if i in core.sessions]
        strikes = {i: int(n) for i, n in enumerate(core.strikes) if n}
        row = self.rows.rows[-1] if self.rows.rows else {}
        accuracy = "not measured"
        if "test_accuracy" in row:
            accuracy = f"{100 * row['test_accuracy']:.1f} % after {row['event']}"
        return (
            f"{core.events} answers, {rate:.0f}/s, accuracy {accuracy}, "
            f"staleness {max(latest, default=0)}, "
            f"{len(core.sessions)} of {len(core.statistics)} workers, "
            f"strikes {strikes or 'none'}"
        )
