"""Tables in Markdown and LaTeX, and the columns of results."""

from collections.abc import Sequence

# fmt: off
COLUMNS = (
    "method", "aggregator", "attack", "partition", "arrivals", "seed", "event", "evaluations",
    "seconds", "virtual_seconds", "bits_up", "test_accuracy", "test_loss",
)
# fmt: on


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, with columns aligned in the source."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)]) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a LaTeX `tabular`; of the characters special to LaTeX, _ % and ± are escaped."""

    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("_", r"\_").replace("%", r"\%") for cell in cells)
        return " & ".join(escaped).replace("±", r"$\pm$") + r" \\"

    body = "\n".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\n\\hline\n{body}\n"
        "\\hline\n\\end{tabular}\n"
    )
