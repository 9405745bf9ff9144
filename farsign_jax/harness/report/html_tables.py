"""Safe HTML of the Markdown in a results folder.

Anybody may have written a folder. Its HTML is escaped, and links and images stay text.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_MARKDOWN.disable(["link", "image", "autolink", "reference"])
CLOSING = Markup("</table></div>")


def opening(caption: str, label: str) -> Markup:
    """The start of a table that can be scrolled; `label` is its name for screen readers."""
    return Markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{}">'
        "<table><caption>{}</caption>"
    ).format(label, caption)


def _open(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return opening(**tokens[index].meta)


def _close(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return CLOSING


_MARKDOWN.add_render_rule("table_open", _open)
_MARKDOWN.add_render_rule("table_close", _close)


def markdown(name: str, text: str, folder: str) -> Markup:
    """Renders NAME.md of a folder. The caption of a table is the heading above it."""
    tokens, caption = _MARKDOWN.parse(text), f"{name}.md"
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"  # below those of the page
        elif before is not None and before.type == "heading_open":
            caption = token.content
        elif token.type == "table_open":
            token.meta = {"caption": caption, "label": f"{caption} of {folder}"}
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def names_in_tables(names: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Maps what tables call methods and attacks to the method, aggregator and attack by which
    the page filters. The keys of attacks begin with "attack ". `names` is `Curves.names`."""
    found: dict[str, dict[str, str]] = {}
    for row in names.to_dict("records"):
        own = {kind: row[kind] for kind in ("method", "aggregator")}
        found |= {f"{row['method']} {row['aggregator']}".strip(): own, row["line"]: own}
        for kind, name in own.items():
            found.setdefault(name, {kind: name})
        found[f"attack {row['attack']}"] = {"attack": row["attack"]}
    found.pop("", None)
    return found
