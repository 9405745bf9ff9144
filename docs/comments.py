"""The comment beside a field is its description: `params: Array  # f32[d], x`."""

import linecache
from typing import Any

import griffe


class Comments(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class:
            line = linecache.getline(str(attr.filepath), attr.lineno or 0)
            _, _, comment = line.partition("  # ")
            if comment:
                attr.docstring = griffe.Docstring(comment.strip(), parent=attr)
