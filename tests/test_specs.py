"""The grammar of names with options, and their types."""

from typing import Any, Literal

import pytest

from farsign_jax import specs
from farsign_jax.validation import InvalidConfig


def factory(
    first: Any,
    rate: float = 1.0,
    rank: int | None = None,
    name: str = "a",
    flag: bool = False,
    sizes: tuple[int, ...] = (),
    kind: Literal["left", "right"] = "left",
    anything: Any = None,
    bare=3,
):
    """Something with options of all types."""


KNOWN = specs.parameters(factory, skip=1)


def test_a_text_is_a_name_and_options():
    assert specs.parse("alie") == specs.parse("alie:") == ("alie", {})
    assert specs.parse("alie: z=1.5 , ddof=1") == ("alie", {"z": "1.5", "ddof": "1"})
    for text, message in (
        ("a:b", "options are written option=value: got 'b' in 'a:b'"),
        ("a:b=", "options are written option=value"),
        ("a:=1", "options are written option=value"),
        ("a:b=1,b=2", "'b' is given twice in 'a:b=1,b=2'"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            specs.parse(text)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("rate", "2", 2),
        ("rate", "1e-3", 0.001),
        ("rank", "3", 3),
        ("name", "5", "5"),
        ("name", "inf", "inf"),
        ("flag", "true", True),
        ("sizes", "16x8", (16, 8)),
        ("sizes", "16", (16,)),
        ("kind", "right", "right"),
        ("anything", "n-f-1", "n-f-1"),
        ("anything", "1e+1", 10.0),
        ("bare", "4", 4),
    ],
)
def test_options_have_the_types_of_the_factory(option, text, value):
    made = specs.typed("it", {option: text}, KNOWN)[option]
    assert made == value and type(made) is type(value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("rate", "x", "it needs a finite number for rate: got 'x'"),
        ("rate", "inf", "it needs a finite number for rate: got 'inf'"),
        ("rank", "1.5", "it needs a whole number for rank: got 1.5"),
        ("rank", True, "it needs a whole number for rank: got True"),
        ("flag", "maybe", "it needs true or false for flag: got 'maybe'"),
        ("sizes", "3xa", "it needs whole numbers as in 256x128 for sizes: got '3xa'"),
        ("kind", "up", "unknown kind of it 'up': known: left, right"),
        ("bare", "1.5", "it needs a whole number for bare: got 1.5"),
        ("rat", "1", "unknown option of it 'rat': did you mean 'rate'"),
    ],
)
def test_other_values_are_refused_by_name(option, value, message):
    with pytest.raises(InvalidConfig, match=message):
        specs.typed("it", {option: value}, KNOWN)


def test_without_options_there_is_nothing_to_give():
    with pytest.raises(InvalidConfig, match="it takes no options: got 'z'"):
        specs.typed("it", {"z": "1"}, {})
