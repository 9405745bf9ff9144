"""The grammar `name:option=value,...` in which flags, files and records name things.

Methods, attacks, aggregators, models, partitions, arrivals, rounds and timing attacks are all
written this way, as in `far_sign:step_size=0.02` or `alie:z=1.5,ddof=1`. `parse` splits such a
text, and `typed` gives each option the type that the factory of that name declares for it, so
that the same text means the same wherever it stands.
"""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from farsign_jax.validation import InvalidConfig, lookup, require

Parameters = dict[str, inspect.Parameter]


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Splits `name` or `name:option=value,...` into the name and the texts of its options.

    Raises:
        InvalidConfig: if an item has no `=`, or an option is given twice.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        option, equals, value = (part.strip() for part in item.partition("="))
        good = bool(option and equals and value)
        require(good, f"options are written option=value: got {item!r} in {text!r}")
        require(option not in options, f"{option!r} is given twice in {text!r}")
        options[option] = value
    return name.strip(), options


@functools.lru_cache(maxsize=256)
def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(factory)


def parameters(factory: Callable[..., Any], skip: int = 0) -> Parameters:
    """The options of a factory: its parameters without the first `skip`."""
    return dict(list(_signature(factory).parameters.items())[skip:])


def option(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> Parameters:
    """An option that no factory declares, as `parameters` would give it."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {name: inspect.Parameter(name, keyword, default=default, annotation=kind)}


def typed(name: str, options: Mapping[str, Any], known: Parameters) -> dict[str, Any]:
    """Options with the types that the parameters of these names declare.

    A parameter without an annotation, or with `Any`, has the type of its default; where that
    is None or missing, numbers are converted and every other text is left to the factory.
    Whole numbers stay `int` where a `float` is declared.

    Args:
        name: of what the options belong to, for messages.
        options: texts as from `parse`, or values that have a type already.
        known: the parameters that may be given.

    Raises:
        InvalidConfig: naming an option that does not exist, or a value of another type.
    """
    found = {}
    for key, value in options.items():
        require(known, f"{name} takes no options: got {key!r}")
        parameter = lookup(f"option of {name}", key, known)
        found[key] = _convert(name, key, value, *_kinds(parameter))
    return found


def extended(text: str, *options: str) -> str:
    """A text with further options, each of them written as option=value."""
    if not options:
        return text
    return text + ("," if ":" in text else ":") + ",".join(options)


def joined(
    name: str, given: Mapping[str, Any], more: Mapping[str, Any] | Iterable[tuple[str, Any]]
) -> tuple[tuple[str, Any], ...]:
    """Options from the text of a name, and those beside it, as pairs.

    Raises:
        InvalidConfig: if an option is given twice, or `more` is neither a dictionary nor pairs.
    """
    try:
        pairs = tuple(dict(more).items())
        size = len(pairs) if isinstance(more, Mapping) else len(tuple(more))
    except (TypeError, ValueError):
        rule = (
            f"the options of {name} are a dictionary or pairs of name and value: got {more!r}"
        )
        raise InvalidConfig(rule) from None
    found = (*given.items(), *pairs)
    once = size == len(pairs) and len(dict(found)) == len(found)
    require(once, f"an option of {name} is given twice: {', '.join(o for o, _ in found)}")
    return found


def number(value: Any) -> Any:
    """A finite `int` or `float` for a text that is one; everything else as it is."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            made = kind(value)
        except ValueError:
            continue
        return made if math.isfinite(made) else value
    return value


def _kinds(parameter: inspect.Parameter) -> tuple[set[Any], bool]:
    """The types that a parameter accepts, and whether any other text is left to the factory."""
    annotation, default = parameter.annotation, parameter.default
    unknown = annotation in (parameter.empty, Any)
    if not unknown:
        union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        members = typing.get_args(annotation) if union else (annotation,)
        return {m for m in members if m is not types.NoneType}, False
    if isinstance(default, bool | str) or (isinstance(default, int) and annotation is not Any):
        return {type(default)}, False
    return {float}, annotation is Any or default is parameter.empty


def _convert(name: str, option: str, value: Any, kinds: set[Any], lenient: bool) -> Any:
    """One value as one of these types."""
    simple = {typing.get_origin(kind) or kind for kind in kinds}
    literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
    choices = [choice for kind in literals for choice in typing.get_args(kind)]
    made = number(value)
    if bool in simple and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if not isinstance(made, bool):
        if isinstance(made, int) and simple & {int, float} and abs(made) < 2**31:
            return made
        if isinstance(made, float) and float in simple:
            return made
    if tuple in simple and isinstance(value, str):
        widths = value.split("x")
        if all(width.isdecimal() for width in widths):
            return tuple(map(int, widths))
    if choices:
        return lookup(f"{option} of {name}", str(value), {str(c): c for c in choices})
    if str in simple and isinstance(value, str | int | float):
        return str(value)
    if lenient or not simple & {int, float, bool, tuple, str}:
        return made
    raise InvalidConfig(f"{name} needs {_wanted(simple)} for {option}: got {made!r}")


def _wanted(simple: set[Any]) -> str:
    """The types in words."""
    if tuple in simple:
        return "whole numbers as in 256x128"
    if float in simple:
        return "a finite number"
    if int in simple:
        return "a whole number"
    return "true or false" if bool in simple else "a name"
