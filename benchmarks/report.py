"""The figures of `benchmarks.throughput` as Markdown, and two records side by side."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import ceilings
from farsign_jax.io import tables
from farsign_jax.validation import require

Row = Mapping[str, Any]

READING = """\
A floor is the time of an event's work, counted by hand as the least that the algorithm asks
for, at the ceilings above, one kind of work after the other; the distance is the measured time
in floors. XLA's counts are of its own program: of a loop within an event one turn, of an access
at some index the whole array, every operation a flop.
"""


def count(number: float) -> str:
    """1234567 -> 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def microseconds(us: float) -> str:
    return f"{us:,.0f}" if abs(us) >= 100 else f"{us:.3g}"


def _named(row: Row) -> list[str]:
    return [row["method"], row["delivery"], str(row["runs"]), f"{row['d']:,}"]


NAMED = ("method", "delivery", "runs", "d")


def line(row: Row) -> str:
    """A row as it is printed while the others are still to come."""
    runs = "1 run" if row["runs"] == 1 else f"{row['runs']} runs"
    said = f"{row['method']}, {row['delivery']}, {runs}, d = {row['d']:,}: "
    if "skipped" in row:
        return f"{said}skipped, {row['skipped']}"
    far = "" if row["distance"] is None else f", {row['distance']:.1f} times its floor"
    return f"{said}{microseconds(row['us'])} µs per event{far}"


def _times(rows: Sequence[Row]) -> str:
    header = [*NAMED, "µs / event", "range", "events/s", "evaluations/s", "compile, s"]
    header += ["floor, µs", "distance"]
    lines = []
    for r in rows:
        if "skipped" in r:
            lines.append([*_named(r), "skipped", *[""] * 6, r["skipped"]])
            continue
        line = [microseconds(r["us"])]
        line += [f"{microseconds(r['us_min'])}-{microseconds(r['us_max'])}"]
        line += [f"{r['events_per_s']:,.0f}", f"{r['evaluations_per_s']:,.0f}"]
        line += [f"{r['compile_s']:.1f}"]
        counted = r["floor_us"] is not None
        line += [microseconds(r["floor_us"]), f"{r['distance']:.1f}"] if counted else ["", ""]
        lines.append([*_named(r), *line, ""])
    if all(line[-1] == "" for line in lines):
        lines = [line[:-1] for line in lines]
    else:
        header.append("why")
    return tables.markdown_table(header, lines)


def _counts(rows: Sequence[Row]) -> str:
    """Of the first row of each method and d: a run's share hardly depends on the others."""
    first: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row.get("hand"):
            first.setdefault((row["method"], row["d"]), row)
    header = ["method", "d", "runs", "matrix flop", "operations", "exp, log", "bytes"]
    header += ["XLA: flop", "exp, log", "bytes"]
    lines = []
    for (method, d), row in first.items():
        line = [method, f"{d:,}", str(row["runs"]), *map(count, row["hand"].values())]
        lines.append([*line, *map(count, row["xla"].values())])
    return tables.markdown_table(header, lines)


def _panel(panel: Row) -> str:
    return (
        f"CYBER-0 with 7 aggregators under 5 attacks in lock-step, {panel['runs']} runs: "
        f"{panel['all_us']:,.0f} µs per event, {panel['times']:.2f} times one of them "
        f"({panel['one_us']:,.0f} µs)\n"
    )


def _base(rows: Sequence[Row]) -> str:
    header = ["far_sign, d", "µs / event", "base forward pass", "the rest", "range"]
    lines = [
        [f"{r['d']:,}", *(microseconds(r[name]) for name in ("us", "base_us", "rest_us"))]
        + [f"{microseconds(r['rest_us_min'])}-{microseconds(r['rest_us_max'])}"]
        for r in rows
    ]
    return tables.markdown_table(header, lines)


def _torch(rows: Sequence[Row], ours: float) -> str:
    header = ["the same event", "µs / event", "times ours"]
    lines = [
        [f"PyTorch {r['torch']}, {r['oracle']}", f"{r['us']:,.0f}", f"{r['us'] / ours:.0f}"]
        for r in rows
    ]
    return tables.markdown_table(header, lines)


def report(record: Mapping[str, Any]) -> str:
    """All of it."""
    machine, rows = record["environment"], record["rows"]
    text = [f"{machine['device']}, {machine['cpu']}, {machine['cpu_cores']} CPU cores\n"]
    text += [ceilings.report(record["ceilings"]), _times(rows), READING, _counts(rows)]
    if record["panel"]:
        text.append(_panel(record["panel"]))
    if record["base_pass"]:
        text.append(_base(record["base_pass"]))
    if record["torch"]:
        text.append(_torch(record["torch"], record["base_pass"][0]["us"]))
    return "\n".join(text)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """A record that this benchmark wrote.

    Raises:
        InvalidConfig: where there is none.
    """
    file = pathlib.Path(path)
    require(file.is_file(), f"--compare needs files that this command wrote: no file {path}")
    try:
        record = json.loads(file.read_text())
    except ValueError:
        record = None
    known = isinstance(record, dict) and {"environment", "rows"} <= record.keys()
    require(known, f"--compare needs files that this command wrote: {path} is none")
    assert record is not None
    return record


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Times of `new` in those of `old`, row by row: below 1 is faster.

    The range is from the best of one against the worst of the other to the opposite.
    """

    def timed(record):
        return {tuple(row[n] for n in NAMED): row for row in record["rows"] if "us" in row}

    before, now = timed(old), timed(new)
    lines = []
    for key in (key for key in now if key in before):
        b, n = before[key], now[key]
        low, high = n["us_min"] / b["us_max"], n["us_max"] / b["us_min"]
        line = [microseconds(b["us"]), microseconds(n["us"]), f"{n['us'] / b['us']:.2f}"]
        lines.append([*_named(n), *line, f"{low:.2f}-{high:.2f}"])
    header = [*NAMED, "µs before", "µs now", "now / before", "range"]
    text = [tables.markdown_table(header, lines)]
    for name in ("device", "cpu", "cpu_cores"):
        was, is_now = old["environment"].get(name), new["environment"].get(name)
        if was != is_now:
            text.append(f"Another {name.replace('_', ' ')}: {was} before, {is_now} now.\n")
    for here, there, when in ((before, now, "before"), (now, before, "now")):
        alone = sum(key not in there for key in here)
        if alone:
            text.append(f"Timed only {when}: {alone} rows.\n")
    return "\n".join(text)
