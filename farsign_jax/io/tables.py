"""Tables in Markdown and LaTeX, and the columns of results."""

import re
from collections.abc import Sequence

# fmt: off
COLUMNS = (
    "method", "aggregator", "attack", "partition", "arrivals", "seed", "event", "evaluations",
    "seconds", "virtual_seconds", "bits_up", "test_accuracy", "test_loss",
)
# fmt: on


# What Markdown, with the tables of GitHub, would not show as it stands. Some characters, such
# as underscores, are markup in some places only.
_MARKUP = re.compile(
    r"[|`*~]|\\(?=[^\w\s])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])"
)
_TEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "µ": r"$\mu$",
}


def markdown_text(text: str) -> str:
    """Returns Markdown that shows a text as it stands, in one line."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split("\n")))


def latex_text(text: str) -> str:
    """Returns LaTeX that shows a text as it stands."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split("\n")))


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, markup: bool = False
) -> str:
    """Returns a table in Markdown, with columns aligned in the source.

    Args:
        header: the names of the columns.
        rows: the cells of each row.
        markup: whether the cells are Markdown already; otherwise they are texts.
    """
    shown = str if markup else markdown_text
    table = [[*map(shown, row)] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(table[0]), rule, *map(line, table[1:])]) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a LaTeX `tabular` of these texts."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(latex_text, cells)) + r" \\"

    body = "\n".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\n\\hline\n{body}\n"
        "\\hline\n\\end{tabular}\n"
    )
