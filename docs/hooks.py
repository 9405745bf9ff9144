"""What MkDocs does with these pages beyond its own: `mkdocs build -f docs/mkdocs.yml --strict`.

Tables of options come from the signatures and docstrings of what they describe, and costs from
the shapes of a run, so that neither can disagree with the code. In a page:

    <!-- options: ATTACKS.alie -->
    <!-- options: METHODS.kardam farsign_jax.kardam -->    what its own docstring leaves out
    <!-- costs -->
    <!-- readme: Asynchrony -->                            a section, up to the next heading

Mathematics becomes MathML here, which browsers draw without a script. What is measured, the
tables and figures of `experiments/results` and `benchmarks/results`, is part of the site from
where it lies.
"""

import html
import importlib
import inspect
import pathlib
import re
from collections.abc import Callable
from typing import Any

import griffe
import jax
import latex2mathml.converter
import numpy as np
from markdown.extensions.toc import slugify
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from farsign_jax import aggregators, attacks, methods, models, problems, simulation
from farsign_jax.aggregators import preaggregators
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.io import tables

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"
# Folders of the repository, and where they are in the site.
MEASURED = {"experiments/results": "results", "benchmarks/results": "benchmarks"}

REGISTRIES: dict[str, Any] = {
    "AGGREGATORS": aggregators.AGGREGATORS,
    "ATTACKS": attacks.ATTACKS,
    "METHODS": methods.METHODS,
    "PREAGGREGATORS": preaggregators.PREAGGREGATORS,
    "SERVICES": delays.DELAYS,
    "TIMINGS": timing.TIMING_ATTACKS,
}


# Options.


def described(function: Callable) -> dict[str, str]:
    """What the docstring of a function says of its arguments."""
    quiet = {"warnings": False}
    text = griffe.Docstring(inspect.getdoc(function) or "").parse("google", **quiet)
    return {
        item.name: " ".join(item.description.split())
        for section in text
        if section.kind is griffe.DocstringSectionKind.parameters
        for item in section.value
    }


def options(target: str) -> dict[str, Any]:
    """The options of `REGISTRY.name` and their defaults; `inspect.Parameter.empty`: none."""
    registry, _, name = target.partition(".")
    if registry == "METHODS":
        return methods.defaults_of(name)
    parameters = inspect.signature(REGISTRIES[registry][name]).parameters
    return {o: p.default for o, p in parameters.items() if o != "honest"}


def options_table(target: str, *others: str) -> str:
    """Markdown: every option of `REGISTRY.name`, its default, and what it is."""
    registry, _, name = target.partition(".")
    entry = REGISTRIES[registry][name]
    sources = [entry.build if registry == "METHODS" else entry, *map(_named, others)]
    said = {o: text for source in reversed(sources) for o, text in described(source).items()}
    rows = []
    for option, default in options(target).items():
        if option not in said:
            raise PluginError(f"{target}: no docstring says what {option} is")
        rows.append([f"`{option}`", _default(default), said[option].replace("|", "\\|")])
    if not rows:
        return "No options.\n"
    return tables.markdown_table(["option", "default", "what it is"], rows)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "must be given"
    return f"`{value}`"


def _named(path: str) -> Callable:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# Costs.


def costs_table() -> str:
    """Markdown: what a method asks of its workers and keeps, in the paper's setting."""
    m, examples = 25, 400
    images = np.zeros((m * examples, 28, 28, 1), np.uint8)
    labels = np.zeros(m * examples, np.int32)
    rows = np.arange(m * examples).reshape(m, examples)
    sizes = np.full(m, examples)
    key = jax.random.key(0)
    problem = problems.classification(models.mlp(), images, labels, rows, sizes, key)
    lines = []
    for name, entry in methods.METHODS.items():
        system = methods.SystemSpec(name)(problem, entry.presets["paper"])
        server = jax.eval_shape(system.server.init, problem.x0, key)
        worker = jax.eval_shape(system.worker.init, problem.shard(jax.numpy.int32(0)))
        lines.append(
            [
                f"[`{name}`](#{name})",
                "a round" if entry.works_in_rounds else "an answer",
                f"{system.worker.evaluations:,}",
                f"{simulation.bits_per_answer(system, problem):,}",
                _megabytes(server),
                _megabytes(worker),
            ]
        )
    header = ["method", "an event is", "evaluations per answer", "bits per answer"]
    return tables.markdown_table([*header, "server, MB", "each worker, MB"], lines)


def _megabytes(tree: Any) -> str:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return f"{size / 1e6:,.1f}" if size else "–"


# Sections of the README.


def sections() -> dict[str, str]:
    """From the headings of the README to what stands below each, up to the next one."""
    found, title, fenced = {"": ""}, "", False
    for line in (ROOT / "README.md").read_text().splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            title = line.lstrip("#").strip()
            found[title] = ""
        else:
            found[title] += line
    return found


MARKER = re.compile("<!-- readme: (.*?) -->")
LINK = re.compile(r"\]\((?!http)([^)]+)\)")


def _anchors() -> dict[str, str]:
    """From anchors of the README to where their sections are here."""
    return {
        slugify(title, "-"): f"{page.name}#{slugify(title, '-')}"
        for page in PAGES.glob("*.md")
        for title in MARKER.findall(page.read_text())
    }


def section(title: str) -> str:
    """Markdown: a section of the README, with its links made those of the site."""
    if title not in sections():
        raise PluginError(f"README.md has no section {title!r}")
    text, anchors = sections()[title], _anchors()

    def link(match: re.Match) -> str:
        target = match[1]
        if target.startswith("#"):
            if target[1:] not in anchors:
                raise PluginError(f"no page has the section {target} of README.md")
            return f"]({anchors[target[1:]]})"
        for folder, here in MEASURED.items():
            if target.startswith(folder):
                return f"]({here}{target.removeprefix(folder)})"
        if target.endswith(".py"):  # its reference
            return f"][{target.removesuffix('.py').replace('/', '.')}]"
        raise PluginError(f"where is {target} of README.md in the site?")

    return f"## {title}\n" + LINK.sub(link, text)


# Mathematics.


def mathml(text: str, display: str) -> str:
    """LaTeX as MathML; what the converter does not know is an error, not a blemish."""
    try:
        made = latex2mathml.converter.convert(text, display=display)
    except Exception as error:  # of many kinds
        raise PluginError(f"no MathML for {text!r}: {error}") from error
    made = made.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')  # norms
    if "\\" in made:
        raise PluginError(f"no MathML for {text!r}: an unknown command is left: {made}")
    return made


ARITHMATEX = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL
)


# What MkDocs calls.


def on_files(files: Any, config: Any) -> Any:
    for folder, here in MEASURED.items():
        for path in sorted((ROOT / folder).glob("*.[mp][dn]*")):
            uri = f"{here}/{path.name}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    def options_of(match: re.Match) -> str:
        return options_table(*match[1].split())

    markdown = re.sub(r"<!-- options: (.*?) -->", options_of, markdown)
    markdown = re.sub("<!-- costs -->", lambda _: costs_table(), markdown)
    return MARKER.sub(lambda match: section(match[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    def convert(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return mathml(html.unescape(match[2]).strip(), display)

    return ARITHMATEX.sub(convert, content)
