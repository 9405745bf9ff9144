"""Reads the imports of this repository and draws how its packages depend on each other.

    python -m docs.layers
    python -m docs.layers --out /tmp/layers

`LAYERS` states the order that the imports must follow. `tests/test_layers.py` checks it, and
that the drawing is current. Writes layers.svg under --out, by default docs/pages.
"""

import ast
import graphlib
import html
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
DRAWING = ROOT / "docs" / "pages" / "layers.svg"
PACKAGE = "farsign_jax"

# From the bottom to the top. A package may import from its own row and from the rows below.
LAYERS = [
    ["validation", "keys", "examples", "base", "specs", "step_sizes", "programs"],
    ["aggregators", "directions", "models", "data", "io"],
    ["arrivals", "attacks", "problems", "oracles"],
    ["methods"],
    ["simulation"],
    ["sweeps"],
    ["config"],
    ["theory", "interop"],
    ["cli"],
    ["harness", "runtime"],
    ["experiments", "benchmarks", "docs"],
]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def files() -> list[pathlib.Path]:
    """The Python files of package, experiments, benchmarks and docs, without generated ones."""
    folders = (PACKAGE, *LAYERS[-1])
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in paths if "_pb2" not in path.name)


OUTSIDE = ("__init__", "__main__")  # which gathers the public names; which starts the commands


def unit_of(path: pathlib.Path) -> str:
    """The package or top-level module that a file belongs to, as named in `LAYERS`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == PACKAGE else parts[0]


def imported_modules(path: pathlib.Path) -> Iterator[str]:
    """The dotted names that a file imports, whether at the top or inside a function."""
    inside = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*inside[: -node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def dependencies() -> dict[str, dict[str, set[pathlib.Path]]]:
    """From each unit to the units that it imports, and the files that do so."""
    found: dict[str, dict[str, set[pathlib.Path]]] = {name: {} for name in LEVELS}
    for path in files():
        unit = unit_of(path)
        if unit in OUTSIDE:
            continue
        for name in imported_modules(path):
            parts = name.split(".")
            other = parts[1] if parts[0] == PACKAGE and len(parts) > 1 else parts[0]
            if other in LEVELS and other != unit:
                found.setdefault(unit, {}).setdefault(other, set()).add(path)
    return found


def upward(graph: dict[str, dict[str, set[pathlib.Path]]]) -> list[str]:
    """The imports that go up, one line for each file."""
    return [
        f"{path.relative_to(ROOT)} imports {other}"
        for unit, others in graph.items()
        for other, paths in others.items()
        if LEVELS[other] > LEVELS.get(unit, len(LAYERS))
        for path in sorted(paths)
    ]


def cycle(graph: dict[str, dict[str, set[pathlib.Path]]]) -> list[str]:
    """The names along one import cycle between packages, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def reduced(graph: dict[str, dict[str, set[pathlib.Path]]]) -> list[tuple[str, str]]:
    """The edges that do not follow from others (the transitive reduction)."""

    def reachable(unit: str, seen: set[str]) -> set[str]:
        for other in graph.get(unit, {}):
            if other not in seen:
                seen.add(other)
                reachable(other, seen)
        return seen

    edges = []
    for unit, others in graph.items():
        indirect = {far for near in others for far in reachable(near, set()) if far != near}
        edges += [(unit, other) for other in others if other not in indirect]
    return sorted(edges)


# The drawing.

WIDTH, ROW, BOX, HEIGHT = 860, 74, 104, 30


def drawing() -> str:
    """The packages as an SVG image, one row for each layer, imports pointing down."""
    middle: dict[str, tuple[float, float]] = {}
    for level, names in enumerate(LAYERS):
        for place, name in enumerate(names):
            x = WIDTH * (place + 1) / (len(names) + 1)
            if len(names) == 1:  # off the axis: lines that pass a row stay visible
                x += 170 * (-1) ** level
            middle[name] = (x, ROW * (len(LAYERS) - 1 - level) + HEIGHT)
    lines = [_line(middle[unit], middle[other]) for unit, other in reduced(dependencies())]
    boxes = [_box(name, *place) for name, place in middle.items()]
    style = (
        "path.edge { fill: none; stroke: #808080; marker-end: url(#tip) } "
        "rect { fill: #546e7a; rx: 4px } "
        "text { fill: white; font: 13px sans-serif; text-anchor: middle }"
    )
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
    )
    tip += ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#808080"/></marker>'
    size = f'viewBox="0 0 {WIDTH} {ROW * (len(LAYERS) - 1) + 3 * HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    head += "<title>Packages of farsign_jax, from commands at the top to types at the bottom"
    parts = [f"{head}</title>", f"<style>{style}</style>", f"<defs>{tip}</defs>"]
    return "\n".join([*parts, *lines, *boxes, "</svg>"]) + "\n"


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    if y1 == y2:  # within a row: an arc below the boxes
        y = y1 + HEIGHT / 2
        curve = f"Q{(x1 + x2) / 2:.0f} {y + 30:.0f} {x2:.0f} {y:.0f}"
        return f'<path class="edge" d="M{x1:.0f} {y:.0f}{curve}"/>'
    ends = f"M{x1:.0f} {y1 + HEIGHT / 2:.0f}L{x2:.0f} {y2 - HEIGHT / 2:.0f}"
    return f'<path class="edge" d="{ends}"/>'


def _box(name: str, x: float, y: float) -> str:
    corner = f'x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}"'
    label = f'<text x="{x:.0f}" y="{y + 4:.0f}">{html.escape(name)}</text>'
    return f'<rect {corner} width="{BOX}" height="{HEIGHT}"/>{label}'


def draw() -> None:
    """Writes the drawing into the folder --out, or into the pages."""
    from farsign_jax.harness.flags import FLAGS
    from farsign_jax.io.files import expanded, write_text

    path = expanded(FLAGS.out or DRAWING.parent) / DRAWING.name
    write_text(path, drawing())
    print(path)


if __name__ == "__main__":
    from farsign_jax.harness.command import main

    main(draw, reads=("out",))
