"""Tables and the text around them, from Markdown and from cells, as safe HTML.

Not an experiment itself: what `experiments.report` puts into its page. All text comes from
folders that anybody may have written: whatever it says, it is shown, not obeyed.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from farsign_jax.harness.series import Cell as Runs

# No HTML, and nothing that leads elsewhere.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


_MARKDOWN.disable(["link", "image", "autolink", "reference"])


_NUMBER = re.compile(r"[-+]?(\d|\.\d|nan\b|inf\b)", re.IGNORECASE)


_BLANK = ("", "-", "–", "never", "always", "skipped")


NONE = Markup("")


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    markup: Markup
    attributes: Markup = NONE


@dataclasses.dataclass(frozen=True)
class Row:
    cells: list[Cell]
    attributes: Markup = NONE


@dataclasses.dataclass(frozen=True)
class Table:
    caption: str
    header: list[Cell]
    rows: list[Row]

    def without_empty_columns(self) -> "Table":
        kept = [
            i for i in range(len(self.header)) if any(row.cells[i].text for row in self.rows)
        ]
        rows = [Row([row.cells[i] for i in kept], row.attributes) for row in self.rows]
        return Table(self.caption, [self.header[i] for i in kept], rows)


@dataclasses.dataclass(frozen=True)
class Block:
    """Text, or a table."""

    markup: Markup | None = None
    table: Table | None = None


def cell(text: str) -> Cell:
    return Cell(text, escape(text))


def attributes(names: Mapping[str, str]) -> Markup:
    """What the filters look at."""
    return NONE.join(
        Markup(' data-{}="{}"').format(kind, value) for kind, value in names.items() if value
    )


def names_of(cells: Sequence[Runs]) -> dict[str, dict[str, str]]:
    """What tables call methods and attacks -> what the filters call them."""
    found: dict[str, dict[str, str]] = {}
    for one in cells:
        names = one.names
        own = {kind: names[kind] for kind in ("method", "aggregator")}
        found[f"{names['method']} {names['aggregator']}".strip()] = own
        found.setdefault(names["method"], {"method": names["method"]})
        found.setdefault(names["aggregator"], {"aggregator": names["aggregator"]})
        found[one.line] = own
    for one in cells:
        found["attack " + one.names["attack"]] = {"attack": one.names["attack"]}
    found.pop("", None)
    return found


def table(
    caption: str,
    header: Sequence[Cell],
    rows: Sequence[Sequence[Cell]],
    told: Sequence[Markup] | None = None,
) -> Table:
    """A table whose columns of numbers are set as such; `told`: attributes of the rows."""
    told = [NONE] * len(rows) if told is None else told
    numbers = [_is_number([row[i].text for row in rows]) for i in range(len(header))]

    def set_(one: Cell, number: bool) -> Cell:
        more = one.attributes + (Markup(' class="n"') if number else NONE)
        return dataclasses.replace(one, attributes=more)

    lines = [
        Row([set_(one, n) for one, n in zip(row, numbers, strict=True)], more)
        for row, more in zip(rows, told, strict=True)
    ]
    return Table(caption, [set_(o, n) for o, n in zip(header, numbers, strict=True)], lines)


def _is_number(texts: Sequence[str]) -> bool:
    told = [text for text in texts if text not in _BLANK]
    return bool(told) and all(_NUMBER.match(text) for text in told)


def blocks(name: str, text: str, names: Mapping[str, Mapping[str, str]]) -> list[Block]:
    """A document of a command, in its order: its tables, and what is written around them."""
    tokens, found = _MARKDOWN.parse(text), []
    heading, pending = f"{name}.md", []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.type == "table_open":
            end = next(j for j in range(i, len(tokens)) if tokens[j].type == "table_close")
            found += _text(pending)
            found.append(Block(table=_table(heading, tokens[i:end], names)))
            pending, i = [], end + 1
            continue
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"  # below those of the page
        if token.type == "inline" and tokens[i - 1].type == "heading_open":
            heading = token.content
        pending.append(token)
        i += 1
    return found + _text(pending)


def _text(tokens: Sequence[Token]) -> list[Block]:
    if not tokens:
        return []
    return [Block(markup=Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})))]


def _table(
    caption: str, tokens: Sequence[Token], names: Mapping[str, Mapping[str, str]]
) -> Table:
    lines: list[list[Cell]] = []
    for token in tokens:
        if token.type == "tr_open":
            lines.append([])
        elif token.type == "inline":
            told = Markup(_MARKDOWN.renderInline(token.content))
            lines[-1].append(Cell(token.content.strip("`"), told))
    header, *rows = lines
    columns = [attributes(names.get(f"attack {one.text}", {})) for one in header]
    header = [
        dataclasses.replace(o, attributes=c) for o, c in zip(header, columns, strict=True)
    ]
    rows = [
        [dataclasses.replace(o, attributes=c) for o, c in zip(row, columns, strict=True)]
        for row in rows
    ]
    told = [attributes(_names(row, header, names)) for row in rows]
    return table(caption, header, rows, told)


def _names(
    row: Sequence[Cell], header: Sequence[Cell], names: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Whose row it is: by its first cell, and by the columns that are called so."""
    found: dict[str, Any] = {}
    for number, (one, title) in enumerate(zip(row, header, strict=True)):
        if title.text == "attack":
            found |= names.get(f"attack {one.text}", {})
        elif number == 0 or title.text in ("method", "aggregator"):
            found |= names.get(one.text, {})
    return found
