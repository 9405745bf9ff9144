"""A griffe extension: the comment beside a field is its description.

For example `params: Array  # f32[d], the iterate`.
"""

import linecache
from typing import Any

import griffe


class Comments(griffe.Extension):
    """Turns the comment at the end of the line of a class attribute into its docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class:
            line = linecache.getline(str(attr.filepath), attr.lineno or 0)
            _, _, comment = line.partition("  # ")
            if comment:
                attr.docstring = griffe.Docstring(comment.strip(), parent=attr)
