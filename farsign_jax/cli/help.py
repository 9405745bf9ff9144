"""What `--help` and `--helpfull` of a command say: from its docstring and its flags.

A docstring begins with one line that says what the command is for, has examples, indented and
beginning with `python -m`, and a paragraph that begins with `Writes`. The help of a flag begins
with a sentence that fits on a line.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 96


LEFT = 25  # columns of names, at most


REPEAT = "; repeat this option to specify a list of values"  # absl adds it


MOST = 44  # of a list of defaults, unless all is asked for


# Flags that are about one thing share a line.
TOGETHER = (
    ("dataset", "data_dir"),
    ("partition", "heterogeneity"),
    ("workers", "byzantine"),
    ("workers", "seed"),
    ("byzantine_placement", "timing_attack"),
    ("directions", "delta"),
    ("aggregators", "buffers"),
    ("step_size", "decay", "decay_every"),
    ("decay", "decay_every"),
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
    """The commands in a docstring, each with the lines it continues on, as they stand there."""
    found = re.findall(r"^ {4}(python -m (?:.*\\\n)*.*)$", doc, re.MULTILINE)
    return [re.sub(r"\n +", "\n    ", text) for text in found]


def asked(arguments: Sequence[str]) -> str | None:
    """`help` or `helpfull`, where a command line asks for it."""
    names = {"h": "help", "help": "help", "helpshort": "help", "helpfull": "helpfull"}
    words = (word.lstrip("-") for word in arguments if word.startswith("-"))
    return next((names[word] for word in words if word in names), None)


def text(kind: str, doc: str, flags: Any, groups: Groups, defaults: Mapping[str, Any]) -> str:
    """The whole answer to `--help` or `--helpfull`.

    Args:
        kind: "help", a screen; "helpfull", all of the docstring and of what flags say.
        doc: of the command's module.
        flags: an absl `FlagValues`.
        groups: its flags in the order in which they are shown, by heading.
        defaults: of flags that have none of their own.
    """
    full = kind == "helpfull"
    return "\n".join(
        [*(_whole(doc) if full else _head(doc)), "", *_flags(flags, groups, defaults, full)]
    )


def _whole(doc: str) -> list[str]:
    return doc.strip().splitlines()


def _head(doc: str) -> list[str]:
    """What it is for, two examples, and what it writes."""
    first, *rest = doc.strip().split("\n\n")
    lines = [" ".join(first.split()), ""]
    for example in examples(doc)[:2]:
        lines += textwrap.indent(example, "    ").splitlines()
    for paragraph in rest:
        plain = " ".join(paragraph.split())
        told = re.search(r"(?:^|(?<=[.!?] ))(Writes .*)$", plain)
        if told and not paragraph.startswith(" "):
            lines += ["", *textwrap.wrap(told[1], WIDTH)]
    return lines


def _flags(
    flags: Any, groups: Groups, defaults: Mapping[str, Any], full: bool
) -> Iterable[str]:
    rows = {heading: _rows(flags, names, defaults, full) for heading, names in groups.items()}
    longest = max((len(name) for each in rows.values() for name, _ in each), default=0)
    left = min(longest, LEFT)
    for heading, each in rows.items():
        if heading:
            yield heading
        for name, said in each:
            wrapped = textwrap.fill(
                said,
                WIDTH,
                initial_indent=f"  {name:{left}}  ",
                subsequent_indent=" " * (left + 4),
                break_on_hyphens=False,
                break_long_words=False,
            )
            yield wrapped
    if groups and not full:
        named = {"methods", "method", "attack", "attacks"} & {
            name for each in groups.values() for name in each
        }
        yield "--helpfull says more" + (
            ", python -m experiments.list all names" if named else ""
        )


def _rows(
    flags: Any, names: Sequence[str], defaults: Mapping[str, Any], full: bool
) -> list[tuple[str, str]]:
    """Names of flags that are told of together, and what is told of them."""
    left, rows = list(names), []
    while left:
        together = () if full else TOGETHER
        own = next((t for t in together if t[0] == left[0] and set(t) <= {*left}), left[:1])
        left = [name for name in left if name not in own]
        said = "; ".join(_said(flags[name], defaults.get(name), full) for name in own)
        rows.append((" ".join(f"--{name}" for name in own), said))
    return rows


def _said(flag: Any, default: Any, full: bool) -> str:
    """The first sentence of a flag's help, or all of it, and its default."""
    said = " ".join(flag.help.split()).removesuffix(REPEAT).rstrip(".")
    if not full:
        said = re.split(r"[.:;] ", said)[0]
        said = re.sub(r"^[A-Z](?=[a-z]| )", lambda first: first[0].lower(), said)
    value = flag.default if flag.default is not None else default
    if value is None or value is False or value == []:
        return said
    if not isinstance(value, list | tuple):
        return f"{said} ({value:g})" if isinstance(value, float) else f"{said} ({value})"
    names = [str(name) for name in value]
    while not full and len(names) > 1 and len(",".join(names)) > MOST:
        names = [*names[: -2 if names[-1] == "..." else -1], "..."]
    return f"{said} ({','.join(names)})"


# What Python and absl say of a value, and what a person would.
_SAID = {
    r"invalid literal for int\(\) with base 10: (.*)": r"a whole number is needed: got \1",
    r"could not convert string to float: (.*)": r"a number is needed: got \1",
    r"\('Non-boolean argument to boolean flag', (.*)\)": r"true or false is needed: got \1",
}


def plain(error: Exception) -> str:
    """A message about a flag, in one line."""
    text = " ".join(str(error).split())
    for theirs, ours in _SAID.items():
        text = re.sub(theirs, ours, text)
    return text
