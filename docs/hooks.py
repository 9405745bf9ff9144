"""What MkDocs does with these pages: `mkdocs build -f docs/mkdocs.yml --strict`.

The tables of options are made from the signatures and docstrings of what they describe, the
table of costs from the shapes of a run, and the reference from the modules of the package, so
that none of them can disagree with the code. In a page:

    <!-- options: ATTACKS.alie -->
    <!-- options: AGGREGATORS.multi_krum farsign_jax.aggregators.krum -->    with other sources
    <!-- costs -->
    <!-- settings -->

Mathematics becomes MathML, which browsers display without a script. The measured tables and
figures of `experiments/results` and `benchmarks/results` are part of the site.
"""

import dataclasses
import html
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import griffe
import jax
import latex2mathml.converter
import numpy as np
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

import farsign_jax
from docs import layers
from farsign_jax import aggregators, attacks, methods, models, problems, simulation
from farsign_jax.aggregators import preaggregators
from farsign_jax.arrivals import delays
from farsign_jax.attacks import timing
from farsign_jax.io import tables

ROOT = layers.ROOT
PAGES = ROOT / "docs" / "pages"
# Folders of the repository, and their places in the site.
MEASURED = {"experiments/results": "results", "benchmarks/results": "benchmarks"}

REGISTRIES: dict[str, Any] = {
    "AGGREGATORS": aggregators.AGGREGATORS,
    "ATTACKS": attacks.ATTACKS,
    "METHODS": methods.METHODS,
    "PREAGGREGATORS": preaggregators.PREAGGREGATORS,
    "DELAYS": delays.DELAYS,
    "TIMING_ATTACKS": timing.TIMING_ATTACKS,
}


# Options.


def described(function: Callable[..., Any]) -> dict[str, str]:
    """From the arguments in the docstring of a function to their descriptions."""
    quiet = {"warnings": False}
    text = griffe.Docstring(inspect.getdoc(function) or "").parse("google", **quiet)
    return {
        item.name: " ".join(item.description.split())
        for section in text
        if section.kind is griffe.DocstringSectionKind.parameters
        for item in section.value
    }


def options(target: str) -> dict[str, Any]:
    """The options of `REGISTRY.name` and their defaults (`inspect.Parameter.empty` if none)."""
    registry, _, name = target.partition(".")
    if registry == "METHODS":
        return methods.defaults_of(name)
    parameters = inspect.signature(REGISTRIES[registry][name]).parameters
    return {o: p.default for o, p in parameters.items() if o != "honest"}


def options_table(target: str, *others: str) -> str:
    """A Markdown table: each option of `REGISTRY.name`, its default and its meaning."""
    registry, _, name = target.partition(".")
    entry = REGISTRIES[registry][name]
    sources = [entry.build if registry == "METHODS" else entry, *map(_named, others)]
    texts = {o: text for source in reversed(sources) for o, text in described(source).items()}
    rows = []
    for option, default in options(target).items():
        if option not in texts:
            raise PluginError(f"{target}: no docstring describes {option}")
        rows.append([f"`{option}`", _default(default), texts[option].replace("|", "\\|")])
    if not rows:
        return "No options.\n"
    return tables.markdown_table(["option", "default", "meaning"], rows, markup=True)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    return f"`{value}`"


def _named(path: str) -> Callable:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# Settings.


def settings_table() -> str:
    """A Markdown table: each field of `RunConfig`, its default and its help."""
    rows = []
    for field in dataclasses.fields(farsign_jax.RunConfig):
        text = field.metadata["help"].replace("|", "\\|")
        default = "per method" if field.name == "step_size" else f"`{field.default}`"
        rows.append([f"`{field.name}`", default, field.metadata["group"], text])
    return tables.markdown_table(["field", "default", "about", "meaning"], rows, markup=True)


# Costs.


def costs_table() -> str:
    """A Markdown table: the work and memory of each method in the paper's setting."""
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
                "round" if entry.works_in_rounds else "answer",
                f"{system.worker.evaluations:,}",
                f"{simulation.bits_per_answer(system, problem):,}",
                _megabytes(server),
                _megabytes(worker),
            ]
        )
    header = ["method", "event", "evaluations per answer", "bits per answer"]
    return tables.markdown_table([*header, "server, MB", "worker, MB"], lines, markup=True)


def _megabytes(tree: Any) -> str:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return f"{size / 1e6:,.1f}" if size else "–"


# The reference of the library.


def modules_of(unit: str) -> list[str]:
    """The public modules of a package or of a top-level module, as dotted names."""
    folder = ROOT / layers.PACKAGE / unit
    if not folder.is_dir():
        return [f"{layers.PACKAGE}.{unit}"]
    paths = sorted(folder.rglob("*.py"), key=lambda path: (path.parent, path.name))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    public = [name for name in names if not re.search(r"_pb2|\._(?!_init__)", name)]
    return [name.removesuffix(".__init__") for name in public]


def api_pages() -> dict[str, str]:
    """From the title of each page of the reference to its Markdown.

    The top-level modules share one page; every package has a page with all of its modules.
    """
    units = [unit for row in layers.LAYERS[:-1] for unit in row]
    packages = [unit for unit in units if (ROOT / layers.PACKAGE / unit).is_dir()]
    modules = [m for unit in units if unit not in packages for m in modules_of(unit)]
    pages = {"Foundations": modules} | {unit: modules_of(unit) for unit in packages}
    return {title: _api_page(title, names) for title, names in pages.items()}


def _api_page(title: str, names: list[str]) -> str:
    heading = title if title == "Foundations" else f"`{layers.PACKAGE}.{title}`"
    lines = [f"# {heading}"]
    for name in names:
        lines.append(f"::: {name}")
        if (ROOT / name.replace(".", "/")).is_dir():  # members are shown where they are defined
            lines[-1] += "\n    options:\n      members: false"
    return "\n\n".join(lines) + "\n"


# Links.

# Pages link to measured tables and figures by their place in the repository, so that the links
# also work for those who read the pages there.
REPOSITORY = re.compile(r"\]\(\.\./\.\./([^)]+)\)")


def _site_link(match: re.Match[str]) -> str:
    for folder, here in MEASURED.items():
        if match[1].startswith(f"{folder}/"):
            return f"]({here}{match[1].removeprefix(folder)})"
    if match[1].startswith(f"{layers.PACKAGE}/") and match[1].endswith(".py"):
        return f"][{match[1].removesuffix('.py').replace('/', '.')}]"
    raise PluginError(f"{match[1]} is no part of the site: name it without a link")


# Mathematics.


def mathml(text: str, display: str) -> str:
    """Converts LaTeX to MathML; an unknown command is an error."""
    try:
        made = latex2mathml.converter.convert(text, display=display)
    except Exception as error:  # of many kinds
        raise PluginError(f"no MathML for {text!r}: {error}") from error
    made = made.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')  # norms
    if "\\" in made:
        raise PluginError(f"no MathML for {text!r}: unknown command in {made}")
    return made


ARITHMATEX = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL
)


# The functions that MkDocs calls.


def on_config(config: Any) -> Any:
    config["nav"].append({"API": [{t: f"api/{t.lower()}.md"} for t in api_pages()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    for title, text in api_pages().items():
        files.append(File.generated(config, f"api/{title.lower()}.md", content=text))
    for folder, here in MEASURED.items():
        for path in sorted((ROOT / folder).glob("*.[mp][dn]*")):
            uri = f"{here}/{path.name}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    def options_of(match: re.Match) -> str:
        return options_table(*match[1].split())

    markdown = re.sub(r"<!-- options: (.*?) -->", options_of, markdown)
    markdown = re.sub("<!-- settings -->", lambda _: settings_table(), markdown)
    markdown = re.sub("<!-- costs -->", lambda _: costs_table(), markdown)
    return REPOSITORY.sub(_site_link, markdown)


def on_page_content(content: str, **_: Any) -> str:
    def convert(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return mathml(html.unescape(match[2]).strip(), display)

    return ARITHMATEX.sub(convert, content)
