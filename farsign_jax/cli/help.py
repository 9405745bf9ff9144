"""The answer to `--help` and `--helpfull` of a command, from its docstring and its flags.

A docstring begins with one line that says what the command is for. It has examples, which are
indented and begin with `python -m`, and a paragraph that begins with `Writes`. The help of a
flag consists of sentences, of which `--help` prints the first one.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 96
LEFT = 25  # columns of names, at most
REPEAT = "; repeat this option to specify a list of values"  # absl adds it
LONGEST = 38  # characters of a list of defaults in --help

# Flags that are related share a line.
TOGETHER = (
    ("dataset", "data_dir"),
    ("partition", "heterogeneity"),
    ("workers", "byzantine"),
    ("workers", "seed"),
    ("byzantine_placement", "timing_attack"),
    ("directions", "delta"),
    ("aggregators", "buffers"),
    ("aggregator", "buffers"),
    ("seeds", "preset"),
    ("decay", "decay_every"),
    ("delivery", "rounds"),
    ("events", "eval_every"),
    ("checkpoint_every", "max_parallel_runs"),
    ("processes", "process", "coordinator"),
    ("dry_run", "tensorboard"),
    ("repeats", "timed_events"),
    ("rate", "burst"),
    ("silence", "ping"),
    ("byzantine", "attack"),
)

Groups = Mapping[str, Sequence[str]]  # heading -> names of flags


def examples(doc: str) -> list[str]:
    """The commands in a docstring, each with the lines on which it continues."""
    found = re.findall(r"^ {4}(python -m (?:.*\\\n)*.*)$", doc, re.MULTILINE)
    return [re.sub(r"\n +", "\n    ", text) for text in found]


def asked(arguments: Sequence[str]) -> str | None:
    """`help` or `helpfull`, if a command line asks for it."""
    names = {"h": "help", "help": "help", "helpshort": "help", "helpfull": "helpfull"}
    words = (word.lstrip("-") for word in arguments if word.startswith("-"))
    return next((names[word] for word in words if word in names), None)


def text(kind: str, doc: str, flags: Any, groups: Groups, defaults: Mapping[str, Any]) -> str:
    """The whole answer to `--help` or `--helpfull`.

    Args:
        kind: "help", which fits on a screen; "helpfull", all of the docstring and of the help
            of the flags.
        doc: the docstring of the module of the command.
        flags: an absl `FlagValues`.
        groups: the flags to show, by heading and in order.
        defaults: of flags whose own default is None.
    """
    full = kind == "helpfull"
    head = doc.strip().splitlines() if full else _head(doc)
    return "\n".join([*head, "", *_flags(flags, groups, defaults, full)])


def _head(doc: str) -> list[str]:
    """What the command is for, two examples, and what it writes."""
    first, *rest = doc.strip().split("\n\n")
    lines = [" ".join(first.split()), ""]
    for example in examples(doc)[:2]:
        lines += textwrap.indent(example, "    ").splitlines()
    for paragraph in rest:
        plain = " ".join(paragraph.split())
        found = re.search(r"(?:^|(?<=[.!?] ))(Writes .*)$", plain)
        if found and not paragraph.startswith(" "):
            lines += ["", *textwrap.wrap(found[1], WIDTH)]
    return lines


def _flags(
    flags: Any, groups: Groups, defaults: Mapping[str, Any], full: bool
) -> Iterable[str]:
    """The lines about flags, with their headings."""
    rows = {heading: _rows(flags, names, defaults, full) for heading, names in groups.items()}
    longest = max((len(name) for each in rows.values() for name, _ in each), default=0)
    left = min(longest, LEFT)
    for heading, each in rows.items():
        if heading:
            yield heading
        for name, sentences in each:
            yield textwrap.fill(
                sentences,
                WIDTH,
                initial_indent=f"  {name:{left}}  ",
                subsequent_indent=" " * (left + 4),
                break_on_hyphens=False,
                break_long_words=False,
            )
    if groups and not full:
        shown = {name for each in groups.values() for name in each}
        registries = {"methods", "method", "attack", "attacks"} & shown
        names = ", python -m experiments.list prints all names" if registries else ""
        yield f"--helpfull prints more{names}."


def _rows(
    flags: Any, names: Sequence[str], defaults: Mapping[str, Any], full: bool
) -> list[tuple[str, str]]:
    """The names of flags that share a line, and what is printed beside them."""
    left, rows = list(names), []
    while left:
        together = () if full else TOGETHER
        own = next((t for t in together if t[0] == left[0] and set(t) <= {*left}), left[:1])
        left = [name for name in left if name not in own]
        sentences = " ".join(_help(flags[name], defaults.get(name), full) for name in own)
        rows.append((" ".join(f"--{name}" for name in own), sentences))
    return rows


def _help(flag: Any, default: Any, full: bool) -> str:
    """The first sentence of the help of a flag, or all of it, with the default."""
    sentences = " ".join(flag.help.split()).removesuffix(REPEAT)
    first, rest = re.match(r"(.*?)(?:\.(?: (.*))?)?$", sentences).groups()  # pyright: ignore
    value = flag.default if flag.default is not None else default
    if value is not None and value is not False and value != [] and value != "":
        first += f" ({_value(value, full)})"
    return f"{first}. {rest}" if full and rest else f"{first}."


def _value(value: Any, full: bool) -> str:
    """A default, of a long list its beginning."""
    if not isinstance(value, list | tuple):
        return f"{value:g}" if isinstance(value, float) else str(value)
    names = [str(name) for name in value]
    while not full and len(names) > 1 and len(",".join(names)) > LONGEST:
        names = [*names[: -2 if names[-1] == "..." else -1], "..."]
    return ",".join(names)


# Messages of Python and absl about a value, in plain words.
_PLAIN = {
    r"invalid literal for int\(\) with base 10: (.*)": r"a whole number is needed: got \1",
    r"could not convert string to float: (.*)": r"a number is needed: got \1",
    r"\('Non-boolean argument to boolean flag', (.*)\)": r"true or false is needed: got \1",
}


def plain(error: Exception) -> str:
    """A message about a flag, in one line."""
    text = " ".join(str(error).split())
    for theirs, ours in _PLAIN.items():
        text = re.sub(theirs, ours, text)
    return text
