"""The time of an event: the row of a case, or the reason why the case is not timed."""

import itertools
from typing import Any, NamedTuple

import jax

from benchmarks import counts, report
from benchmarks.cases import Case
from farsign_jax import sweeps
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import timing
from farsign_jax.specs import parse

TIMING_S = 0.25  # approximate duration of one timing
LEAST = 4  # events per timing, as what happens once per call is not part of an event
GUESS = 3.0  # distance to the floor that is assumed before anything was timed
UNKNOWN_US = 1000.0  # assumed time of an event that has no count


class Limits(NamedTuple):
    """Limits of the timings.

    Attributes:
        events: the largest number of events per timing.
        repeats: the number of timings.
        budget_s: seconds for one case, without compilation.
    """

    events: int
    repeats: int
    budget_s: float


class Skipped(Exception):
    """The reason why a case is not timed."""


def row_of(
    case: Case,
    config: PanelConfig,
    problem: Problem,
    ceilings: dict[str, Any],
    limits: Limits,
    guess: float,
) -> dict[str, Any]:
    """One row of the table.

    Args:
        case: what is timed.
        config: the configuration.
        problem: the data and the network.
        ceilings: the highest rates of the device.
        limits: the limits of the timings.
        guess: the distance to the floor that is expected, for planning.

    Returns:
        `us`, `us_min`, `us_max` and `floor_us` in microseconds per event and run, their ratio
        `distance`, and the counts `hand`. A case that is not timed has `skipped`, the reason,
        instead.
    """
    row = {"method": case.name, "delivery": case.delivery, "runs": case.runs}
    row["d"] = problem.x0.size
    sizes = case.sizes(config, problem)
    work = counts.by_hand(case.method, sizes, case.generic)
    floor = None if work is None else counts.floor_us(work, ceilings, case.runs)
    usual = counts.by_hand(parse(case.method)[0], sizes, case.generic)  # without its options
    expected = case.runs * UNKNOWN_US
    if usual is not None:
        expected = case.runs * guess * counts.floor_us(usual, ceilings, case.runs)
    least = round(1 / sizes.updates) if sizes.updates else LEAST  # one robust aggregate
    events = min(max(int(1e6 * TIMING_S / expected), least), limits.events)
    try:
        _check_memory(case.run_bytes(config, problem), case.side_by_side(config), "the runs")
        _check_budget(expected * events / 1e6, events, limits, "would take about")
        row |= _time(case, config, problem, events, limits)
    except Skipped as reason:
        return row | {"skipped": str(reason)}
    evaluations = case.evaluations(config, problem)
    row |= {"events_per_s": 1e6 / row["us"], "evaluations_per_s": 1e6 * evaluations / row["us"]}
    hand = None if work is None else dict(zip(counts.KINDS, work.tolist(), strict=True))
    distance = row["us"] / floor if floor else None
    return row | {"hand": hand, "floor_us": floor, "distance": distance}


class Clock:
    """Times one case after the other and learns how long the next one will take."""

    def __init__(self, config: PanelConfig, rates: dict[str, Any], limits: Limits):
        self.config, self.rates, self.limits = config, rates, limits
        self.distances: dict[str, float] = {}  # by name, of the last row

    def row(self, case: Case, problem: Problem) -> dict[str, Any]:
        guess = self.distances.get(case.name, GUESS)
        row = row_of(case, self.config, problem, self.rates, self.limits, guess)
        print(report.line(row), flush=True)
        self.distances[case.name] = row.get("distance") or guess
        return row


def _check_memory(needed: float, runs: int, of: str) -> None:
    """Compares with the free memory of the devices that the runs use, less a fifth."""
    room = 0.8 * sweeps.memory(runs)[1] * min(runs, jax.local_device_count())
    if needed > room:
        gib = f"{needed / 2**30:,.3g} GiB, and {room / 2**30:,.3g} GiB are available"
        raise Skipped(f"{of} need {gib}")


def _check_budget(piece_s: float, events: int, limits: Limits, verb: str) -> None:
    total = piece_s * (1 + limits.repeats)
    if total > limits.budget_s:
        timings = f"{1 + limits.repeats} x {events} events"
        raise Skipped(f"{timings} {verb} {total:,.0f} s, --budget_s={limits.budget_s:g}")


def _time(
    case: Case, config: PanelConfig, problem: Problem, events: int, limits: Limits
) -> dict[str, Any]:
    program = case.program(config)
    batch = case.run_batch(config, problem, case.runs, events * (1 + limits.repeats))
    advance, compile_s, pieces = timing.running(program, batch, events, case.delivery)
    memory = advance.memory_analysis()
    used = min(len(batch), jax.local_device_count())
    if memory is not None:
        _check_memory(used * memory.temp_size_in_bytes, len(batch), "temporary arrays")
    warm = next(pieces)
    if warm < limits.budget_s < warm * (1 + limits.repeats):
        warm = next(pieces)  # the first one was also the first to use its memory
    _check_budget(warm, events, limits, "take")
    unit = case.runs * events / 1e6
    times = [seconds / unit for seconds in itertools.islice(pieces, limits.repeats)]
    return timing.spread(times) | {"events": events, "compile_s": compile_s}
