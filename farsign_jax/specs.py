"""The grammar `name:option=value,...` in which commands and files name things with options."""

from typing import Any

import numpy as np

from farsign_jax.validation import require


def _number(text: str) -> Any:
    """A finite number, or the text itself."""
    try:
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text
    return value if np.isfinite(value) else text


def parse(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`name` or `name:option=value,...` as the name and its options."""
    name, _, rest = text.partition(":")
    options = []
    for item in filter(None, rest.split(",")):
        option, equals, value = item.partition("=")
        require(equals, f"options are option=value: got {item!r} in {text!r}")
        twice = option in dict(options)
        require(not twice, f"{option!r} is given twice in {text!r}")
        options.append((option, _number(value)))
    return name, tuple(options)
