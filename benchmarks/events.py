"""How long an event takes: the row of a case, or why there is none."""

import itertools
from typing import Any, NamedTuple

import jax

from benchmarks import counts
from benchmarks.cases import Case
from farsign_jax import sweeps
from farsign_jax.base import Problem
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.harness import timing
from farsign_jax.specs import parse

PIECE_S = 0.25  # about so long is one timing
LEAST = 4  # events per timing: what happens once per call is no part of an event
GUESS = 3.0  # distance to the floor of what has not been timed yet
UNKNOWN_US = 1000.0  # of an event that nobody counted


class Limits(NamedTuple):
    """How much may be timed."""

    events: int  # per timing, at most
    repeats: int
    budget_s: float  # seconds of one case, compiling apart


class Skipped(Exception):
    """A case that is not timed; says why."""


def row_of(
    case: Case,
    config: PanelConfig,
    problem: Problem,
    ceilings: dict[str, Any],
    limits: Limits,
    guess: float,
) -> dict[str, Any]:
    """One row of the table.

    `us`, `us_min` and `us_max` are microseconds per event and run, as is `floor_us`;
    `distance` is their ratio; `hand` and `xla` are what was counted. A case that is not
    timed has `skipped`, the reason, instead. `guess`, the distance to expect, is for planning.
    """
    d = problem.x0.size
    row = {"method": case.name, "delivery": case.delivery, "runs": case.runs, "d": d}
    sizes = case.sizes(config, problem)
    work = counts.by_hand(case.method, sizes, case.generic)
    floor = work.floor_us(ceilings, case.runs) if work else None
    usual = counts.by_hand(parse(case.method)[0], sizes, case.generic)  # without its options
    expected = guess * usual.floor_us(ceilings, case.runs) if usual else UNKNOWN_US
    expected *= case.runs
    least = round(1 / sizes.updates) if sizes.updates else LEAST  # one robust aggregate
    events = min(max(int(1e6 * PIECE_S / expected), least), limits.events)
    try:
        lanes = case.side_by_side(config)
        _check_memory(case.lane_bytes(config, problem), lanes, "the runs take")
        _check_budget(expected * events / 1e6, events, limits, "would take about")
        row |= _time(case, config, problem, events, limits)
    except Skipped as reason:
        return row | {"skipped": str(reason)}
    evaluations = case.evaluations(config, problem)
    row |= {"events_per_s": 1e6 / row["us"], "evaluations_per_s": 1e6 * evaluations / row["us"]}
    hand = vars(work) if work else None
    distance = row["us"] / floor if floor else None
    return row | {"hand": hand, "floor_us": floor, "distance": distance}


def _check_memory(needed: float, lanes: int, whose: str) -> None:
    """Of all devices that the lanes use; a fifth of what is free is left for the rest."""
    room = 0.8 * sweeps.memory(lanes)[1] * min(lanes, jax.local_device_count())
    if needed > room:
        raise Skipped(
            f"{whose} {needed / 2**30:,.3g} GiB, there is room for {room / 2**30:,.3g}"
        )


def _check_budget(piece_s: float, events: int, limits: Limits, verb: str) -> None:
    total = piece_s * (1 + limits.repeats)
    if total > limits.budget_s:
        timings = f"{1 + limits.repeats} x {events} events"
        raise Skipped(f"{timings} {verb} {total:,.0f} s, --budget_s={limits.budget_s:g}")


def _time(
    case: Case, config: PanelConfig, problem: Problem, events: int, limits: Limits
) -> dict[str, Any]:
    program = case.program(config)
    lanes = case.lanes(config, problem, case.runs, events * (1 + limits.repeats))
    advance, compile_s, pieces = timing.running(program, lanes, events, case.delivery)
    memory = advance.memory_analysis()
    if memory is not None:
        used = min(len(lanes), jax.local_device_count())
        _check_memory(used * memory.temp_size_in_bytes, len(lanes), "scratch takes")
    warm = next(pieces)
    if warm < limits.budget_s < warm * (1 + limits.repeats):
        warm = next(pieces)  # the first one was also the first to touch its memory
    _check_budget(warm, events, limits, "take")
    per = case.runs * events / 1e6
    times = [seconds / per for seconds in itertools.islice(pieces, limits.repeats)]
    figures = timing.spread(times) | {"events": events, "compile_s": compile_s}
    # In turns, the body of the loop is an event of one run.
    alone = jax.default_backend() == "cpu" and not case.job(config).lockstep
    together = 1 if alone else -(-case.runs // min(jax.local_device_count(), len(lanes)))
    return figures | {"xla": counts.by_xla(advance, together)}
