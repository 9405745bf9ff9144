"""The figures of `benchmarks.throughput` as Markdown, and the comparison of two records."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import ceilings
from benchmarks.timing import machine
from farsign_jax.io import tables
from farsign_jax.validation import require

Row = Mapping[str, Any]

NOTE = """\
The floor is the time of the least work that an event of the algorithm needs, counted by hand,
at the ceilings above, one kind of work after the other; the distance is the measured time as a
multiple of the floor.
"""
KEY = ("method", "delivery", "runs", "d")


def count(number: float) -> str:
    """1234567 -> 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def microseconds(us: float) -> str:
    return f"{us:,.0f}" if abs(us) >= 100 else f"{us:.3g}"


def _interval(row: Row, name: str = "us") -> str:
    return f"{microseconds(row[f'{name}_min'])}-{microseconds(row[f'{name}_max'])}"


def _cells(row: Row) -> list[str]:
    return [row["method"], row["delivery"], str(row["runs"]), f"{row['d']:,}"]


def line(row: Row) -> str:
    """A row as it is printed while the others are still to come."""
    runs = "1 run" if row["runs"] == 1 else f"{row['runs']} runs"
    case = f"{row['method']}, {row['delivery']}, {runs}, d = {row['d']:,}"
    if "skipped" in row:
        return f"{case}: skipped, because {row['skipped']}"
    distance = "" if row["distance"] is None else f", {row['distance']:.1f} times its floor"
    return f"{case}: {microseconds(row['us'])} µs per event{distance}"


def _times(rows: Sequence[Row]) -> str:
    header = [*KEY, "µs / event", "range", "events/s", "evaluations/s", "compile, s"]
    header += ["floor, µs", "distance"]
    lines = []
    for r in rows:
        if "skipped" in r:
            lines.append([*_cells(r), "skipped", *[""] * 6, r["skipped"]])
            continue
        cells = [microseconds(r["us"]), _interval(r), f"{r['events_per_s']:,.0f}"]
        cells += [f"{r['evaluations_per_s']:,.0f}", f"{r['compile_s']:.1f}"]
        counted = r["floor_us"] is not None
        cells += [microseconds(r["floor_us"]), f"{r['distance']:.1f}"] if counted else ["", ""]
        lines.append([*_cells(r), *cells, ""])
    if any(cells[-1] for cells in lines):
        return tables.markdown_table([*header, "why"], lines)
    return tables.markdown_table(header, [cells[:-1] for cells in lines])


def _counts(rows: Sequence[Row]) -> str:
    """The counts of the first row of each method and d: those of others hardly differ."""
    first: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row.get("hand"):
            first.setdefault((row["method"], row["d"]), row)
    header = ["method", "d", "runs", "matrix flop", "operations", "exp, log", "bytes"]
    lines = [
        [method, f"{d:,}", str(row["runs"]), *map(count, row["hand"].values())]
        for (method, d), row in first.items()
    ]
    return tables.markdown_table(header, lines)


def report(record: Mapping[str, Any]) -> str:
    """All figures of a record."""
    rows = record["rows"]
    text = [machine(record["environment"]) + "\n", ceilings.report(record["ceilings"])]
    text += [_times(rows), NOTE, _counts(rows)]
    if panel := record["panel"]:
        text.append(
            f"CYBER-0 with 7 aggregators under 5 attacks in lock-step, {panel['runs']} runs: "
            f"{panel['all_us']:,.0f} µs per event, {panel['times']:.2f} times one of them "
            f"({panel['one_us']:,.0f} µs)\n"
        )
    if record["base_pass"]:
        header = ["far_sign, d", "µs / event", "base forward pass", "the rest", "range"]
        columns = ("us", "base_us", "rest_us")
        lines = [
            [f"{r['d']:,}", *(microseconds(r[c]) for c in columns), _interval(r, "rest_us")]
            for r in record["base_pass"]
        ]
        text.append(tables.markdown_table(header, lines))
    if record["torch"]:
        ours, header = record["base_pass"][0]["us"], ["the same event", "µs / event"]
        lines = [
            [f"PyTorch {r['torch']}, {r['oracle']}", f"{r['us']:,.0f}", f"{r['us'] / ours:.0f}"]
            for r in record["torch"]
        ]
        text.append(tables.markdown_table([*header, "times ours"], lines))
    return "\n".join(text)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a record that `benchmarks.throughput` wrote.

    Raises:
        InvalidConfig: if the file does not exist or is not such a record.
    """
    file = pathlib.Path(path)
    rule = "--compare needs a throughput.json that this command wrote"
    require(file.is_file(), f"{rule}: there is no file {path}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    valid = isinstance(record, dict) and {"environment", "rows"} <= record.keys()
    require(valid, f"{rule}: {path} is not one")
    assert record is not None
    return record


def check_device(old: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Raises `InvalidConfig` if a record is of another device than an environment."""
    before, now = machine(old["environment"]), machine(environment)
    require(before == now, f"--compare needs records of one device: got {before!r} and {now!r}")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The times of `new` as multiples of those of `old`, row by row: below 1 is faster.

    The range is bounded by the best timing of one record over the worst of the other.
    """

    def timed(record):
        return {tuple(row[n] for n in KEY): row for row in record["rows"] if "us" in row}

    before, now = timed(old), timed(new)
    lines = []
    for key in (key for key in now if key in before):
        b, n = before[key], now[key]
        low, high = n["us_min"] / b["us_max"], n["us_max"] / b["us_min"]
        cells = [microseconds(b["us"]), microseconds(n["us"]), f"{n['us'] / b['us']:.2f}"]
        lines.append([*_cells(n), *cells, f"{low:.2f}-{high:.2f}"])
    header = [*KEY, "µs before", "µs now", "now / before", "range"]
    text = [tables.markdown_table(header, lines)]
    for here, there, when in ((before, now, "before"), (now, before, "now")):
        if alone := sum(key not in there for key in here):
            text.append(f"Rows timed only {when}: {alone}.\n")
    return "\n".join(text)
