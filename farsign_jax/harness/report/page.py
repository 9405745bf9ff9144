"""Renders results folders as one HTML page that needs no network."""

import base64
import dataclasses
import functools
import hashlib
import os
import pathlib
import shlex
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
import vl_convert
from markupsafe import Markup

from farsign_jax.harness import plan
from farsign_jax.harness.report import html_tables, reader, series, vega
from farsign_jax.harness.report.reader import Folder
from farsign_jax.harness.report.series import MEASURED, NAMES, PERCENT, Curves
from farsign_jax.harness.summary import mark

HERE = pathlib.Path(__file__).parent
Reproduce = Callable[[Mapping[str, Any]], str | None]


def render(
    found: Sequence[Folder], empty: Sequence[str], out: pathlib.Path, reproduce: Reproduce
) -> str:
    """The page.

    Args:
        found: The folders to show.
        empty: The names of the folders without results.
        out: The folder of the page, from which its links lead to the data.
        reproduce: Maps the configuration of a folder to the command line that makes it again.
    """
    shown = [_shown(number, each, out, reproduce) for number, each in enumerate(found)]
    found, curves, sections = (list(each) for each in zip(*shown, strict=True))
    library, glue = _library(), (HERE / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string((HERE / "page.html").read_text(encoding="utf-8")).render(
        mark=Markup(reader.MARK),
        policy=_policy(library, glue),
        title="Results of farsign_jax",
        summary=_summary(found, curves),
        overview=_overview(found, curves),
        empty=empty,
        filters=_filters(curves),
        sections=sections,
        tables=html_tables,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        library=Markup(library),
        glue=Markup(glue),
    )
    return text.encode(errors="replace").decode()  # JSON can contain halves of characters


def _shown(
    number: int, folder: Folder, out: pathlib.Path, reproduce: Reproduce
) -> tuple[Folder, Curves, dict[str, Any]]:
    """A folder, its curves and its section, without its content if that cannot be shown."""
    try:
        curves = series.curves(folder.rows, folder.varied)
        return folder, curves, _section(number, folder, curves, out, reproduce)
    except Exception as error:  # the other folders are shown whatever is in this one
        reason = f"it cannot be shown: {type(error).__name__}: {error}"
        bare = dataclasses.replace(
            Folder(folder.name, folder.path, folder.command, files=folder.files),
            damaged=[*folder.damaged, reason],
            written=folder.written,
        )
        curves = series.curves(bare.rows)
        return bare, curves, _section(number, bare, curves, out, reproduce)


@functools.cache
def _library() -> str:
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _policy(*scripts: str) -> str:
    """A policy that allows these scripts alone, and no network, whatever a folder contains."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _summary(found: Sequence[Folder], curves: Sequence[Curves]) -> str:
    newest = max(found, key=lambda folder: folder.written)
    parts = [count(len(found), "folder"), count(sum(each.runs for each in curves), "run")]
    if newest.written:
        parts.append(f"the newest, {newest.name}, written {newest.written} UTC")
    return ", ".join(parts)


def _overview(found: Sequence[Folder], curves: Sequence[Curves]) -> pd.DataFrame:
    rows = []
    for number, (folder, own) in enumerate(zip(found, curves, strict=True)):
        counts = own.names[own.names != ""].nunique()
        rows.append({
            "folder": Markup('<a href="#folder-{}">{}</a>').format(number, folder.name),
            "of": folder.command,
            "data set": _text(folder.config.get("dataset")),
            "methods": str(counts["method"] or ""),
            "attacks": str(counts["attack"] or ""),
            "runs": f"{own.runs:,}",
            "written, UTC": folder.written,
            "state": folder.state,
        })  # fmt: skip
    return pd.DataFrame(rows, dtype=object)


def _filters(curves: Sequence[Curves]) -> dict[str, list[str]]:
    """The names to choose from, where there is a choice."""
    names = pd.concat([each.names for each in curves])
    choices = {kind: [name for name in names[kind].unique() if name] for kind in NAMES}
    return {kind: each for kind, each in choices.items() if len(each) > 1}


def _section(
    number: int,
    folder: Folder,
    curves: Curves,
    out: pathlib.Path,
    reproduce: Reproduce,
) -> dict[str, Any]:
    return {
        "id": f"folder-{number}",
        "name": folder.name,
        "about": _about(folder, curves),
        "state": folder.state,
        "reasons": [*folder.damaged, *filter(None, [folder.unfinished])],
        "names": html_tables.names_in_tables(curves.names),
        "curves": _drawn(curves.drawn()),
        "documents": [html_tables.markdown(*each, folder.name) for each in folder.tables],
        "measured": _measured(curves),
        "figures": [_figure(*each) for each in folder.figures],
        "records": [
            {"name": r.name, "pairs": [*_flat(r.config), *_flat(r.environment)]}
            for r in folder.records
        ],
        "command": _command(reproduce(folder.config), folder.path),
        "files": [_file(folder, *each, out) for each in folder.files],
    }


def _command(command: str | None, folder: pathlib.Path) -> str | None:
    """The command that makes a folder again, and continues there."""
    return command and f"{command} --out {shlex.quote(folder.as_posix())}"


def _about(folder: Folder, curves: Curves) -> str:
    config = {n: _text(v) for n, v in folder.config.items() if isinstance(v, str | int)}
    config |= {name: ", ".join(map(_text, each)) for name, each in folder.varied.items()}
    parts = [folder.command, config.get("dataset", ""), config.get("model", "")]
    if "workers" in config:
        parts.append(f"{config['workers']} workers, {config.get('byzantine', '0')} Byzantine")
    parts.append(count(curves.runs, "run") if curves.runs else "")
    parts.append(f"written {folder.written} UTC" if folder.written else "")
    return " · ".join(filter(None, parts))


def _drawn(every: Curves) -> dict[str, Any] | None:
    """What the template and the script need to show these curves."""
    if every.names.empty:
        return None
    best = every.best_steps()
    data, lines = vega.data(best), best.names.drop_duplicates("line")
    x, y = (next(iter(data[axis].values()))["title"] for axis in ("x", "y"))
    means, columns = best.last().groupby("curve").mean(), best.first_measured()
    plots = []
    groups: Any = best.names.groupby(["plot", "attack"], sort=False)
    for (plot, attack), own in groups:
        ends = [f"{own['line'][n]} {means[columns[n]][n]:.4g}" for n in own.index]
        title = ", ".join(filter(None, (attack and f"attack {attack}", plot))) or y
        description = f"{y} against {x}; at the end: {', '.join(ends)}"
        plots.append((plot, attack, title, description))
    return {
        "data": Markup(vega.script(data)),
        "axes": {"Horizontal": data["x"], "Vertical": data["y"]},
        "legend": zip(lines.to_dict("records"), vega.strokes(lines["line"]), strict=True),
        "plots": plots,
        "note": _note(every, best),
    }


def _note(every: Curves, best: Curves) -> str:
    """What the plots leave out."""
    parts = []
    if best.runs > len(best.names):
        parts.append("Lines are means over seeds; the pointer shows each.")
    longest = best.records.groupby("curve")["record"].nunique().max()
    if longest > vega.MAX_RECORDS:
        parts.append(f"At most {vega.MAX_RECORDS} of {longest:,} records of a run are drawn.")
    if len(best.names) < len(every.names):
        parts.append("Of several step sizes, the one that ends best is drawn.")
    return " ".join(parts)


def _measured(curves: Curves) -> pd.DataFrame | None:
    """Every curve as a row: its best and last measurements, mean and deviation over seeds."""
    if not curves.measured:
        return None
    names = {"plot": "plot", "attack": "attack", "line": "method", "step": "step size"}
    table = curves.names[[*names]].rename(columns=names)
    table["seeds"] = curves.last().groupby("curve").size().astype(str)
    marks = _marks(curves)
    for name in curves.measured:
        title = MEASURED.get(name, name)
        columns = {title: curves.last()}
        if name in PERCENT:
            columns = {f"{title}: best": curves.best(), f"{title}: last": curves.last()}
        for column, values in columns.items():
            spread = values[name].groupby("curve").apply(_spread, name in PERCENT)
            spread += marks if name in (*PERCENT, "test_loss") else ""
            table[column] = spread.where(curves.present[name], "")
    return table.loc[:, (table != "").any()]


def _marks(curves: Curves) -> pd.Series | str:
    """What stands behind the measurements of each curve of which runs have diverged."""
    if "test_loss" not in curves.measured:
        return ""
    last = curves.last()["test_loss"].replace([np.inf, -np.inf], np.nan)
    marks = last.isna().groupby("curve").agg(lambda lost: mark(int(lost.sum()), len(lost)))
    return marks.where(curves.present["test_loss"], "")


def _spread(values: pd.Series, is_percent: bool) -> str:
    """The mean and the standard deviation over seeds."""
    form = ".1f" if is_percent else ".4g"
    if len(values) == 1:
        return f"{values.iloc[0]:{form}}"
    with np.errstate(invalid="ignore"):  # the deviation of values that are not finite
        return f"{values.mean(skipna=False):{form}} ± {values.std(skipna=False):{form}}"


def _figure(name: str, content: bytes) -> dict[str, Any]:
    width, height = struct.unpack(">II", content[16:24])  # in the first chunk of a PNG
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"name": name, "width": width, "height": height, "source": source}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            shown = ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)
            yield prefix + name, shown


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _file(folder: Folder, name: str, size: int, out: pathlib.Path) -> dict[str, str]:
    path = os.path.relpath(folder.path.resolve() / name, out.resolve())
    href = quote(os.fsencode(pathlib.PurePath(path).as_posix()))
    return {"name": name, "size": plan.size(size), "href": href}
