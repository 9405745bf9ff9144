"""A page of everything: results folders as one HTML file that needs no network.

For every folder, of any command: tables that sort, curves that say under the pointer which
method, attack and seed they are, figures, configuration, environment, links to the data.
Filters by method, aggregator and attack hold for all tables and curves of the page. What is
unfinished, empty or damaged is named as such.

Needs `pip install 'farsign_jax[report]'`. Writes index.html under --out (default:
results/report); the same folders give the same bytes.

    python -m experiments.report
    python -m experiments.report results/table3-12ab34cd elsewhere/runs --out page
"""

import base64
import dataclasses
import functools
import hashlib
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from absl import flags

from farsign_jax.cli import commands
from farsign_jax.harness import plan, series
from farsign_jax.harness.command import main
from farsign_jax.harness.flags import FLAGS
from farsign_jax.harness.report import reader, reproduce
from farsign_jax.harness.series import NAMES, Cell
from farsign_jax.io import files
from farsign_jax.validation import require

try:
    import jinja2
    import vl_convert
    from markupsafe import Markup

    from farsign_jax.harness.report import html_tables, vega
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

flags.DEFINE_list("from", ["results"], "Folders of results, or folders that hold some.")

HERE = pathlib.Path(reader.__file__).parent


def report(*named: str) -> pathlib.Path:
    out = pathlib.Path(FLAGS.out or "results/report").expanduser()
    page = out / "index.html"
    require(not out.exists() or out.is_dir(), f"{out} is a file: --out names a folder")
    rule = f"{page} is no page of this command: choose another --out"
    require(not page.exists() or reader.is_page(out), rule)
    given = FLAGS["from"]
    require(not named or given.using_default_value, "--from, or folders without it: got both")
    places = [place for place in named or given.value or () if place]
    require(len(places) > 0, "--from names no folder")
    found, empty = reader.gather(places, out)
    require(len(found) > 0, f"no results in {', '.join(places)}")
    files.write_text(page, render(found, empty, out))
    print(f"{_count(len(found), 'folder')}: {page}, {plan.size(page.stat().st_size)}")
    return out


def render(found: Sequence[reader.Folder], empty: Sequence[str], out: pathlib.Path) -> str:
    """The page; `out` is where it will be, for its links."""
    told = [_told(number, folder, out) for number, folder in enumerate(found)]
    found, known, sections = (list(each) for each in zip(*told, strict=True))
    library = _library()
    glue = (HERE / "page.js").read_text()
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined
    ).from_string((HERE / "page.html").read_text())
    text = template.render(
        mark=Markup(reader.MARK),
        policy=_policy(library, glue),
        title="Results of farsign_jax",
        summary=_summary(found, known),
        overview=_overview(found, known),
        empty=empty,
        filters=_filters([cell for cells in known for cell in cells]),
        sections=sections,
        style=Markup((HERE / "page.css").read_text()),
        library=Markup(library),
        glue=Markup(glue),
    )
    return text.encode(errors="replace").decode()  # JSON can name halves of characters


def _told(
    number: int, folder: reader.Folder, out: pathlib.Path
) -> tuple[reader.Folder, list[Cell], dict[str, Any]]:
    """A folder, its cells and its section; without its content where that cannot be shown."""
    try:
        cells = series.cells(folder.rows, folder.varied)
        return folder, cells, _section(number, folder, cells, out)
    except Exception as error:  # whatever a folder says, the others are shown
        reason = f"it cannot be shown: {type(error).__name__}: {error}"
        damaged = [*folder.damaged, reason]
        bare = reader.Folder(folder.name, folder.path, folder.command, files=folder.files)
        bare = dataclasses.replace(bare, damaged=damaged, written=folder.written)
        return bare, [], _section(number, bare, [], out)


@functools.cache
def _library() -> str:
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _policy(*scripts: str) -> str:
    """Scripts of this page and no others, no network: also for what a folder's names say."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _runs(cells: Sequence[Cell]) -> int:
    return sum(len(cell.seeds) for cell in cells)


def _summary(found: Sequence[reader.Folder], known: Sequence[Sequence[Cell]]) -> str:
    runs = sum(map(_runs, known))
    newest = max(found, key=lambda folder: folder.written)
    parts = [_count(len(found), "folder"), _count(runs, "run")]
    if newest.written:
        parts.append(f"the newest, {newest.name}, written {newest.written} UTC")
    return ", ".join(parts)


def _overview(
    found: Sequence[reader.Folder], known: Sequence[Sequence[Cell]]
) -> html_tables.Table:
    header = ["folder", "of", "data set", "methods", "attacks", "runs", "written, UTC", "state"]
    rows = []
    for number, (folder, cells) in enumerate(zip(found, known, strict=True)):
        link = Markup('<a href="#folder-{}">{}</a>').format(number, folder.name)
        kinds = [{c.names[kind] for c in cells} - {""} for kind in ("method", "attack")]
        rows.append([
            html_tables.Cell(folder.name, link),
            *map(html_tables.cell, (folder.command, series.text(folder.config.get("dataset")))),
            *(html_tables.cell(str(len(some) or "")) for some in kinds),
            *map(html_tables.cell, (f"{_runs(cells):,}", folder.written, folder.state)),
        ])  # fmt: skip
    return html_tables.table("Folders", [html_tables.cell(name) for name in header], rows)


def _filters(cells: Sequence[Cell]) -> list[tuple[str, list[str]]]:
    """What can be chosen, where there is a choice."""
    values = {kind: list(dict.fromkeys(cell.names[kind] for cell in cells)) for kind in NAMES}
    values = {kind: [value for value in some if value] for kind, some in values.items()}
    return [(kind, some) for kind, some in values.items() if len(some) > 1]


def _section(
    number: int, folder: reader.Folder, cells: Sequence[Cell], out: pathlib.Path
) -> dict[str, Any]:
    names = html_tables.names_of(cells)
    return {
        "id": f"folder-{number}",
        "name": folder.name,
        "about": _about(folder, cells),
        "state": folder.state,
        "reasons": [*folder.damaged, *filter(None, [folder.unfinished])],
        "curves": _curves(cells),
        "blocks": [b for n, text in folder.tables for b in html_tables.blocks(n, text, names)],
        "cells": _cells(cells),
        "figures": [_figure(name, content) for name, content in folder.figures],
        "records": [_record(record) for record in folder.records],
        "again": reproduce.command(folder.config),
        "files": [_file(folder, name, size, out) for name, size in folder.files],
    }


def _about(folder: reader.Folder, cells: Sequence[Cell]) -> str:
    told = {n: series.text(v) for n, v in folder.config.items() if isinstance(v, str | int)}
    for name, values in folder.varied.items():
        told[name] = ", ".join(map(series.text, values))
    parts = [folder.command, told.get("dataset", ""), told.get("model", "")]
    if "workers" in told:
        parts.append(f"{told['workers']} workers, {told.get('byzantine', '0')} hostile")
    parts.append(_count(_runs(cells), "run") if cells else "")
    parts.append(f"written {folder.written} UTC" if folder.written else "")
    return " · ".join(filter(None, parts))


def _curves(cells: Sequence[Cell]) -> dict[str, Any] | None:
    every = [cell for cell in cells if cell.is_curve]
    if not every:
        return None
    best = series.best_steps(every)
    lines: dict[str, Cell] = {}
    for cell in best:
        lines.setdefault(cell.line, cell)
    data, style = vega.data(best, list(lines)), vega.strokes(list(lines))
    x, y = next(iter(data["x"].values()))["title"], next(iter(data["y"].values()))["title"]
    plots: dict[tuple[str, str], list[Cell]] = {}
    for cell in best:
        plots.setdefault((cell.plot, cell.names["attack"]), []).append(cell)
    return {
        "data": Markup(vega.script(data)),
        "axes": [
            (axis, [(name, one["title"]) for name, one in data[key].items()])
            for axis, key in (("Horizontal", "x"), ("Vertical", "y"))
        ],
        "legend": [
            {
                "name": line,
                "colour": style[line][0],
                "dash": style[line][1],
                "attributes": html_tables.attributes({**cell.names, "attack": ""}),
            }
            for line, cell in lines.items()
        ],
        "plots": [
            {
                "plot": plot,
                "attack": attack,
                "title": ", ".join(filter(None, (attack and f"attack {attack}", plot))) or y,
                "says": f"{y} against {x}; at the end: {_ends(mine)}",
            }
            for (plot, attack), mine in plots.items()
        ],
        "note": _note(every, best),
    }


def _ends(cells: Sequence[Cell]) -> str:
    return ", ".join(
        f"{cell.line} {float(cell.last(next(iter(cell.measured))).mean()):.4g}"
        for cell in cells
        if cell.measured
    )


def _note(every: Sequence[Cell], best: Sequence[Cell]) -> str:
    """What the curves leave out."""
    parts = []
    if any(len(cell.seeds) > 1 for cell in best):
        parts.append("Lines are means over seeds; the pointer shows each.")
    longest = max(cell.there.shape[1] for cell in best)
    if longest > vega.RECORDS:
        parts.append(f"At most {vega.RECORDS} of {longest:,} records of a run are drawn.")
    if len(best) < len(every):
        parts.append("Of several step sizes, the one that ends best is drawn.")
    return " ".join(parts)


def _cells(cells: Sequence[Cell]) -> html_tables.Table | None:
    """Every cell as a row: what it measured, best and last, over its seeds."""
    measured = list(dict.fromkeys(name for cell in cells for name in cell.measured))
    if not measured:
        return None
    order = [*series.MEASURED, *measured]
    measured = sorted(measured, key=order.index)
    header, rows = ["plot", "attack", "method", "step size", "seeds"], []
    for name in measured:
        title = series.MEASURED.get(name, name)
        header += [f"{title}: best", "last"] if name in series.PERCENT else [title]
    for cell in cells:
        texts = [cell.plot, cell.names["attack"], cell.line, cell.step, str(len(cell.seeds))]
        for name in measured:
            ways = (cell.best, cell.last) if name in series.PERCENT else (cell.last,)
            digits = ".1f" if name in series.PERCENT else ".4g"
            for way in ways:
                texts.append(_spread(way(name), digits) if name in cell.measured else "")
        rows.append([html_tables.cell(text) for text in texts])
    told = [html_tables.attributes(cell.names) for cell in cells]
    table = html_tables.table(
        "Mean and deviation over seeds", [html_tables.cell(text) for text in header], rows, told
    )
    return table.without_empty_columns()


def _spread(values: Any, digits: str) -> str:
    """Mean and deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:{digits}}"
    return f"{values.mean():{digits}} ± {values.std(ddof=1):{digits}}"


def _figure(name: str, content: bytes) -> dict[str, Any]:
    width, height = struct.unpack(">II", content[16:24])  # of its first chunk
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"name": name, "width": width, "height": height, "source": source}


def _record(record: reader.Record) -> dict[str, Any]:
    flat = [list(_flat(told)) for told in (record.config, record.environment)]
    return {"name": record.name, "config": flat[0], "environment": flat[1]}


def _flat(told: Any, before: str = "") -> Any:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name} ")
        else:
            shown = ", ".join(map(series.text, value)) if isinstance(value, list) else value
            yield before + name, series.text(shown)


def _file(folder: reader.Folder, name: str, size: int, out: pathlib.Path) -> dict[str, str]:
    path = os.path.relpath(folder.path.resolve() / name, out.resolve())
    href = quote(os.fsencode(pathlib.PurePath(path).as_posix()))
    return {"name": name, "size": plan.size(size), "href": href}


if __name__ == "__main__":
    main(report, own=("from",), reads=("out",), positional=True)
